"""cdtool eval with scores made by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cdtool.cli import output
from cdtool.evaluation import evaluate, side_effects
from cdtool.evaluation.alignment import Interval, Scores
from cdtool.models import encoders, vision
from cdtool.store import bases

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
    monkeypatch.setattr(bases, "locate", lambda _: tmp_path)
    monkeypatch.setattr(output, "quiet_libraries", lambda: None)
    monkeypatch.setattr(evaluate, "run", lambda plan: iter([*range(plan.pictures), SCORES]))
    return folder


def test_the_table_has_concept_base_and_difference(cdtool, photos):
    said = cdtool("eval", "dog", "--photos", photos)
    assert said.code == 0
    lines = [line.split() for line in said.out.splitlines()]
    assert lines[:3] == [["text", "image"], ["dog", "0.750", "0.875"], ["mini", "0.800", "0.500"]]
    assert lines[3][:2] == ["difference", "-0.050"]
    assert "4 pictures of 2 prompts, 1 photo of dog" in said.err


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
    monkeypatch.setattr(evaluate, "run", lambda plan: plans.append(plan) or iter([SCORES]))
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
    plans = []
    monkeypatch.setattr(evaluate, "run", lambda plan: plans.append(plan) or iter([SCORES]))
    assert cdtool("eval", "dog", "--photos", photos, "--images", tmp_path).code == 0
    assert (plans[0].folder, plans[0].pictures) == (tmp_path, 0)


def test_joined_concepts_are_drawn_and_scored_on_a_base(cdtool, concept, tmp_path, monkeypatch):
    """The whole way on the tiny pipeline, but for the encoder: a picture's features are its mean colours."""

    def image(pictures):
        return np.stack([np.asarray(picture, np.float32).mean(axis=(0, 1)) for picture in pictures])

    encoder = encoders.Encoder(
        encoders.EncoderSpec("fake", "nowhere", 0.8), lambda texts: np.ones((len(texts), 3), np.float32), image
    )
    monkeypatch.setattr(encoders, "find", lambda spec: None)
    monkeypatch.setattr(encoders, "load", lambda *_: encoder)
    for name, colour in (("dog", "red"), ("cat", "blue")):
        concept(name, name)
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 40), colour).save(tmp_path / name / "1.png")
    (tmp_path / "pairs.txt").write_text("a {0} on the {1}\n")
    asked = ("--prompts", tmp_path / "pairs.txt", "--photos", tmp_path / "dog", "--photos", tmp_path / "cat")
    said = cdtool(
        "eval", "dog:0.5+cat", *asked, "-n", 2, "--steps", 2, "--precision", "fp32", "--device", "cpu", "--json"
    )
    assert said.code == 0, said.err
    data = json.loads(said.out)
    assert set(data["concept"]) == {"text", "image V1 dog", "image V2 cat"}
    assert data["name"] == "dog:0.5+cat"
    assert data["photos"] == {"V1 dog": 1, "V2 cat": 1}
    assert (data["samples"], data["prompts"]) == (2, 1)
    assert data["concept"] != data["base"]
    assert cdtool("eval", "dog+cat", *asked[:4]).code == 2
    assert cdtool("eval", "dog+dgo", *asked).code == 3


def test_a_report_is_written_and_named(cdtool, photos, monkeypatch, tmp_path):
    pictures = [(Image.new("RGB", (8, 8)), prompt, seed) for prompt in ("a", "b") for seed in (0, 1)]
    each = {"text": [0.75] * 4, "image": [0.875] * 4}
    scored = replace(SCORES, each=each, base_each=each)
    monkeypatch.setattr(evaluate, "run", lambda plan: iter([*pictures, *pictures, scored]))
    page = tmp_path / "dog.html"
    said = cdtool("eval", "dog", "--photos", photos, "--report", page)
    assert said.code == 0
    assert f"Report: {page}" in said.err
    assert page.read_text(encoding="utf-8").count("<img") == 9
    data = json.loads(cdtool("eval", "dog", "--photos", photos, "--report", page, "--json").out)
    assert data["report"] == str(page)
    assert "each" not in data


def test_what_cannot_be_is_told_before_the_drawing(cdtool, photos, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate, "run", None)
    assert cdtool("eval", "dog", "--photos", photos, "--report", tmp_path / "a.pdf").code == 2
    assert cdtool("eval", "dog", "--photos", photos, "--report", tmp_path / "no" / "a.html").code == 3
    assert cdtool("eval").code == 2
    said = cdtool("eval", "dog", "cat")
    assert said.code == 2
    assert "cdtool eval dog+cat" in said.err


def test_a_failed_gate_ends_with_6_after_everything_was_told(cdtool, photos):
    said = cdtool("eval", "dog", "--photos", photos, "--min", "text=0.7,image=0.9", "--json")
    assert said.code == 6
    assert json.loads(said.out)["concept"]["image"] == 0.875
    assert "image is 0.875, below 0.9" in said.err
    assert cdtool("eval", "dog", "--photos", photos, "--min", "text=0.7,image=0.8").code == 0


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--metrics", "text,kdi"], "Did you mean kid"),
        (["--min", "dino=1"], "no score"),
        (["--max", "leak=1"], "no score"),
        (["--sheet", "a.png"], "--forgetting"),
        (["--fid-count", "9"], "--metrics"),
        (["--min", "text:1"], "a score and a number"),
    ],
)
def test_scores_that_cannot_be_asked_for_are_usage_errors(cdtool, photos, flags, told):
    said = cdtool("eval", "dog", "--photos", photos, *flags)
    assert said.code == 2
    assert told in said.err


@pytest.fixture
def measured(cdtool, concept, tmp_path, monkeypatch):
    """`dog` on the tiny pipeline, measured by mean colours: `measured("dog:0", "--forgetting")`."""

    def image(pictures):
        return np.stack([np.asarray(picture, np.float32).mean(axis=(0, 1)) for picture in pictures])

    spec = encoders.EncoderSpec("fake", "nowhere", 0.8)
    encoder = encoders.Encoder(spec, lambda texts: np.ones((len(texts), 3), np.float32), image)
    monkeypatch.setattr(encoders, "find", lambda spec: None)
    monkeypatch.setattr(encoders, "load", lambda *_: encoder)
    monkeypatch.setattr(vision, "find_inception", lambda: None)
    monkeypatch.setattr(vision, "load_inception", lambda device: encoder)
    monkeypatch.setattr(side_effects, "FEWEST", 4)
    monkeypatch.setattr(side_effects, "ENOUGH", 4)
    concept("dog", "dog")
    (tmp_path / "dogs").mkdir()
    for level in (10, 100, 200):
        Image.new("RGB", (40, 40), (level, 90, 50)).save(tmp_path / "dogs" / f"{level}.png")
    (tmp_path / "ask.txt").write_text("a {} on the beach\n")

    def run(subject, *flags):
        asked = ("--prompts", tmp_path / "ask.txt", "--photos", tmp_path / "dogs", "-n", 1, "--steps", 2)
        said = cdtool("eval", subject, *asked, "--precision", "fp32", "--device", "cpu", *flags)
        assert said.code == 0, said.err
        return said

    return run


def test_forgetting_is_zero_without_a_change_and_grows_with_it(measured, tmp_path):
    found = [json.loads(measured(f"dog:{w}", "--forgetting", "--json").out)["forgetting"] for w in (0, 0.1, 1)]
    assert set(found[0]) == {"class", "leak", "neighbours", "unrelated"}
    assert all(one == {"mean": 0, "low": 0, "high": 0} for one in found[0].values())
    for name in ("class", "neighbours", "unrelated"):
        assert 0 < found[1][name]["mean"] < found[2][name]["mean"]


def test_kid_and_forgetting_reach_the_table_the_files_and_the_note(measured, cdtool, tmp_path):
    kept = ("--report", tmp_path / "dog.html", "--sheet", tmp_path / "sheet.png")
    said = measured("dog", "--metrics", "text,image", "--kid", tmp_path / "dogs", "--forgetting", *kept)
    lines = said.out.splitlines()
    assert lines[0].split() == ["text", "image", "kid"]
    assert [line.split("  ")[0] for line in lines[4:]] == [
        "A plain dog", "Leaking into dog", "Neighbouring classes", "Unrelated prompts",
    ]  # fmt: skip
    assert "kid: 4 pictures of photo of a dog against 3 real ones, measured with fake." in said.err
    page = (tmp_path / "dog.html").read_text(encoding="utf-8")
    for told in ("What else changed", "A plain dog", "Unrelated prompts", "KID × 1000"):
        assert told in page
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 600
    assert "kid " in cdtool("list").out
    noted = json.loads(cdtool("show", "dog", "--json").out)
    assert "leak" in json.dumps(noted)


def test_dino_has_a_column_beside_the_bases(measured, monkeypatch):
    encoder = encoders.load(None)
    monkeypatch.setattr(vision, "load_dino", lambda spec, device: encoder)
    data = json.loads(measured("dog", "--metrics", "image,dino", "--json").out)
    assert data["concept"]["dino"] == pytest.approx(data["concept"]["image"])
    assert data["encoders"] == {"dino": "fake"}
    assert set(data["difference"]) == {"image", "dino"}


def test_what_draws_other_pictures_is_not_for_pictures_at_hand(measured, cdtool, tmp_path):
    said = cdtool("eval", "dog", "--photos", tmp_path / "dogs", "--images", tmp_path, "--forgetting")
    assert said.code == 2
    assert "--images" in said.err


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("--suite", "mini-small", "--out", "bench"), "cdtool suite run"),
        (("--compare", "a", "b", "--study", "s.html"), "cdtool study make"),
        (("--answers=a.json",), "cdtool study score"),
    ],
)
def test_old_options_name_the_new_command(cdtool, old, new):
    said = cdtool("eval", *old)
    assert said.code == 2
    assert new in said.err
