"""A suite run, killed and gone on with, on the tiny base."""

from __future__ import annotations

import pytest
import suite_made

from cdtool.errors import InterruptedRun, NotFoundError, UsageError
from cdtool.research import run as suites
from cdtool.store import registry
from cdtool.store.concept import read_tensors
from cdtool.training import run as studies


@pytest.fixture
def path(tmp_path, monkeypatch):
    suite_made.see_colours(monkeypatch)
    return suite_made.write(tmp_path)


@pytest.fixture
def trained(monkeypatch):
    """The names of what is trained, in order."""
    names, train = [], studies.train_job

    def noted(work, *rest, **more):
        names.append(work.name)
        return train(work, *rest, **more)

    monkeypatch.setattr(studies, "train_job", noted)
    return names


def planned(path, base, **more):
    return suites.plan(suites.find(str(path)), base=str(base), out=path.parent / "out", **more)


def done(events):
    return [(event.kind, event.cell) for event in events if event.kind in ("kept", "cell")]


def test_a_killed_run_goes_on_at_the_last_finished_cell(path, wide_base, trained):
    asked = planned(path, wide_base)
    run = suites.run(asked)
    first = next(run)
    counted = 0
    for event in run:
        counted += 1
        if (event.kind, event.cell) == ("cell", "routed.dog+cat"):
            break
    run.close()
    assert trained == ["tiny.ours.dog", "tiny.ours.cat"]
    rest = list(suites.run(asked))
    assert trained[2:] == ["tiny.sequential.sequential.dog-cat", "tiny.joint.joint.dog-cat"]
    assert done(rest) == [("kept", name) for name in suite_made.CELLS[:6]] + [
        ("cell", name) for name in suite_made.CELLS[6:]
    ]
    assert counted + rest[0].total == first.total, "what the first run had done is not asked for again"
    assert rest[0].total == len(rest) - 1 - 6
    again = list(suites.run(asked))
    assert again[0].total == 0
    assert done(again) == [("kept", name) for name in suite_made.CELLS]
    assert len(trained) == 4
    results = suites.results(asked)
    assert set(results["joint.dog+cat"]["scores"]) == {"text", "image 1", "image 2"}
    assert results["ours.dog"]["prompts"] == ["a dog on the beach", "photo of a dog"]
    assert results["ours.dog"]["scores"] != results["base.dog"]["scores"]
    learned = registry.find("tiny.ours.dog")
    changed = [tensor.numel() for name, tensor in read_tensors(learned.path).items() if name.startswith("unet.")]
    assert results["ours.dog"]["cost"] == {
        "numbers": sum(changed), "megabytes": learned.bytes / 1e6, "seconds": registry.note("tiny.ours.dog")["seconds"],
    }  # fmt: skip
    assert results["base.dog"]["cost"] == {}
    assert "seconds" not in results["merge.dog+cat"]["cost"]
    shown = dict(suites.sheets(asked))
    assert set(shown) == {"dog", "cat", "dog+cat"}
    assert shown["dog+cat"].height > shown["dog"].height
    assert sorted(file.name for file in (asked.out / "cells").iterdir()) == sorted(
        f"{name}.{ending}" for name in suite_made.CELLS for ending in ("json", "png")
    )


def test_only_what_changed_is_made_again(path, wide_base, trained):
    only = ("*.dog",)
    list(suites.run(planned(path, wide_base, only=only)))
    (path.parent / "one.txt").write_text("a {} in front\n")
    assert done(suites.run(planned(path, wide_base, only=only))) == [("cell", "base.dog"), ("cell", "ours.dog")]
    assert trained == ["tiny.ours.dog"], "prompts do not change the concept"
    path.write_text(suite_made.TEXT.replace("steps = 2", "steps = 3"))
    assert done(suites.run(planned(path, wide_base, only=only))) == [("kept", "base.dog"), ("cell", "ours.dog")]
    assert trained == ["tiny.ours.dog"] * 2


def test_a_pair_is_drawn_as_often_as_it_says_unless_told_otherwise(path, wide_base):
    path.write_text(suite_made.TEXT.replace('prompts = "two.txt"', 'prompts = "two.txt"\ncount = 3'))
    only = ("bases.dog+cat", "base.dog")
    asked = planned(path, wide_base, only=only)
    assert asked.pictures == 2 * 1 + 1 * 3
    events = list(suites.run(asked))
    assert [event.kind for event in events].count("picture") == 5
    assert len(suites.results(asked)["bases.dog+cat"]["each"]["text"]) == 3
    assert planned(path, wide_base, only=only, flags={"count": 2}).pictures == 2 * 2 + 1 * 2


def test_stopping_says_how_to_go_on(path, wide_base):
    path.write_text(suite_made.TEXT.replace("steps = 2", "steps = 3"))
    asked = [False]
    with pytest.raises(InterruptedRun) as told:
        for event in suites.run(planned(path, wide_base, only=("ours.dog",)), stop=lambda: asked[0]):
            asked[0] = asked[0] or event.kind == "step"
    assert "same command" in told.value.hint
    assert studies.checkpoint_path("tiny.ours.dog").is_file()
    assert not registry.names()
    rest = list(suites.run(planned(path, wide_base, only=("ours.dog",))))
    assert len([event for event in rest if event.kind == "step"]) == 1, "the third of three"


def test_what_cannot_be_run_is_told_before(path, wide_base):
    with pytest.raises(UsageError, match="nothing"):
        planned(path, wide_base, only=("nothing",))
    (path.parent / "two.txt").unlink()
    assert len(planned(path, wide_base, only=("*.dog",)).cells) == 2, "which do not need it"
    with pytest.raises(NotFoundError, match=r"two\.txt"):
        planned(path, wide_base)
    with pytest.raises(NotFoundError, match="data/moongate"):
        suites.plan(suites.find("paper"))
    with pytest.raises(NotFoundError, match=r"dataset\.json"):
        suites.find("customconcept101")
