"""cdtool eval with scores made by hand."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from cdtool import catalog, measuring
from cdtool.cli import output
from cdtool.evaluation import Interval, Scores

SCORES = Scores(
    encoder="fake",
    concept={"text": 0.75, "image": 0.875},
    base={"text": 0.8, "image": 0.5},
    difference={"text": Interval(-0.05, -0.1, 0.0), "image": Interval(0.375, 0.25, 0.5)},
    prompts=2,
    samples=4,
    photos={"dog": 1},
)


@pytest.fixture
def photos(saved, tmp_path, monkeypatch):
    """A concept `dog`, a folder with its photo, and an evaluation that ends at once."""
    saved("dog")
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (40, 40)).save(folder / "1.png")
    monkeypatch.setattr(catalog, "locate", lambda _: tmp_path)
    monkeypatch.setattr(output, "quiet_libraries", lambda: None)
    monkeypatch.setattr(measuring, "run", lambda plan: iter([*range(plan.pictures), SCORES]))
    monkeypatch.setattr(measuring, "score_folder", lambda plan, folder: SCORES)
    return folder


def test_the_table_has_concept_base_and_difference(cdtool, photos):
    said = cdtool("eval", "dog", "--photos", photos)
    assert said.code == 0
    lines = [line.split() for line in said.out.splitlines()]
    assert lines[:3] == [["text", "image"], ["dog", "0.750", "0.875"], ["mini", "0.800", "0.500"]]
    assert lines[3][:2] == ["difference", "-0.050"]
    assert "4 pictures of 2 prompts, 1 photos of dog" in said.err


def test_json_holds_every_number(cdtool, photos):
    data = json.loads(cdtool("eval", "dog", "--photos", photos, "--json").out)
    assert data["schema"] == 1
    assert data["name"] == "dog"
    assert data["base_name"] == "mini"
    assert data["concept"] == {"text": 0.75, "image": 0.875}
    assert data["difference"]["image"] == {"mean": 0.375, "low": 0.25, "high": 0.5}


def test_quiet_prints_the_numbers_alone(cdtool, photos):
    said = cdtool("eval", "dog", "--photos", photos, "-q")
    assert said.out.splitlines() == ["text 0.7500", "image 0.8750"]
    assert said.err == ""


def test_prompts_and_settings_reach_the_plan(cdtool, photos, monkeypatch, tmp_path):
    plans = []
    monkeypatch.setattr(measuring, "run", lambda plan: plans.append(plan) or iter([SCORES]))
    (tmp_path / "ask.txt").write_text("a {} asleep\n")
    asked = ("--prompts", tmp_path / "ask.txt", "-n", 3, "--seed", 5, "--steps", 7, "--guidance", 2.5)
    assert cdtool("eval", "dog", "--photos", photos, *asked).code == 0
    plan = plans[0]
    assert plan.prompts == ("a V* dog asleep",)
    chosen = plan.settings
    assert (chosen.count, chosen.seed, chosen.steps, chosen.guidance) == (3, 5, 7, 2.5)


def test_errors_have_their_exit_codes(cdtool, photos, tmp_path):
    assert cdtool("eval", "dgo", "--photos", photos).code == 3
    assert cdtool("eval", "dog").code == 3
    assert cdtool("eval", "dog", "--photos", tmp_path / "lost").code == 3
    assert cdtool("eval", "dog", "--photos", photos, "--prompts", tmp_path / "lost.txt").code == 3
    assert cdtool("eval", "dog", "--photos", photos, "--json", "--quiet").code == 2


def test_pictures_at_hand_are_scored_without_drawing(cdtool, photos, monkeypatch, tmp_path):
    monkeypatch.setattr(measuring, "run", None)
    assert cdtool("eval", "dog", "--photos", photos, "--images", tmp_path).code == 0
