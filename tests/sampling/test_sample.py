"""Pictures against those of the plain diffusers pipelines, and the checks before anything is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdtool.errors import ResourceError, SettingsError, TokenError
from cdtool.models import diffusion, pipelines
from cdtool.sampling import sample
from cdtool.settings import SampleSettings
from cdtool.tokens import Token, bind_weighted

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


def test_a_long_prompt_is_read_in_parts_beside_short_ones(sd, sd_base):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(sd_base, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = diffusion.scheduler(sd, "ddim")
    settings = replace(SETTINGS, count=1, scheduler="ddim")
    tail = "dog " * 75 + "cat on the beach"
    long, short = sample.generate(sd, [], [tail, "a cat"], settings)
    parts = [pipeline.encode_prompt(part, "cpu", 1, False)[0] for part in ("dog " * 75, "cat on the beach", "", "")]
    (wanted,) = pipeline(
        prompt_embeds=torch.cat(parts[:2], dim=1), negative_prompt_embeds=torch.cat(parts[2:], dim=1),
        num_inference_steps=settings.steps, guidance_scale=settings.guidance, eta=settings.eta,
        generator=torch.Generator().manual_seed(7),
    ).images  # fmt: skip
    difference = np.abs(np.asarray(long.image, dtype=np.int16) - np.asarray(wanted, dtype=np.int16))
    assert difference.max() <= 2
    (alone,) = sample.generate(sd, [], ["a cat"], settings)
    assert alone.image.tobytes() == short.image.tobytes()
    (cut,) = sample.generate(sd, [], ["dog " * 75], settings)
    assert cut.image.tobytes() != long.image.tobytes()


def test_a_prompt_is_as_long_as_the_negative_one(sd):
    sampler = sample.sampler(sd, [])
    short = sampler.encode(bind_weighted("a cat", ()))
    empty = sampler.encode(bind_weighted("", ()))
    filled = sampler.filled(short, 2)
    assert torch.equal(filled.condition.features, torch.cat([short.condition.features, empty.condition.features], 1))
    assert sampler.negative("dog " * 80).parts == 2
    assert sampler.negative("", 2).condition.features.shape == filled.condition.features.shape
    assert list(sample.generate(sd, [], ["a cat"], replace(SETTINGS, count=1, negative="dog " * 80)))


def test_a_negative_prompt_has_modifiers_and_weights(sd):
    token = Token("dog", initializer="ktn", ids=(9,))
    row = torch.randn(16, generator=torch.Generator().manual_seed(0))
    loaded = sample.adapter.ConceptWeights(embeddings=((row,),))
    sampler = sample.Sampler(sd, (loaded,), (token,), (0,), {})
    found = sampler.negative("(V* dog:1.3)")
    wanted = sampler.encode(bind_weighted("(V* dog:1.3)", [token]))
    assert torch.equal(found.condition.features, wanted.condition.features)
    assert not torch.equal(found.condition.features, sampler.negative("V* dog").condition.features)
    with pytest.raises(TokenError, match="V1"):
        sample.sampler(sd, []).negative("V1 dog")


def test_seeds_count_up_from_the_first_for_every_prompt(sd):
    drawn = list(sample.generate(sd, [], ["a dog", "a cat"], SETTINGS))
    assert [(item.prompt, item.seed) for item in drawn] == [("a dog", 7), ("a dog", 8), ("a cat", 7), ("a cat", 8)]


def test_sizes_are_whole_cells(sd):
    assert sample.image_size(sd, SampleSettings()) == (16, 16)
    assert sample.image_size(sd, SampleSettings(size="32x20")) == (32, 20)
    with pytest.raises(SettingsError, match="multiples of 4"):
        sample.image_size(sd, SampleSettings(size="32x18"))


def test_without_guidance_the_prompt_counts_and_the_negative_one_does_not(sd):
    """Guidance 0 draws what 1 draws: other images for other prompts, the same ones for any negative prompt."""
    settings = replace(SETTINGS, count=1, guidance=1.0)
    dog, beach = (one.image.tobytes() for one in sample.generate(sd, [], ["a dog", "the beach"], settings))
    assert dog != beach
    for negative in ("", "a cat", "dog " * 80):
        changed = replace(settings, guidance=0.0, negative=negative)
        assert [one.image.tobytes() for one in sample.generate(sd, [], ["a dog", "the beach"], changed)] == [dog, beach]


def test_a_batch_that_does_not_fit_is_sampled_in_smaller_ones(sd, monkeypatch):
    settings = SampleSettings(count=5, steps=2, batch=4)
    wanted = list(sample.generate(sd, (), ["a dog"], settings))
    plain, sizes = sample._denoise, []

    def denoise(sampler, batch, *rest):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        yield from plain(sampler, batch, *rest)

    monkeypatch.setattr(sample, "_denoise", denoise)
    steps = list(sample.steps(sd, (), ["a dog"], settings))
    found = [image for step in steps for image in step.images]
    assert sizes == [4, 2, 2, 1]
    assert [one.seed for one in found] == [one.seed for one in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert np.abs(np.asarray(ours.image, dtype=int) - np.asarray(theirs.image, dtype=int)).max() <= 1
    assert [text for step in steps for text in step.warnings] == ["Memory ran out; from here on 2 images at once."]
    assert [step.done for step in steps if step.images][-1] == steps[-1].total


def test_one_image_that_does_not_fit_is_an_error(sd, monkeypatch):
    def denoise(*_):
        raise MemoryError
        yield

    monkeypatch.setattr(sample, "_denoise", denoise)
    with pytest.raises(ResourceError, match="single image") as caught:
        list(sample.generate(sd, (), ["a dog"], SampleSettings(count=2, steps=1)))
    assert "resolution" not in caught.value.hint


def test_a_denoiser_freed_while_images_are_decoded_makes_the_same_images(sd_base):
    settings = SampleSettings(count=3, steps=2, batch=2)
    made = []
    for offload in (False, True):
        base = pipelines.load(str(sd_base), precision="fp32", device="cpu", sparing=True)
        base.offload = offload
        made.append(list(sample.generate(base, (), ["a dog"], settings)))
        assert (base.unet is None) == offload
    for one, other in zip(*made, strict=True):
        assert np.array_equal(np.asarray(one.image), np.asarray(other.image))
