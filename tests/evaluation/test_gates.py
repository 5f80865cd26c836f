"""Gates: how they are written and when they fail."""

from __future__ import annotations

import pytest

from cdtool.errors import UsageError
from cdtool.evaluation import gates
from cdtool.evaluation.gates import Gate

KNOWN = ("text", "image", "kid", "leak")


def test_both_sides_are_read():
    found = gates.parse("text=0.7, image=0.6", "kid=30", KNOWN)
    assert found == [Gate("text", 0.7), Gate("image", 0.6), Gate("kid", 30.0)]
    assert gates.parse("", "", KNOWN) == []


@pytest.mark.parametrize(
    ("least", "most", "told"),
    [
        ("txet=1", "", "no score"),
        ("dino=1", "", "no score"),
        ("text", "", "a score and a number"),
        ("text=high", "", "a score and a number"),
        ("text=nan", "", "a score and a number"),
        ("kid=30", "", "the lower"),
        ("", "text=1", "the higher"),
    ],
)
def test_what_makes_no_gate_is_told(least, most, told):
    with pytest.raises(UsageError, match=told) as raised:
        gates.parse(least, most, KNOWN)
    assert raised.value.hint


def test_a_misspelt_score_is_named():
    with pytest.raises(UsageError) as raised:
        gates.parse("txt=1", "", KNOWN)
    assert raised.value.hint == "Did you mean text?"


def test_a_bound_itself_passes_and_every_column_counts():
    bounds = gates.parse("text=0.5,image=0.6", "leak=0.1", KNOWN)
    scores = {"text": 0.5, "image V1 dog": 0.7, "image V2 cat": 0.55, "leak": 0.1}
    assert gates.failed(bounds, scores) == ["image V2 cat is 0.550, below 0.6"]
    assert gates.failed(bounds, scores | {"leak": 0.2})[1] == "leak is 0.200, above 0.1"
    assert gates.failed([Gate("text", 0.5)], {"text": float("nan")})
