"""What a training will cost, on shapes alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cdtool import base as bases
from cdtool import plan
from cdtool.settings import TrainSettings

CPU = torch.device("cpu")


@pytest.fixture
def cost(sd_base, monkeypatch):
    """Estimate a run on the tiny base, on a machine of a thousand million operations per second."""
    monkeypatch.setattr(plan, "speed", lambda *_: 1e9)
    measure, known = plan._measure, {}

    def once(unet, config, side, dtype):
        key = (str(config), side, dtype)
        if key not in known:
            known[key] = measure(unet, config, side, dtype)
        return known[key]

    monkeypatch.setattr(plan, "_measure", once)

    def estimate(folder=sd_base, *, dtype=torch.float32, world=1, photos=3, priors=5, modifiers=1, **values):
        settings = replace(TrainSettings(steps=100, batch=4), **values)
        return plan.cost(folder, settings, photos=photos, priors=priors, modifiers=modifiers, device=CPU, dtype=dtype,
                         world=world)  # fmt: skip

    return estimate


def test_what_is_trained_is_counted_exactly(cost, sd_base, sdxl_base):
    for folder, encoders in ((sd_base, 1), (sdxl_base, 2)):
        base = bases.load(str(folder), parts=())
        found = cost(folder, modifiers=2)
        numbers = sum(weight.numel() for weight in base.kv.values())
        assert (found.matrices, found.numbers, found.rows) == (len(base.kv), numbers, 2 * encoders)
        width = next(iter(base.kv.values())).shape[1]
        assert found.concept_bytes == 2 * numbers + 2 * 4 * width


def test_the_bank_holds_no_more_crops_than_are_drawn(cost):
    assert cost(crops=32).crops == 3 * 32 + 5 * 2
    assert cost(crops=32, steps=2).crops <= 2 * 4 + 5 * 2
    one = cost(crops=1)
    assert one.bank_bytes == one.crops * 2 * 4 * 8 * 8 * 4


def test_time_and_memory_follow_the_settings(cost):
    plain = cost()
    assert cost(steps=200).seconds == pytest.approx(2 * plain.seconds)
    assert cost(world=2).seconds == pytest.approx(plain.seconds / 2)
    assert cost(checkpointing=True).seconds > plain.seconds
    assert cost(checkpointing=True).memory < plain.memory
    assert cost(accumulate=4).memory < plain.memory
    assert cost(dtype=torch.bfloat16).memory < plain.memory
    assert cost(resolution=32).seconds > 2 * plain.seconds


def test_operations_and_kept_activations_of_a_hand_made_net():
    """Two products of a [cells, d] by a [d, d]: 2 * 2 * cells * d * d operations."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)

        def forward(self, noisy, t, encoder_hidden_states, added_cond_kwargs):
            return self.two(F.relu(self.one(encoder_hidden_states)))

    config = {"cross_attention_dim": 6, "in_channels": 4}
    flops, kept = plan._measure(Net().to("meta"), config, 8, torch.float32)
    assert flops == 2 * 2 * 77 * 6 * 6
    assert kept >= 77 * 6 * 4


def test_the_speed_of_the_device_is_a_number():
    assert plan.speed(CPU, torch.float32, seconds=0.01) > 1e6


def test_a_full_size_config_needs_no_weights(cost, tmp_path, sd_base):
    from test_base import SD1_UNET

    for part, table in (
        ("unet/config.json", SD1_UNET),
        ("vae/config.json", {"block_out_channels": [128, 256, 512, 512]}),
        ("scheduler/scheduler_config.json", json.loads((sd_base / "scheduler/scheduler_config.json").read_text())),
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}),
    ):
        path = tmp_path / "sd15" / part
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(table))
    found = cost(tmp_path / "sd15", dtype=torch.bfloat16)
    assert (found.matrices, found.numbers) == (32, 19_169_280)
    assert found.concept_bytes == 38_338_560 + 4 * 768
    # 859.5 M frozen numbers in bf16, and AdamW's state of the trained ones
    assert found.memory > 859_520_964 * 2 + 19_169_280 * 16
