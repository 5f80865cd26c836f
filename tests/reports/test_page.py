"""The page of a report: all of it is there, none of it comes from elsewhere, hostile names stay names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from htmlpages import Page
from PIL import Image

from cdtool.evaluation.alignment import Interval
from cdtool.evaluation.forgetting import ForgettingResult
from cdtool.evaluation.selection import CheckpointScore
from cdtool.reports import html
from cdtool.reports import page as reportpage
from cdtool.reports.report import PromptResult, Report, ScoreColumn, ScoredImage


def picture(number, side=16):
    noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture
def report():
    """Two prompts with two pictures each and the base's, and everything optional."""
    rows = [
        PromptResult(
            prompt,
            tuple(
                ScoredImage(picture(10 * place + n), n, {"text": 0.7 + n / 8, "image": 0.5 + place / 8}) for n in (0, 1)
            ),
            tuple(ScoredImage(picture(10 * place + n), n, {"text": 0.9, "image": 0.25}) for n in (2, 3)),
        )
        for place, prompt in enumerate(["photo of a V* dog", "a V* dog on the beach"])
    ]
    return Report(
        name="dog", base="mini", encoder="fake", photos={"dog": [picture(90), picture(91)]}, rows=rows,
        scores=[ScoreColumn("text", 0.7625, 0.9, Interval(-0.1375, -0.2, -0.1)),
                ScoreColumn("image", 0.5625, 0.25, Interval(0.3125, 0.3, 0.4))],
        stages=[CheckpointScore(0, 0.91, 0.21), CheckpointScore(50, 0.81, 0.52)],
        forgetting=[ForgettingResult("a plain dog", Interval(0.31, 0.2, 0.4), "of them moved", picture(95, 200))],
        settings={"steps": "50"}, versions={"cdtool": "9.9"}, made="2026-01-02",
    )  # fmt: skip


def test_it_is_whole_and_fetches_nothing(report):
    page = Page(reportpage.page(report))
    assert not page.faults
    assert not page.fetched
    assert not page.all("script")
    assert page.all("html")[0]["lang"] == "en"


def test_every_picture_is_there_and_is_described(report):
    page = Page(reportpage.page(report))
    images = page.all("img")
    shots = [shot.image for row in report.rows for shot in row.concept + row.base]
    wanted = [*report.photos["dog"], *shots]
    assert [one["src"] for one in images[:-1]] == [html.data_uri(image) for image in wanted]
    assert all(one["alt"] for one in images)
    assert all(one["class"] == "tiny" for one in images[:-1])
    assert "class" not in images[-1]
    assert images[2]["title"] == "seed 0, text 0.700, image 0.500"


def test_every_number_is_there(report):
    text = Page(reportpage.page(report)).text
    for number in ("0.762", "0.900", "−0.138", "[−0.200, −0.100]", "0.562", "0.250", "+0.312", "[+0.300, +0.400]"):
        assert number in text
    assert "“" not in text.replace("“a dog”", "")  # quotation marks are the style's
    for row in ("photo of a V* dog 0.762 0.500 0.900 0.250", "a V* dog on the beach 0.762 0.625 0.900 0.250"):
        assert row in text
    for words in ("steps 50", "cdtool 9.9", "2026-01-02", "0.310 of them moved", "95% from 0.200 to 0.400"):
        assert words in text
    assert text.index("Nearer to its photos than the base, but prompts count") < text.index("Scores")


def test_the_scatter_has_a_mark_per_prompt_and_one_for_all(report):
    source = reportpage.page(report)
    assert source.count("dog, photo of a V* dog: image 0.500, text 0.762") == 1
    assert "dog, all prompts: image 0.562, text 0.762" in source
    assert "mini, all prompts: image 0.250, text 0.900" in source
    assert "steps 50: 0.520" in source


def test_what_is_missing_is_left_out(report):
    rows = [PromptResult(row.prompt, tuple(ScoredImage(shot.image) for shot in row.concept)) for row in report.rows]
    scores = [ScoreColumn("text", 0.7), ScoreColumn("image", 0.6)]
    bare = replace(report, rows=rows, scores=scores, stages=(), forgetting=(), settings={}, versions={}, made="")
    page = Page(reportpage.page(bare))
    assert not page.faults
    for words in ("during training", "What else", "How it was made", "against image", "difference", "mini text"):
        assert words not in page.text
    assert len(page.all("img")) == 6
    assert "title" not in page.all("img")[2]


def test_names_and_prompts_cannot_break_out(report):
    hostile = '<script>alert("1")</script>'
    rows = [replace(report.rows[0], prompt=hostile)]
    page = Page(
        reportpage.page(replace(report, name=hostile, base='"><img src=x>', rows=rows, settings={hostile: hostile}))
    )
    assert not page.faults
    assert not page.all("script")
    assert all(one["src"].startswith("data:image/") for one in page.all("img"))
    assert page.text.count(hostile) >= 4


def test_very_many_pictures_are_shown_smaller(report, monkeypatch):
    large = replace(report, rows=[PromptResult("a", (ScoredImage(picture(1, 400)),) * 3)])
    monkeypatch.setattr(reportpage, "MANY", 2)
    wanted = html.data_uri(picture(1, 400), 256)
    assert [one["src"] for one in Page(reportpage.page(large)).all("img")[2:5]] == [wanted] * 3
