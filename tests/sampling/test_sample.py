"""Pictures against those of the plain diffusers pipelines, and the checks before anything is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from cdtool.errors import SettingsError
from cdtool.models import diffusion, pipelines
from cdtool.sampling import sample
from cdtool.settings import SampleSettings

SETTINGS = SampleSettings(count=2, seed=7, steps=6, guidance=5.0, precision="fp32")


@pytest.fixture(scope="module")
def sd(sd_base):
    return pipelines.load(str(sd_base), precision="fp32", device="cpu")


@pytest.mark.parametrize(
    ("on", "name"),
    [("sd_base", name) for name in ("ddim", "dpm++", "dpm++-sde", "euler-a", "unipc")]
    + [(on, name) for on in ("sd_v_base", "sdxl_base") for name in ("ddim", "euler")],
)
def test_a_bare_base_draws_what_the_plain_pipeline_draws(request, on, name):
    """The same scheduler, steps and seeds; SDXL with its sizes and with zeros for the empty negative prompt."""
    import diffusers
    import torch

    folder = request.getfixturevalue(on)
    base = pipelines.load(str(folder), precision="fp32", device="cpu")
    settings = SampleSettings(**{**vars(SETTINGS), "scheduler": name})
    drawn = list(sample.generate(base, [], ["a dog on the beach"], settings))
    cls = diffusers.StableDiffusionXLPipeline if on == "sdxl_base" else diffusers.StableDiffusionPipeline
    pipeline = cls.from_pretrained(folder, **({"add_watermarker": False} if on == "sdxl_base" else {}))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = diffusion.scheduler(base, name)
    wanted = pipeline(
        "a dog on the beach", num_inference_steps=6, guidance_scale=5.0, eta=1.0, num_images_per_prompt=2,
        generator=[torch.Generator().manual_seed(seed) for seed in (7, 8)],
    ).images  # fmt: skip
    for found, image in zip(drawn, wanted, strict=True):
        difference = np.abs(np.asarray(found.image, dtype=np.int16) - np.asarray(image, dtype=np.int16))
        assert difference.max() <= 2
    assert [item.seed for item in drawn] == [7, 8]


def test_seeds_count_up_from_the_first_for_every_prompt(sd):
    drawn = list(sample.generate(sd, [], ["a dog", "a cat"], SETTINGS))
    assert [(item.prompt, item.seed) for item in drawn] == [("a dog", 7), ("a dog", 8), ("a cat", 7), ("a cat", 8)]


def test_sizes_are_whole_cells(sd):
    assert sample.image_size(sd, SampleSettings()) == (16, 16)
    assert sample.image_size(sd, SampleSettings(size="32x20")) == (32, 20)
    with pytest.raises(SettingsError, match="multiples of 4"):
        sample.image_size(sd, SampleSettings(size="32x18"))
