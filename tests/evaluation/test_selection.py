"""The knee on hand-made curves, and a training that is picked from on the tiny base."""

from __future__ import annotations

import pytest

from cdtool.errors import InterruptedRun
from cdtool.evaluation import selection
from cdtool.evaluation.selection import CheckpointScore
from cdtool.models import encoders, pipelines
from cdtool.store import registry
from cdtool.store.concept import read_tensors
from cdtool.training import job as jobs
from cdtool.training import run


def curve(*points):
    return [CheckpointScore(10 * place, text, image) for place, (text, image) in enumerate(points)]


@pytest.mark.parametrize(
    ("points", "step"),
    [
        ([(0.9, 0.5), (0.89, 0.7), (0.85, 0.75), (0.7, 0.77)], 10),  # it bends early: most image for hardly any text
        ([(0.9, 0.5), (0.89, 0.52), (0.88, 0.74), (0.7, 0.77)], 20),
        ([(0.9, 0.5), (0.8, 0.6), (0.7, 0.7), (0.6, 0.8)], 10),  # all on the chord: the earliest
        ([(0.9, 0.5), (0.85, 0.6), (0.82, 0.8), (0.6, 0.75)], 20),  # behind the best image nothing is gained
        ([(0.9, 0.5), (0.9, 0.6), (0.905, 0.7), (0.9, 0.8)], 30),  # text is as good as level: its noise does not decide
        ([(0.9, 0.5), (0.95, 0.6), (0.99, 0.7)], 20),  # no trade-off at all
    ],
)
def test_the_knee_is_the_farthest_from_the_chord(points, step):
    assert selection.knee(curve(*points)).step == step


def test_the_knee_is_the_farthest_from_the_chord_by_geometry_too():
    points = [(1.0, 0.0), (0.95, 0.3), (0.8, 0.75), (0.5, 0.9), (0.0, 1.0)]
    (x0, y0), (x1, y1) = points[0], points[-1]
    apart = [abs((x1 - x0) * (y0 - y) - (x0 - x) * (y1 - y0)) for x, y in points]
    assert selection.knee(curve(*points)).step == 10 * apart.index(max(apart))


def test_the_base_itself_is_never_picked():
    assert selection.knee(curve((0.9, 0.8), (0.7, 0.6), (0.6, 0.5))).step == 10


@pytest.mark.parametrize(
    ("steps", "count", "kept"), [(250, 5, (50, 100, 150, 200, 250)), (3, 5, (1, 2, 3)), (7, 2, (4, 7))]
)
def test_checkpoints_are_evenly_spaced(steps, count, kept):
    assert selection.checkpoint_steps(steps, count) == kept


@pytest.fixture
def work(sd_base, tmp_path, monkeypatch):
    """A training of four steps on the tiny base, and an encoder that tells pictures apart by their mean colour."""
    import numpy as np
    import tiny_pipelines

    def seen(images):
        made = np.array([np.asarray(image, dtype=np.float32).mean(axis=(0, 1)) + 1 for image in images])
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def told(texts):
        return np.tile(np.float32([[1, 0, 0]]), (len(texts), 1))

    spec = encoders.EncoderSpec("colour", "colour", 0.0)
    monkeypatch.setattr(encoders, "load", lambda *_: encoders.Encoder(spec, told, seen))
    monkeypatch.setattr(selection, "DRAWING", {"count": 1, "steps": 1, "size": "16x16"})
    flags = {"steps": 4, "batch": 2, "prior": "none", "crops": 2, "lr": 1e-2}
    return jobs.job([tiny_pipelines.photos(tmp_path / "dog")], ["V* dog"], name="dog", base=str(sd_base), flags=flags)


def trained(work, **more):
    base = pipelines.load(work.base, precision="fp32", device="cpu")
    for _ in selection.train_job(work, base, 2, **more):
        pass
    return base


def test_snapshots_do_not_change_the_training_and_hold_what_fewer_steps_make(work, monkeypatch):
    from dataclasses import replace

    base = trained(work)
    whole = read_tensors(registry.find("dog").path)
    (path,) = selection._folder("dog").iterdir()
    half = read_tensors(path)
    for name, steps, expected in (("plain", 4, whole), ("short", 2, half)):
        job = replace(work, name=name, settings=replace(work.settings, steps=steps))
        for _ in run.train_job(job, base):
            pass
        found = read_tensors(registry.find(name).path)
        assert all(bool((found[key] == expected[key]).all()) for key in expected)


def test_the_kept_checkpoint_tells_why(work, monkeypatch):
    base = trained(work)
    half = read_tensors(next(selection._folder("dog").iterdir()))
    scores = {0: (0.9, 0.5), 2: (0.88, 0.8), 4: (0.6, 0.85)}
    ordered = iter(scores.values())
    monkeypatch.setattr(selection, "_score", lambda *_: next(ordered))
    *stages, picked = selection.choose(work, base)
    assert [stage.step for stage in stages] == [0, 2, 4]
    assert picked.step == 2
    entry = registry.find("dog")
    assert entry.manifest.settings["steps"] == 2
    assert entry.manifest.report["pick"]["of"] == 4
    assert selection.scores_of_checkpoints(entry) == tuple(stages)
    found = read_tensors(entry.path)
    assert all(bool((found[name] == half[name]).all()) for name in half)
    assert registry.note("dog")["photos"]
    assert not selection._folder("dog").exists()


def test_checkpoints_are_scored_as_they_draw(work):
    base = trained(work)
    *stages, picked = selection.choose(work, base)
    assert len({stage.image for stage in stages}) == 3
    assert picked.prompts == len(selection.held_out(work, base)) == 4, "without the photos' own caption"


def test_stopping_keeps_what_the_last_step_made(work):
    base = trained(work)
    before = registry.find("dog").path.read_bytes()
    with pytest.raises(InterruptedRun, match="dog"):
        list(selection.choose(work, base, stop=lambda: True))
    assert registry.find("dog").path.read_bytes() == before


def test_a_resumed_training_keeps_its_earlier_checkpoints(work):
    from dataclasses import replace

    work = replace(work, settings=replace(work.settings, save_every=3))
    asked = iter([False] * 3 + [True] * 9)  # after banking and two steps: it stops at the third
    with pytest.raises(InterruptedRun):
        trained(work, stop=lambda: next(asked))
    assert [path.stem for path in selection._folder("dog").iterdir()] == ["000002"]
    trained(work, resume=True)
    assert [path.stem for path in selection._folder("dog").iterdir()] == ["000002"]
