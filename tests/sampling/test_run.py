"""sample from a notebook: concepts in all their forms, images that carry their records, and steps."""

from __future__ import annotations

import inspect

import handmade
import pytest
from PIL import Image

import cdtool
from cdtool.models import diffusion
from cdtool.sampling import records, run

QUICK = {"steps": 3, "precision": "fp32", "device": "cpu"}


def test_images_carry_prompt_seed_and_record_and_are_made_again_from_their_file(sd_base, tmp_path):
    dog = handmade.concept(sd_base)
    images = cdtool.sample(dog, ["a V* dog", "V* dog"], n=2, seed=5, **QUICK)
    assert [(image.prompt, image.seed) for image in images] == [
        ("a V* dog", 5), ("a V* dog", 6), ("V* dog", 5), ("V* dog", 6)
    ]  # fmt: skip
    assert all(isinstance(image, Image.Image) for image in images)
    assert images[0].record.subject == "dog"
    images[1].save(tmp_path / "one.png")
    images[1].convert("L").save(tmp_path / "grey.jpg")
    plan = run.replay(tmp_path / "one.png", device="cpu")
    (again,) = (image for step in run.run(plan) for image in step.images)
    assert again.tobytes() == images[1].tobytes()
    assert again.record == images[1].record
    assert images._repr_html_().count("<figure") == 4
    assert "a V* dog (5)" in images._repr_html_()


def test_a_concept_is_meant_by_itself_its_name_or_its_file(sd_base):
    dog = handmade.concept(sd_base)
    pixels = {cdtool.sample(one, "V* dog", n=1, **QUICK)[0].tobytes() for one in (dog, "dog", dog.path, "dog:1")}
    assert len(pixels) == 1
    assert cdtool.sample("dog:0.5", "V* dog", n=1, **QUICK)[0].tobytes() not in pixels


def test_steps_count_denoising_steps_and_bring_each_image_once(sd_base):
    steps = list(cdtool.iter_sample(str(sd_base), "a dog", n=3, batch=2, **QUICK))
    assert [step.done for step in steps] == [0, 2, 4, 6, 7, 8, 9]
    assert {step.total for step in steps} == {9}
    assert [len(step.images) for step in steps] == [0, 0, 0, 2, 0, 0, 1]
    extra = list(cdtool.iter_sample(str(sd_base), "a dog", n=1, scheduler="pndm", **QUICK))
    assert [step.done for step in extra] == [0, 1, 2, 3], "its extra steps are not counted"


def test_prompts_are_checked_before_anything_is_loaded_and_warned_of_once(sd_base, monkeypatch):
    handmade.concept(sd_base)
    handmade.concept(sd_base, "V* cat", name="cat")
    plan = run.plan("dog+cat", ["V1 dog and V2 cat", "V1 dog", "the beach"])
    first, second = plan.warnings()
    assert '"V1 dog" does not name "V2 cat"' in first
    assert '"the beach" names no token' in second
    warned = [step.warnings for step in cdtool.iter_sample("dog", "V* dog" + " dog" * 80, n=1, **QUICK)]
    assert "longer than the base reads" in warned[0][0]
    assert not any(warned[1:])
    (small,) = run.plan("dog", "v* dog").warnings()
    assert 'Is "V* dog" meant?' in small
    with pytest.raises(cdtool.TokenError, match="V3"):
        run.plan("dog", "V3 cat")
    with pytest.raises(cdtool.UsageError, match="no prompt"):
        run.plan("dog", [])


def test_options_without_effect_are_named(sd_base):
    handmade.concept(sd_base)

    def warned(**options):
        return run.plan("dog", "V* dog", **options).warnings()

    (eta,) = warned(eta=0.5, scheduler="euler")
    assert eta.startswith("--eta has no effect with --scheduler euler")
    (negative,) = warned(negative="a cat", guidance=0.5)
    assert negative.startswith("--negative has no effect with --guidance 0.5")
    for options in ({"scheduler": "euler"}, {"eta": 0.5}, {"guidance": 1.0}, {"negative": "a cat"}):
        assert warned(**options) == []


def test_eta_is_read_by_the_schedulers_that_take_it():
    import diffusers

    for name, row in diffusion.SCHEDULERS.items():
        taken = inspect.signature(getattr(diffusers, row.cls).step).parameters
        assert ("eta" in taken) is (name in run.WITH_ETA), name


def test_what_is_no_record_is_refused(tmp_path):
    with pytest.raises(cdtool.NotFoundError):
        records.read(tmp_path / "lost.png")
