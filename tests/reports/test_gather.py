"""From an evaluation's pictures and scores to a report: each score stays with its picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
from htmlpages import Page
from PIL import Image

from cdtool.evaluation import evaluate, samples
from cdtool.evaluation.alignment import Interval, Scores
from cdtool.evaluation.forgetting import ForgettingResult
from cdtool.evaluation.selection import CheckpointScore
from cdtool.reports import page as pages
from cdtool.reports import report as reports


@pytest.fixture
def plan(saved, tmp_path):
    """An evaluation of `dog` with two prompts and one photo."""
    saved("dog", settings={"steps": 250, "lr": 0.001, "unshown": 1})
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "photos" / "1.png")
    return evaluate.plan("dog", photos=[tmp_path / "photos"], prompts=["a {}", "{} runs"], count=2)


SCORES = Scores(
    encoder="fake", concept={"text": 0.25, "image": 0.5}, base={"text": 0.5, "image": 0.25},
    difference={"text": Interval(-0.25, -0.3, -0.2), "image": Interval(0.25, 0.2, 0.3)}, prompts=2, samples=4,
    photos={"dog": 1}, each={"text": [0.1, 0.2, 0.3, 0.4], "image": [0.5, 0.5, 0.5, 0.5]},
    base_each={"text": [0.5, 0.6, 0.7, 0.8], "image": [0.25, 0.25, 0.25, 0.25]},
)  # fmt: skip


def drawn(prompts, red):
    return [
        (Image.new("RGB", (8, 8), (red, place, number)), prompt, number)
        for place, prompt in enumerate(prompts)
        for number in (0, 1)
    ]


def test_every_picture_keeps_its_own_scores(plan):
    pictures = drawn(plan.prompts, 1) + drawn(["a dog", "dog runs"], 2)
    report = reports.gather(plan, pictures, SCORES)
    assert [row.prompt for row in report.rows] == ["a V* dog", "V* dog runs"]
    for place, row in enumerate(report.rows):
        for number in (0, 1):
            own, other = row.concept[number], row.base[number]
            assert own.image.getpixel((0, 0)) == (1, place, number)
            assert other.image.getpixel((0, 0)) == (2, place, number)
            assert own.scores == {"text": SCORES.each["text"][2 * place + number], "image": 0.5}
            assert other.scores == {"text": SCORES.base_each["text"][2 * place + number], "image": 0.25}
            assert own.seed == number
    assert [(one.name, one.concept, one.base) for one in report.scores] == [("text", 0.25, 0.5), ("image", 0.5, 0.25)]
    assert report.scores[0].difference == SCORES.difference["text"]
    assert report.photos["dog"][0].size == (40, 40)


def test_how_it_was_made_is_told(plan):
    report = reports.gather(plan, drawn(plan.prompts, 1) + drawn(["a dog", "dog runs"], 2), SCORES)
    assert report.settings["seeds"] == "0 to 1, the same for every prompt"
    assert report.settings["steps"] == "50"
    assert report.settings["concept dog"] == "kv, steps 250, lr 0.001"
    assert "negative" not in report.settings
    assert {"cdtool", "torch"} <= set(report.versions)


def test_pictures_at_hand_have_neither_base_nor_seeds(plan, monkeypatch, tmp_path):
    found = [measuring_sample(prompt) for prompt in ("a dog", "dog runs", "a dog")]
    monkeypatch.setattr(samples, "read", lambda folder, subject, tokens: found)
    scores = Scores("fake", {"text": 0.5}, {}, {}, 2, 3, {"dog": 1}, each={"text": [0.1, 0.2, 0.3]})
    report = reports.gather(plan, reports.of_folder(replace(plan, folder=tmp_path)), scores)
    assert [(row.prompt, len(row.concept), len(row.base)) for row in report.rows] == [
        ("a dog", 2, 0),
        ("dog runs", 1, 0),
    ]
    assert [shot.scores["text"] for shot in report.rows[0].concept] == [0.1, 0.3]
    assert "seeds" not in report.settings


def measuring_sample(prompt):
    from cdtool.evaluation.alignment import Sample

    return Sample(Image.new("RGB", (8, 8)), prompt)


def test_the_page_holds_what_is_given_besides(plan, tmp_path):
    pictures = drawn(plan.prompts, 1) + drawn(["a dog", "dog runs"], 2)
    stages = [CheckpointScore(0, 0.5, 0.25), CheckpointScore(10, 0.25, 0.5)]
    forgetting = [ForgettingResult("plain", Interval(0.5, 0, 1), "moved")]
    pages.write(tmp_path / "dog.html", plan, pictures, SCORES, stages=stages, forgetting=forgetting)
    page = Page((tmp_path / "dog.html").read_text(encoding="utf-8"))
    assert not page.faults
    assert not page.fetched
    assert "Nearer to its photos than the base, but prompts count much less than before." in page.text
    assert "Alignment during training" in page.text
    assert "0.500 moved" in page.text
