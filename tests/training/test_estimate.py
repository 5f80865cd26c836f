"""What a training will cost, on shapes alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from cdtool import methods
from cdtool.methods import METHODS
from cdtool.models import denoiser, initializers, memory, pipelines, text
from cdtool.priors.sets import Generation
from cdtool.settings import TrainSettings
from cdtool.store.concept import Shape
from cdtool.tokens import Token
from cdtool.training import estimate as plan
from cdtool.training import trainable

CPU = torch.device("cpu")
MEASURED = {}


@pytest.fixture
def cost(sd_base, monkeypatch):
    """Estimate a run on the tiny base, on a machine of a thousand million operations per second."""
    monkeypatch.setattr(plan, "speed", lambda *_: 1e9)
    monkeypatch.setattr(plan, "CALL_SECONDS", 0)
    measure = plan._measure

    def once(unet, config, side, dtype, trained, features):
        key = (str(config), side, dtype, tuple(trained), features)
        if key not in MEASURED:
            MEASURED[key] = measure(unet, config, side, dtype, trained, features=features)
        return MEASURED[key]

    monkeypatch.setattr(plan, "_measure", once)

    def estimate(
        folder=sd_base,
        *,
        dtype=torch.float32,
        world=1,
        photos=3,
        priors=5,
        modifiers=1,
        earlier=0,
        start=None,
        **values,
    ):
        settings = replace(TrainSettings(steps=100, batch=4), **values)
        return plan.cost(folder, settings, photos=photos, priors=priors, modifiers=modifiers, device=CPU, dtype=dtype,
                         world=world, earlier=earlier, start=start)  # fmt: skip

    return estimate


def test_what_is_trained_is_counted_exactly(cost, sd_base, sdxl_base):
    for folder, encoders in ((sd_base, 1), (sdxl_base, 2)):
        base = pipelines.load(str(folder), parts=())
        found = cost(folder, modifiers=2)
        numbers = sum(weight.numel() for weight in base.kv.values())
        assert (found.matrices, found.numbers, found.embeddings) == (len(base.kv), numbers, 2 * encoders)
        width = next(iter(base.kv.values())).shape[1]
        assert found.concept_bytes == 2 * numbers + 2 * 4 * width


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_counted_as_it_is_trained(cost, sd_base, method):
    base = pipelines.load(str(sd_base), precision="fp32", device="cpu")
    defaults = {"rank": 3} | {k: v for k, v in METHODS[method].defaults.items() if k != "steps"}
    found = cost(method=method, **defaults)
    tokens = initializers.assign(base.tokenizers, [Token("dog")])
    with trainable.attached(base, tokens, TrainSettings(method=method, **defaults)) as trained:
        rows = [part.parameter for part in trained.parts if part.name.startswith("token")]
        weights = [part.parameter for part in trained.parts if part.name.startswith("unet")]
        made = trainable.changes(trained)
    assert found.numbers == sum(weight.numel() for weight in weights)
    assert found.embeddings == len(rows)
    assert found.matrices == len(weights) // (2 if method == "lora" else 1)
    assert found.concept_bytes == sum(tensor.nbytes for tensor in made.values())


def test_what_a_concept_brings_along_is_in_the_files_size(cost):
    start = {
        "unet.mid_block.attentions.0.proj_in.weight": Shape("F16", (16, 16)),
        "token.1.text_encoder": Shape("F32", (16,)),
    }
    alone, after = cost(), cost(earlier=1, start=start)
    assert after.concept_bytes - alone.concept_bytes == 16 * 16 * 2 + 16 * 4
    assert (after.numbers, after.embeddings) == (alone.numbers, alone.embeddings)


def test_training_all_weights_costs_more_of_everything(cost):
    kv, cross, full = (cost(method=method, dtype=torch.bfloat16) for method in ("kv", "crossattn", "full"))
    for name in ("numbers", "concept_bytes", "seconds", "memory"):
        assert getattr(kv, name) < getattr(cross, name) < getattr(full, name)
    # Beside AdamW's state, bf16 casts of all but K/V are in memory, and the base's own weights as ever.
    assert full.memory - kv.memory >= (full.numbers - kv.numbers) * (16 + 2)
    assert cost(method="textual-inversion").numbers == 0


def test_the_bank_holds_no_more_crops_than_are_drawn(cost):
    assert cost(crops=32).crops == 3 * 32 + 5 * 2
    assert cost(crops=32, steps=2).crops <= 2 * 4 + 5 * 2
    one = cost(crops=1)
    assert one.cache_bytes == one.crops * 2 * 4 * 8 * 8 * 4


def test_time_and_memory_follow_the_settings(cost):
    plain = cost()
    assert cost(steps=200).seconds == pytest.approx(2 * plain.seconds)
    assert cost(world=2).seconds == pytest.approx(plain.seconds / 2)
    assert cost(checkpointing=True).seconds > plain.seconds
    assert cost(checkpointing=True).memory < plain.memory
    assert cost(accumulate=4).memory < plain.memory
    assert cost(dtype=torch.bfloat16).memory < plain.memory
    assert cost(resolution=32).seconds > 2 * plain.seconds


@pytest.mark.parametrize(
    ("trained", "features", "backward"),
    [((), True, 2), (("two.weight",), False, 1), (("one.weight", "two.weight"), False, 3), (("one.weight",), True, 3)],
)
def test_operations_and_kept_activations_of_a_hand_made_net(trained, features, backward):
    """Two products of a [cells, d] by a [d, d]; a product again for every gradient that is wanted on the way."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)

        def forward(self, noisy, t, encoder_hidden_states, added_cond_kwargs):
            return self.two(F.relu(self.one(encoder_hidden_states)))

    config = {"cross_attention_dim": 6, "in_channels": 4}
    found = plan._measure(Net().to("meta"), config, 8, torch.bfloat16, trained, features=features)
    product = 2 * 77 * 6 * 6
    assert (found.forward, found.backward) == (2 * product, backward * product)
    assert found.calls > 10 + 2 * backward  # about ten forward, two a product backward and what it rests on
    assert found.kept in (77 * 6 * 2, 2 * 77 * 6 * 2)


def test_every_pass_costs_the_calls_of_its_operations(cost, monkeypatch):
    """They take as long however few pictures a process has."""
    computing = cost()
    monkeypatch.setattr(plan, "CALL_SECONDS", 1e-3)
    calling = cost().seconds - computing.seconds
    assert 100 * 100e-3 < calling < 100 * 10_000e-3
    assert cost(accumulate=2).seconds == pytest.approx(computing.seconds + 2 * calling)
    assert cost(world=2).seconds == pytest.approx(computing.seconds / 2 + calling)


def test_of_attention_only_what_the_fused_kernel_keeps_is_counted():
    """Its query, key and value of 64 cells and width 6, never the 64 by 64 weights."""

    class Net(nn.Module):
        def forward(self, noisy, t, encoder_hidden_states, added_cond_kwargs):
            cells = noisy.reshape(1, 6, 64).mT * encoder_hidden_states[:, :1]
            return F.scaled_dot_product_attention(cells, cells, value=cells)

    config = {"cross_attention_dim": 6, "in_channels": 6}
    found = plan._measure(Net().to("meta"), config, 8, torch.float32, (), features=True)
    cells = 64 * 6 * 4
    assert cells <= found.kept <= 5 * cells < 64 * 64 * 4
    assert found.forward == 2 * (2 * 64 * 64 * 6)


def test_the_speed_of_the_device_is_a_number():
    assert plan.speed(CPU, torch.float32, seconds=0.01) > 1e6


def test_a_full_size_config_needs_no_weights(cost, tmp_path, sd_base):
    from tiny_pipelines import SD1_UNET

    for part, table in (
        ("unet/config.json", SD1_UNET),
        ("vae/config.json", json.loads((sd_base / "vae/config.json").read_text())),
        ("scheduler/scheduler_config.json", json.loads((sd_base / "scheduler/scheduler_config.json").read_text())),
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}),
    ):
        path = tmp_path / "sd15" / part
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(table))
    unet = denoiser.empty_unet(SD1_UNET)
    named = {name: parameter.numel() for name, parameter in unet.named_parameters()}
    counts = {method: sum(named[name] for name in methods.trained(method, list(named), denoiser.text_kv(unet)))
              for method in METHODS}  # fmt: skip
    assert counts["crossattn"] == 43_962_560
    assert counts["full"] == counts["dreambooth"] == 859_520_964
    assert (counts["kv"], counts["textual-inversion"]) == (19_169_280, 0)
    found = cost(tmp_path / "sd15", dtype=torch.bfloat16)
    assert (found.matrices, found.numbers) == (32, 19_169_280)
    assert found.concept_bytes == 38_338_560 + 4 * 768
    # The activations of 4 images, and AdamW's state of the trained numbers; this folder has no files of weights.
    assert found.memory > 19_169_280 * 16 + memory.LIBRARY


@pytest.mark.parametrize("half", [False, True], ids=["fp32 files", "fp16 files"])
@pytest.mark.parametrize("name", ["sd_base", "sdxl_base"])
def test_frozen_weights_are_counted_as_they_lie_in_memory(name, half, request, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(request.getfixturevalue(name), folder)
    for path in folder.rglob("*.safetensors") if half else ():
        save_file({name: value.half() for name, value in load_file(path).items()}, path, metadata={"format": "pt"})
    base = pipelines.load(str(folder), precision="bf16", device="cpu")

    def held(*modules):
        return sum(weight.nbytes for module in modules for weight in module.parameters())

    assert memory.unet(folder, base.dtype) == held(base.unet)
    assert memory.autoencoder(folder / "vae", base.dtype) == held(base.vae)
    assert memory.text_encoders(folder, torch.float32) == held(*base.text_encoders)
    with text.in_compute_precision(base):
        biases = sum(layer.bias.numel() for encoder in base.text_encoders for layer in encoder.modules()
                     if isinstance(layer, nn.Linear) and layer.bias is not None)  # fmt: skip
        assert memory.text_encoders(folder, base.dtype) == held(*base.text_encoders) + 2 * biases


def test_images_without_guidance_take_half_the_time(sd_base, monkeypatch):
    monkeypatch.setattr(plan, "speed", lambda *_: 1e9)
    took = [plan.generation_seconds(sd_base, Generation(guidance=scale), CPU, torch.float32) for scale in (0, 1, 1.5)]
    assert took == [took[0], took[0], 2 * took[0]]
