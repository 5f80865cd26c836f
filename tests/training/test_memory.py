"""Passes, recomputed activations and the optimizer chosen by memory, on a cost made by hand and on small bases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdtool.errors import ResourceError
from cdtool.models import pipelines
from cdtool.settings import TrainSettings
from cdtool.training import memory, run
from tests import tiny_pipelines


def needed(settings):
    """1 GB, as much for the optimizer, and 1 GB for each image of a pass; half of that where it is recomputed."""
    images = settings.batch // settings.accumulate
    state = 0.5 if settings.optimizer == "factored" else 1
    return int(1e9 * (1 + state + images * (0.5 if settings.checkpointing else 1)))


@pytest.mark.parametrize(
    ("most", "accumulate", "checkpointing", "optimizer"),
    [(10.0, 1, False, "adamw"), (9.9, 2, False, "adamw"), (6.0, 2, False, "adamw"), (3.0, 8, False, "adamw"),
     (2.9, 8, True, "adamw"), (2.4, 8, True, "factored"), (2.0, 8, True, "factored")],
)  # fmt: skip
def test_passes_come_first_then_recomputing_and_the_optimizer_last(most, accumulate, checkpointing, optimizer):
    found = memory.fitted(TrainSettings(batch=8), needed, int(most * 1e9))
    assert (found.accumulate, found.checkpointing, found.optimizer) == (accumulate, checkpointing, optimizer)


def test_processes_share_the_images_of_a_pass():
    found = memory.fitted(TrainSettings(batch=8), lambda settings: 0 if settings.accumulate == 4 else 2, 1, world=2)
    assert found.accumulate == 4
    with pytest.raises(ResourceError):
        memory.fitted(TrainSettings(batch=8), lambda settings: 0 if settings.accumulate == 8 else 2, 1, world=2)


def test_the_choice_begins_at_what_the_user_chose():
    found = memory.fitted(TrainSettings(batch=8, accumulate=4, checkpointing=True), needed, int(10e9))
    assert (found.accumulate, found.checkpointing) == (4, True)


def test_one_image_too_large_is_an_error_with_the_bytes_it_takes():
    with pytest.raises(ResourceError, match=r"at least 2\.0 GB, one image at a time; 1\.9 GB") as caught:
        memory.fitted(TrainSettings(batch=8), needed, int(1.9e9))
    assert "--memory" in caught.value.hint


@pytest.fixture
def job(sd_base, tmp_path):
    photos = tiny_pipelines.photos(tmp_path / "photos", count=2)
    return run.prepare(photos, "V* dog", base=str(sd_base), prior="none", batch=4, precision="fp32")


def test_a_job_that_fits_is_left_as_it_is(job):
    assert memory.fit_job(job, "cpu") == (job, "")


def test_a_job_is_fitted_and_says_how(job):
    job = replace(job, settings=replace(job.settings, memory="0.701GB"))
    fitted, note = memory.fit_job(job, "cpu")
    assert fitted.settings.accumulate > 1
    assert f"--accumulate {fitted.settings.accumulate}" in note
    assert "of 0.7 GB" in note


def test_what_cannot_fit_is_said_before_anything_is_loaded(job, monkeypatch):
    monkeypatch.setattr(pipelines, "load", None)
    with pytest.raises(ResourceError, match=r"at least 0\.7 GB"):
        next(run.iter_train([photo.path for photo in job.groups[0]], token="V* dog", base=job.base, memory="100MB",
                            prior="none", device="cpu"))  # fmt: skip


def test_no_concept_carries_what_belongs_to_the_machine(job, sd_base):
    base = pipelines.load(str(sd_base), parts=("tokenizers",))
    settings = run.manifest_of(run.with_initializers(job, base), base).settings
    assert settings["accumulate"] == 1
    assert not {"memory", "vae"} & set(settings)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_sparing_base_trains_to_the_same_bits_and_holds_nothing_afterwards(job, precision):
    job = replace(job, settings=replace(job.settings, precision=precision, steps=2, crops=2))
    made = []
    for sparing in (False, True):
        base = pipelines.load(job.base, precision=precision, device="cpu", sparing=sparing)
        *_, last = run.train_job(job, base, force=True)
        made.append(last.tensors)
    assert (base.unet, base.vae) == (None, None)
    assert made[0].keys() == made[1].keys()
    assert all(made[0][name].equal(made[1][name]) for name in made[0])
