"""The verdict of a report in words."""

from __future__ import annotations

import pytest

from cdtool.evaluation.alignment import Interval
from cdtool.reports.report import Report, ScoreColumn, verdict


def report(*scores):
    return Report("dog", "mini", "fake", {}, [], scores)


def score(name, low, high, base=1.0):
    mean = (low + high) / 2
    return ScoreColumn(name, base + mean, base, Interval(mean, low, high))


@pytest.mark.parametrize(
    ("text", "image", "words"),
    [
        ((-0.1, 0.1), (0.1, 0.3), "Nearer to its photos than the base, and prompts count as much as before."),
        ((0.1, 0.2), (0.1, 0.3), "Nearer to its photos than the base, and prompts count as much as before."),
        ((-0.05, -0.03), (0.1, 0.3), "Nearer to its photos than the base, and prompts count almost as much as before."),
        ((-0.15, -0.05), (0.1, 0.3), "Nearer to its photos than the base, but prompts count somewhat less"),
        ((-0.4, -0.2), (0.1, 0.3), "Nearer to its photos than the base, but prompts count much less than before."),
        ((-0.1, 0.1), (-0.1, 0.3), "Not learned"),
        ((-0.1, 0.1), (-0.4, -0.3), "Not learned"),
    ],
)
def test_the_headline_says_what_was_learned_and_at_what_price(text, image, words):
    headline, details = verdict(report(score("text", *text), score("image", *image)))
    assert headline.startswith(words)
    assert len(details) == 2


def test_each_sentence_says_which_way_and_how_sure():
    _, (text, image) = verdict(report(score("text", -0.3, -0.1), score("image", -0.1, 0.3)))
    assert (
        text == "It follows its prompts less than mini does with the plain words (−0.200, 95% from −0.300 to −0.100)."
    )
    assert "neither clearly more nor less" in image


def test_of_several_targets_those_learned_are_named():
    several = report(score("text", -0.1, 0.1), score("image V1 dog", 0.1, 0.3), score("image V2 cat", -0.1, 0.1))
    headline, details = verdict(several)
    assert headline == "Nearer to the photos of V1 dog than the base, but not to those of V2 cat."
    assert any("photos of V2 cat" in detail for detail in details)


def test_without_the_base_nothing_is_claimed():
    headline, details = verdict(report(ScoreColumn("text", 0.7), ScoreColumn("image", 0.6)))
    assert headline == "Nothing to compare with."
    assert "stand alone" in details[0]
