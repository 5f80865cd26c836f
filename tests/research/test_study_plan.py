"""Comparisons: both sides asked for the same, drawn with seeds of their own, written as a page with its key."""

from __future__ import annotations

import pytest
from PIL import Image

from cdtool.errors import InputError, NameTakenError, NotFoundError, UsageError
from cdtool.models import pipelines
from cdtool.research import answers
from cdtool.research import study as studies
from cdtool.research.study import Study
from cdtool.sampling import sample
from cdtool.sampling.sample import Generated
from cdtool.tokens import Token


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("1", "red"), ("2", "blue")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture
def drawing(monkeypatch):
    """Draw at once: every picture's grey is its place; returns what was asked for."""
    calls = []

    def draw(base, concepts, prompts, settings, *, weights=()):
        calls.append((base, [entry.name for entry in concepts], list(prompts), settings))
        for prompt in prompts:
            for number in range(settings.count):
                yield Generated(Image.new("RGB", (8, 8), (len(calls), number, 0)), prompt, settings.seed + number)

    monkeypatch.setattr(pipelines, "load", lambda name, **_: name)
    monkeypatch.setattr(sample, "generate", draw)
    return calls


def test_each_side_is_asked_in_its_own_words_and_people_read_the_plain_ones(saved, folder):
    saved("dog")
    saved("pair", tokens=(Token("cat", initializer="ktn", ids=(7,)), Token("dog", initializer="pll", ids=(8,))))
    plan = studies.plan("dog", "pair", folders=[folder], prompts=["a dog asleep"])
    assert plan.texts == plan.a.prompts == plan.b.prompts == ("a dog asleep",)
    plan = studies.plan("mini", "dog", folders=[folder], prompts=["a {} asleep", "V* dog runs"])
    assert plan.a.prompts == plan.texts == ("a dog asleep", "dog runs")
    assert plan.b.prompts == ("a V* dog asleep", "V* dog runs")


def test_different_words_are_no_comparison(saved, folder):
    saved("dog")
    saved("cat", tokens=(Token("cat", initializer="ktn", ids=(7,)),))
    with pytest.raises(InputError, match='dog would be asked for "a dog", cat for "a cat"'):
        studies.plan("dog", "cat", folders=[folder], prompts=["a {}"])
    with pytest.raises(UsageError, match="itself"):
        studies.plan("dog", "dog", folders=[folder])


def test_photos_are_asked_for_where_nobody_knows_them(saved):
    saved("dog")
    with pytest.raises(NotFoundError, match="dog or mini"):
        studies.plan("dog", "mini")


def test_the_sides_share_prompts_but_no_seed(saved, folder, drawing):
    saved("dog")
    flags = {"count": 3, "seed": 5, "steps": 2}
    plan = studies.plan("dog", "mini", folders=[folder], prompts=["a {}", "{} on a beach"], flags=flags)
    *drawn, study = studies.run(plan)
    assert len(drawn) == plan.pictures == 12
    (_, own, own_prompts, own_set), (_, others, other_prompts, other_set) = drawing
    assert (own, others) == (["dog"], [])
    assert (own_prompts, other_prompts) == (["a V* dog", "V* dog on a beach"], ["a dog", "dog on a beach"])
    assert {picture.seed for picture in drawn[:6]} == {5, 6, 7}
    assert {picture.seed for picture in drawn[6:]} == {8, 9, 10}
    assert own_set.steps == other_set.steps == 2
    assert isinstance(study, Study)
    assert len(study.key.items) == 12
    assert (study.key.a, study.key.b, study.key.seed) == ("dog", "mini", 5)
    assert study.key.shown["b"]["seed"] == 8
    assert {item.prompt for item in study.key.items} == {"a dog", "dog on a beach"}
    assert "V*" not in study.page


def test_a_study_is_written_with_its_key_and_not_replaced_by_accident(saved, folder, drawing, tmp_path):
    saved("dog")
    page = tmp_path / "study.html"
    studies.check(page)
    *_, study = studies.run(studies.plan("dog", "mini", folders=[folder], prompts=["a {}"]))
    key = studies.save(study, page)
    assert page.read_text(encoding="utf-8") == study.page
    assert answers.read_key(key) == study.key
    assert not list(tmp_path.glob(".*"))
    for left in (page, key):
        with pytest.raises(NameTakenError, match="there already"):
            studies.check(page)
        studies.check(page, force=True)
        left.unlink()
    with pytest.raises(UsageError):
        studies.check(tmp_path / "study")
