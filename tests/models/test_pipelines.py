"""Bases loaded from tiny pipelines, and the K/V of the full-size denoisers counted on the meta device."""

from __future__ import annotations

import json
import shutil
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from cdtool.errors import BaseError, NotFoundError, SettingsError
from cdtool.models import denoiser, diffusion, pipelines
from cdtool.settings import Scheduler
from cdtool.store import families
from cdtool.store.concept import BaseRef
from cdtool.tokens import Token


@pytest.fixture
def copy(tmp_path):
    """A base's folder to spoil, with changes to its configurations: `copy(sd_base, unet={"sample_size": 16})`."""

    def make(folder, **changes):
        target = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folder, target)
        files = {"scheduler": "scheduler_config.json"}
        for part, values in changes.items():
            path = target / "model_index.json" if part == "index" else target / part / files.get(part, "config.json")
            path.write_text(json.dumps(json.loads(path.read_text()) | values))
        return target

    return make


def test_families_are_told_apart(sd_base, sdxl_base, copy):
    assert families.read(sd_base).family.name == "sd"
    assert families.read(copy(sd_base, unet={"cross_attention_dim": 768})).family.name == "sd1"
    assert families.read(copy(sd_base, unet={"cross_attention_dim": 1024})).family.name == "sd2"
    assert families.read(sdxl_base).family.name == "sdxl"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"index": {"_class_name": "FluxPipeline"}}, "FluxPipeline"),
        ({"scheduler": {"prediction_type": "sample"}}, 'predicts "sample"'),
    ],
)
def test_what_has_no_row_is_refused_in_one_sentence(sd_base, copy, cdtool, tmp_path, changes, words):
    folder = copy(sd_base, **changes)
    with pytest.raises(BaseError, match=words):
        pipelines.load(str(folder))
    if "scheduler" in changes:
        said = cdtool("sample", folder, "a dog")
        assert said.code == 4
        assert said.err.startswith("Error: ")


def test_a_folder_without_its_parts_is_refused(sd_base, copy):
    folder = copy(sd_base)
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(BaseError):
        pipelines.load(str(folder))
    with pytest.raises(NotFoundError):
        pipelines.load("no-such-base")


def test_a_loaded_base_is_frozen_and_knows_its_sizes(sd_base, sd_v_base, sdxl_base):
    plain, velocity, big = (pipelines.load(str(folder), precision="fp32") for folder in (sd_base, sd_v_base, sdxl_base))
    assert (plain.prediction, velocity.prediction) == ("epsilon", "v_prediction")
    assert (plain.resolution, plain.latent_factor) == (16, 2)
    assert len(big.text_encoders) == len(big.tokenizers) == 2
    for base in (plain, velocity, big):
        for module in (base.unet, base.vae, *base.text_encoders):
            assert not module.training
            assert not any(parameter.requires_grad for parameter in module.parameters())


def test_parts_that_were_not_asked_for_are_not_loaded(sd_base):
    base = pipelines.load(str(sd_base), parts=("text",))
    assert base.unet is None
    assert base.vae is None
    assert len(base.text_encoders) == 1
    assert base.kv


def test_the_fingerprint_is_of_the_weights_and_not_of_their_precision(sd_base, sd_v_base, copy):
    folder = copy(sd_base)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    full, half, other = (pipelines.load(str(folder)).fingerprint for folder in (sd_base, folder, sd_v_base))
    assert full == half
    assert full != other


def test_sharded_and_half_variant_folders_load_alike(sd_base, copy):
    whole = pipelines.load(str(sd_base), precision="fp32")
    sharded, variant = copy(sd_base), copy(sd_base)
    (sharded / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    whole.unet.save_pretrained(sharded / "unet", max_shard_size="30KB")
    assert len(denoiser.weight_files(sharded / "unet")) > 1
    for part in ("unet", "vae", "text_encoder"):
        path = next((variant / part).glob("*.safetensors"))
        half = {name: t.half() if t.is_floating_point() else t for name, t in load_file(path).items()}
        save_file(half, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        path.unlink()
    for folder in (sharded, variant):
        base = pipelines.load(str(folder), precision="fp32")
        assert base.fingerprint == whole.fingerprint
        assert base.unet.dtype == torch.float32
        for name, weight in base.unet.state_dict().items():
            torch.testing.assert_close(weight, whole.unet.state_dict()[name], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_truncated_weights_are_one_sentence(sd_base, copy, cdtool, part):
    folder = copy(sd_base)
    path = next((folder / part).glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    said = cdtool("sample", folder, "a dog", "--steps", 1, "-n", 1)
    assert said.code == 4
    first, hint = said.err.strip().splitlines()[-2:]
    assert first.startswith("Error: ")
    assert "Fetch" in hint
    assert said.out == ""


def test_a_missing_tokenizer_is_one_sentence(sd_base, copy, cdtool):
    folder = copy(sd_base)
    shutil.rmtree(folder / "tokenizer")
    assert cdtool("sample", folder, "a dog").code == 4


def test_weights_of_another_shape_are_one_sentence(sd_base, sdxl_base, copy, cdtool):
    folder = copy(sd_base, unet={"cross_attention_dim": 24})
    assert cdtool("sample", folder, "a dog").code == 4


# ---------------------------------------------------------------- precision


def test_half_precision_is_refused_on_a_cpu(sd_base, cdtool):
    with pytest.raises(SettingsError, match="CPU"):
        pipelines.load(str(sd_base), precision="fp16", device="cpu")
    assert cdtool("sample", sd_base, "a dog", "--precision", "fp16", "--device", "cpu").code == 2


def test_auto_is_bf16_where_the_hardware_has_it(monkeypatch):
    cpu = torch.device("cpu")
    for has, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has}, raising=False)
        assert pipelines.pick_dtype("auto", cpu)[0] == dtype
    assert pipelines.pick_dtype("fp32", cpu)[0] == torch.float32
    assert pipelines.pick_dtype("fp16", torch.device("cuda"))[0] == torch.float16


def test_a_device_that_is_not_here_is_one_sentence():
    with pytest.raises(SettingsError, match="nonsense"):
        pipelines.pick_device("nonsense")
    assert pipelines.pick_device("cpu").type == "cpu"


@pytest.mark.parametrize(("upcast", "dtype"), [(True, torch.float32), (False, torch.float16)])
def test_a_vae_that_overflows_in_half_precision_stays_in_full(sd_base, copy, upcast, dtype):
    folder = copy(sd_base, vae={"force_upcast": upcast})
    assert pipelines._vae(folder / "vae", torch.float16).dtype == dtype
    assert pipelines._vae(folder / "vae", torch.bfloat16).dtype == torch.bfloat16


# ---------------------------------------------------------------- schedulers


def test_a_config_without_clip_sample_does_not_clip(sd_base):
    base = pipelines.load(str(sd_base), parts=())
    assert "clip_sample" not in base.scheduler_config  # a PNDM config, as SD 1.x ships it
    for name in ("ddim", "ddpm"):
        assert diffusion.scheduler(base, name).config.clip_sample is False


@pytest.mark.parametrize("name", diffusion.SCHEDULERS)
def test_every_scheduler_keeps_the_noise_schedule_and_the_prediction(sd_v_base, name):
    base = pipelines.load(str(sd_v_base), parts=())
    config = diffusion.scheduler(base, name).config
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert config.prediction_type == "v_prediction"


def test_every_scheduler_of_the_settings_has_a_row():
    assert set(get_args(Scheduler)) == set(diffusion.SCHEDULERS)


def test_tokenizers_alone(sdxl_base):
    """What an import needs: no text encoder is loaded for it."""
    base = pipelines.load(str(sdxl_base), device="cpu", parts=("tokenizers",))
    assert len(base.tokenizers) == 2
    assert not base.text_encoders
    assert base.unet is None


@pytest.mark.parametrize(
    ("file", "content"),
    [("tokenizer/tokenizer_config.json", "null"), ("text_encoder/config.json", "[]"),
     ("unet/config.json", "null"), ("vae/config.json", "{")],
)  # fmt: skip
def test_a_damaged_component_is_one_sentence(sd_base, tmp_path, file, content):
    folder = shutil.copytree(sd_base, tmp_path / "base")
    (folder / file).write_text(content)
    with pytest.raises(BaseError) as caught:
        pipelines.load(str(folder), precision="fp32", device="cpu", parts=("unet", "vae", "text", "tokenizers"))
    assert len(str(caught.value)) < 500


def test_a_tokenizer_without_a_length_is_refused(sd_base, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(sd_base, folder)
    path = folder / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in config.items() if name != "model_max_length"}))
    with pytest.raises(BaseError, match="model_max_length"):
        pipelines.load_tokenizers(folder)


def test_a_schedule_that_diffusers_lacks_is_an_error_of_the_base(sd_base):
    base = pipelines.load(str(sd_base), device="cpu", parts=())
    base.scheduler_config["beta_schedule"] = "scaled_lOnear"
    with pytest.raises(BaseError, match="noise schedule"):
        diffusion.scheduler(base, "ddim")


def test_a_concept_with_another_number_of_token_ids_is_refused_on_its_own_base(sd_base, saved):
    base = pipelines.load(str(sd_base), device="cpu", parts=())
    reference = BaseRef("tiny", "sd", base.fingerprint)
    entry = saved("dog", base=reference, tokens=(Token("dog", initializer="ktn", ids=(7, 7)),))
    with pytest.raises(BaseError, match="other text encoders"):
        pipelines.check_base(entry, base)


def test_a_sparing_base_loads_what_is_needed_and_frees_what_is_done(sd_base):
    whole = pipelines.load(str(sd_base), precision="bf16", device="cpu")
    base = pipelines.load(str(sd_base), precision="bf16", device="cpu", sparing=True)
    assert (base.unet, base.vae, base.text_encoders) == (None, None, ())
    pipelines.need(base, "unet", "vae", "text")
    parts = ((one.unet, one.vae, one.text_encoders[0]) for one in (base, whole))
    for ours, theirs in zip(*parts, strict=True):
        wanted = theirs.state_dict()
        assert all(torch.equal(weight, wanted[name]) for name, weight in ours.state_dict().items())
    unet = base.unet
    pipelines.need(base, "unet")
    assert base.unet is unet
    pipelines.done(base, "vae", "text")
    assert (base.unet, base.vae, base.text_encoders) == (unet, None, ())
    pipelines.done(whole, "vae")
    assert whole.vae is not None
