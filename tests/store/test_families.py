"""Families read from configuration files, and what is refused with its reason before a weight is read."""

from __future__ import annotations

import json

import pytest

from cdtool.errors import BaseError
from cdtool.store import families


def base(folder, index=None, unet=None, scheduler=None):
    """A base of configuration files alone, with changes to them."""
    parts = {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "text_encoder": ["transformers", "CLIPTextModel"],
        }
        | (index or {}),
        "unet/config.json": {"cross_attention_dim": 768, "in_channels": 4, "out_channels": 4} | (unet or {}),
        "scheduler/scheduler_config.json": {"_class_name": "PNDMScheduler"} | (scheduler or {}),
    }
    for name, table in parts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(table))
    return folder


@pytest.mark.parametrize(("width", "name"), [(768, "sd1"), (1024, "sd2"), (320, "sd")])
def test_the_text_width_tells_the_stable_diffusion_versions_apart(tmp_path, width, name):
    assert families.read(base(tmp_path, unet={"cross_attention_dim": width})).family.name == name


REFUSED = [
    ({"index": {"_class_name": "FluxPipeline"}}, "FluxPipeline.*text and image together"),
    ({"index": {"_class_name": "StableDiffusion3Pipeline"}}, "StableDiffusion3Pipeline.*together"),
    ({"index": {"_class_name": "PixArtSigmaPipeline"}}, "PixArtSigmaPipeline.*not CLIP"),
    ({"index": {"_class_name": "SanaPipeline"}}, "SanaPipeline.*not CLIP"),
    ({"index": {"_class_name": "StableDiffusionXLImg2ImgPipeline"}}, "Img2ImgPipeline.*refiner"),
    ({"index": {"_class_name": "LatentConsistencyModelPipeline"}}, "LatentConsistencyModelPipeline.*distilled"),
    ({"index": {"_class_name": "NewPipeline"}}, "NewPipeline.*cdtool knows StableDiffusionInpaintPipeline, "),
    ({"index": {"unet": ["diffusers", "UNet3DConditionModel"]}}, "UNet3DConditionModel"),
    ({"index": {"text_encoder": [None, None]}}, "no text_encoder"),
    ({"unet": {"in_channels": 8}}, "takes 8 channels and makes 4"),
    ({"unet": {"time_cond_proj_dim": 256}}, "distilled"),
    ({"scheduler": {"prediction_type": "sample"}}, 'predicts "sample"'),
    ({"scheduler": {"_class_name": "EDMEulerScheduler"}}, r"EDM preconditioning \(EDMEulerScheduler\)"),
    ({"scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler"}}, "flow-matching"),
    ({"scheduler": {"use_flow_sigmas": True}}, "flow-matching"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_a_base_is_refused_with_its_reason(tmp_path, changes, message):
    with pytest.raises(BaseError, match=message) as caught:
        families.read(base(tmp_path, **changes))
    assert caught.value.hint


def test_an_inpainting_base_samples_and_does_not_train(tmp_path):
    configs = families.read(base(tmp_path, unet={"in_channels": 9}))
    assert configs.inpainting
    with pytest.raises(BaseError, match='"mine" is an inpainting base') as caught:
        families.check_trainable("mine", configs)
    assert "--base mine --force" in caught.value.hint
    families.check_trainable("plain", families.read(base(tmp_path)))


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_a_missing_configuration_is_named(tmp_path, name):
    (base(tmp_path) / name).unlink()
    with pytest.raises(BaseError, match=name):
        families.read(tmp_path)
