"""Single-file checkpoints: converted weights and configurations against the models the files were made of."""

from __future__ import annotations

import json
from pathlib import Path

import ldm_files
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipelines import SD1_UNET, SDXL_UNET

from cdtool.errors import BaseError, NotFoundError
from cdtool.models import denoiser, pipelines
from cdtool.store import bases, checkpoints, families, ldm, single_file, subject


def outputs(kind, unet, vae, texts):
    """What the components make of a fixed input."""
    torch.manual_seed(0)
    ids = torch.tensor([[510, 320, 192, 511, 511]])
    noisy, features, added = torch.randn(1, 4, 16, 16), torch.randn(1, 5, unet.config.cross_attention_dim), None
    if kind == "sdxl":
        added = {"text_embeds": torch.randn(1, 64), "time_ids": torch.ones(1, 6)}
    with torch.no_grad():
        made = [unet(noisy, 7, encoder_hidden_states=features, added_cond_kwargs=added).sample]
        made += [vae.decode(noisy).sample, vae.encode(torch.randn(1, 3, 32, 32)).latent_dist.mean]
        made += [encoder(ids).last_hidden_state for encoder in texts]
        made += [pooled for encoder in texts if (pooled := getattr(encoder(ids), "text_embeds", None)) is not None]
    return made


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_every_component_computes_what_the_one_in_the_file_did(tmp_path, kind):
    path = ldm_files.write(tmp_path / "model.safetensors", kind, dtype=torch.float32)
    base = pipelines.load(str(path), precision="fp32", device="cpu")
    assert base.resolution == 64
    found = outputs(kind, base.unet, base.vae, base.text_encoders)
    for ours, theirs in zip(found, outputs(kind, *ldm_files.parts(kind)), strict=True):
        assert torch.equal(ours, theirs)
    assert {"sd1": "sd", "sd2": "sd", "sdxl": "sdxl"}[kind] == base.family.name  # small widths are of no version
    ids = base.tokenizers[0]("a photo of a dog", padding="max_length").input_ids
    assert ids[:8] == [49406, 320, 1125, 539, 320, 1929, 49407, {"sd2": 0}.get(kind, 49407)]


def test_half_precision_is_copied_byte_for_byte(tmp_path):
    path = ldm_files.write(tmp_path / "model.safetensors", "sd2", dtype=torch.bfloat16)
    stored = load_file(bases.locate(str(path)) / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(stored["conv_in.weight"], load_file(path)["model.diffusion_model.input_blocks.0.0.weight"])


@pytest.mark.parametrize(
    ("config", "heads", "pooled"), [(SD1_UNET, 8, None), (SDXL_UNET, None, 1280)], ids=["sd15", "sdxl"]
)
def test_the_public_configurations_follow_from_the_shapes(config, heads, pooled):
    unet = denoiser.empty_unet(config)
    shapes = {name: tuple(value.shape)
              for name, value in ldm_files.moved(unet.state_dict(), ldm_files.unet_pairs(unet)).items()}  # fmt: skip
    found = ldm.unet_config(shapes, heads=heads, pooled=pooled)
    again = denoiser.empty_unet(found)
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in unet.state_dict().items()
    }
    differ = {name for name in config if name != "sample_size" and found.get(name) != config[name]}
    assert differ <= {"transformer_layers_per_block"}  # of a block without attention, where it says nothing
    assert {ldm.unet_name(name, 2) for name in shapes} == set(unet.state_dict())


@pytest.mark.parametrize(
    ("kind", "options", "prediction", "zero_snr"),
    [
        ("sd1", {}, "epsilon", False),
        ("sdxl", {"marks": ("v_pred",)}, "v_prediction", False),
        ("sdxl", {"marks": ("v_pred", "ztsnr")}, "v_prediction", True),
        ("sdxl", {"metadata": {"modelspec.prediction_type": "v"}}, "v_prediction", False),
        ("sd2", {"metadata": {"modelspec.prediction_type": "epsilon"}}, "epsilon", False),
    ],
)
def test_the_prediction_is_read_from_the_marks_and_the_metadata(tmp_path, kind, options, prediction, zero_snr):
    path = ldm_files.write(tmp_path / "model.safetensors", kind, **options)
    schedule = families.read(bases.locate(str(path))).scheduler
    assert schedule["prediction_type"] == prediction
    assert schedule.get("rescale_betas_zero_snr", False) is zero_snr
    assert schedule["timestep_spacing"] == ("trailing" if zero_snr else "leading")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("spread", "prediction"), [(0.02, "epsilon"), (0.2, "v_prediction")])
def test_stable_diffusion_2_is_told_by_the_spread_of_one_bias(tmp_path, spread, prediction, dtype):
    path = tmp_path / "model.safetensors"
    name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"  # the real one has twelve blocks
    save_file({name: (torch.randn(320) * spread).to(dtype)}, path)
    tensors, metadata = checkpoints.read_header(path)
    tensors["model.diffusion_model.input_blocks.0.0.weight"] = tensors[name]._replace(shape=(320, 4, 3, 3))
    layout = next(row for row in checkpoints.LAYOUTS if row.kind == "SD 2.x")
    assert checkpoints.prediction_of(layout, path, tensors, metadata) == prediction


def test_an_inpainting_checkpoint_is_recognised(tmp_path):
    path = ldm_files.write(tmp_path / "model.safetensors", in_channels=9)
    assert families.read(bases.locate(str(path))).inpainting


def without(table, start):
    return {name: value for name, value in table.items() if not name.startswith(start)}


SPOILED = {
    "has no autoencoder": lambda table: without(table, "first_stage_model."),
    "denoiser without text encoders": lambda table: without(table, "cond_stage_model."),
    "incomplete": lambda table: without(table, "cond_stage_model.transformer.text_model.embeddings.token"),
    "SDXL refiner": lambda table: without(table, "cond_") | {"conditioner.embedders.0.model.ln": table["ones"]},
    "EDM": lambda table: table | {"edm_mean": table["ones"]},
    "LoRA": lambda table: {"lora_unet_mid.lora_up.weight": table["ones"]},
    "Flux": lambda table: {"model.diffusion_model.double_blocks.0.img_mod.lin.weight": table["ones"]},
    "F8_E4M3": lambda table: table | {"betas": table["ones"].to(torch.float8_e4m3fn)},
    "uneven": lambda table: without(table, "model.diffusion_model.middle_block.1.transformer_blocks.0.")
    | {"model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(64, 64),
       "model.diffusion_model.middle_block.1.transformer_blocks.1.attn2.to_k.weight": torch.zeros(64, 64),
       "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(64, 64)},
}  # fmt: skip


@pytest.mark.parametrize("message", SPOILED)
def test_what_is_no_usable_checkpoint_says_what_it_is(tmp_path, message):
    path = ldm_files.write(tmp_path / "model.safetensors")
    table = SPOILED[message](load_file(path) | {"ones": torch.ones(1)})
    save_file({name: value.clone() for name, value in table.items()}, path)
    with pytest.raises(BaseError, match=message) as caught:
        bases.locate(str(path))
    assert str(path) in str(caught.value)
    assert not list((single_file.cache_dir() / "bases").glob("*-1"))


def test_a_flow_model_is_refused_by_its_metadata(tmp_path):
    path = ldm_files.write(tmp_path / "model.safetensors", metadata={"modelspec.prediction_type": "flow_matching"})
    with pytest.raises(BaseError, match="flow-matching"):
        bases.locate(str(path))


@pytest.mark.parametrize("content", [b"", b"no weights", b"\xff" * 64])
def test_a_damaged_file_is_one_sentence(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(BaseError, match="damaged"):
        bases.locate(str(path))


def test_a_file_is_hashed_and_converted_once(tmp_path, monkeypatch):
    path = ldm_files.write(tmp_path / "model.safetensors")
    folder = bases.locate(str(path))
    monkeypatch.setattr(single_file, "_convert", None)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(path.read_bytes())
    assert bases.locate(str(copy)) == folder
    monkeypatch.setattr(single_file.hashlib, "file_digest", None)
    assert bases.locate(str(path)) == bases.locate(str(copy)) == folder


def test_a_pickled_checkpoint_is_read_as_weights_and_nothing_else(tmp_path):
    path = ldm_files.write(tmp_path / "model.safetensors")
    torch.save({"state_dict": load_file(path), "global_step": 3}, tmp_path / "model.ckpt")
    ours = bases.locate(str(tmp_path / "model.ckpt"))
    theirs = bases.locate(str(path))
    for part in ("unet", "vae", "text_encoder"):
        (one,), (other,) = (list((folder / part).glob("*.safetensors")) for folder in (ours, theirs))
        assert load_file(one).keys() == load_file(other).keys()
    torch.save({"state_dict": Path("code")}, tmp_path / "code.ckpt")
    with pytest.raises(BaseError, match="more than weights"):
        bases.locate(str(tmp_path / "code.ckpt"))


def test_a_path_to_a_checkpoint_is_a_base_and_not_a_hub_id(tmp_path, monkeypatch):
    ldm_files.write(tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path.parent)
    name = f"{tmp_path.name}/model.safetensors"
    assert not bases.is_name(name)
    assert subject.find(name).base == name


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_an_autoencoder_of_ones_own_is_used_in_place_of_the_bases(tmp_path, prefix):
    path = ldm_files.write(tmp_path / "model.safetensors", "sd1", dtype=torch.float32)
    unet, vae, texts = ldm_files.parts("sd1")
    with torch.no_grad():
        for weight in vae.parameters():
            weight.mul_(1.1)
    table = {name.replace("first_stage_model.", prefix): value.contiguous()
             for name, value in ldm_files.weights("sd1", unet, vae, texts).items()
             if name.startswith("first_stage_model.")}  # fmt: skip
    own = tmp_path / "vae.safetensors"
    save_file(table, own)
    base = pipelines.load(str(path), precision="fp32", device="cpu", parts=("vae",), vae=str(own))
    noisy = torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        assert torch.equal(base.vae.decode(noisy).sample, vae.decode(noisy).sample)
    assert base.vae.config.scaling_factor == 0.18215
    assert bases.locate_vae(str(base.vae_folder), base.folder) == base.vae_folder  # a folder is taken as it is


def test_what_is_no_autoencoder_for_a_base_is_refused(tmp_path, sd_base):
    path = ldm_files.write(tmp_path / "model.safetensors", "sd1")
    with pytest.raises(NotFoundError, match="no autoencoder"):
        bases.locate_vae(str(tmp_path / "nothing"), sd_base)
    save_file({"unet.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(BaseError, match="no autoencoder"):
        bases.locate_vae(str(tmp_path / "other.safetensors"), sd_base)
    small = bases.locate_vae(str(path), sd_base)  # a whole checkpoint will do: its autoencoder is taken
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"latent_channels": 16}))
    with pytest.raises(BaseError, match="other latents"):
        bases.locate_vae(str(small), sd_base)
