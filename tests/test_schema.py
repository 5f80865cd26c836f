"""Tables checked against dataclasses: what fits is built, anything else is one sentence that names where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from cdtool import schema
from cdtool.schema import SchemaError, build


@dataclass(frozen=True)
class Leg:
    length: float
    knees: int = 1


@dataclass(frozen=True)
class Animal:
    name: str
    legs: tuple[Leg, ...] = ()
    tame: bool = False
    kind: Literal["dog", "cat"] = "dog"
    about: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    seed: int | None = None


def test_what_fits_is_built():
    table = {"name": "Rex", "legs": [{"length": 2, "knees": 3}], "tame": True, "kind": "cat", "unknown": 1,
             "about": {"a": [1, {"b": None}]}, "scores": {"s": 0.5}, "seed": None}  # fmt: skip
    assert build(Animal, table) == Animal("Rex", (Leg(2, 3),), True, "cat", {"a": [1, {"b": None}]}, {"s": 0.5}, None)
    assert build(Animal, {"name": "Rex"}) == Animal("Rex")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([], "a list, not a table"),
        ({}, "name is missing"),
        ({"name": 1}, "name is a number, not text"),
        ({"name": "x", "legs": 3}, "legs is a number, not a list"),
        ({"name": "x", "legs": "abc"}, "legs is text, not a list"),
        ({"name": "x", "legs": [1]}, r"legs\[0\] is a number, not a table"),
        ({"name": "x", "legs": [{"length": "2"}]}, r"legs\[0\].length is text, not a number"),
        ({"name": "x", "legs": [{"length": float("nan")}]}, r"legs\[0\].length is out of range"),
        ({"name": "x", "legs": [{"length": 10**400}]}, r"legs\[0\].length is out of range"),
        ({"name": "x", "legs": [{"length": 1, "knees": True}]}, "a truth value, not a whole number"),
        ({"name": "x", "legs": [{"length": 1, "knees": 2**63}]}, "not a whole number"),
        ({"name": "x", "tame": 1}, "not true or false"),
        ({"name": "x", "kind": "cow"}, "none of dog, cat"),
        ({"name": "x", "kind": ["dog"]}, "none of dog, cat"),
        ({"name": "x", "about": [1]}, "about is a list, not a table"),
        ({"name": "x", "scores": {"s": "high"}}, "scores.s is text, not a number"),
        ({"name": "x", "seed": "1"}, "seed is text"),
        ({"name": "\ud800"}, "not valid Unicode"),
    ],
)  # fmt: skip
def test_what_does_not_is_said_with_its_path(table, said):
    with pytest.raises(SchemaError, match=said):
        build(Animal, table)


def test_nesting_has_an_end():
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SchemaError, match="too deeply"):
        build(Animal, {"name": "x", "about": {"a": deep}})
    with pytest.raises(SchemaError, match="too deeply"):
        schema.loads("[" * 200_000)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "{", "", b"\xff\xfe\xff", '{"a": 1} x', "1" * 5000])
def test_what_is_no_json(text):
    with pytest.raises(SchemaError):
        schema.loads(text)


def test_what_steers_a_terminal_goes():
    assert schema.printable("dog") == "dog"
    assert schema.printable("Größe 犬 👩‍🚀") == "Größe 犬 👩‍🚀"
    assert schema.printable("a\x1b[31mb\x07\x9b\u202ec\r\n\td") == "a\ufffd[31mb\ufffd\ufffd\ufffdc   d"
    assert schema.printable("a\nb\tc\rd", keep="\n\t") == "a\nb\tc d"
    assert build(Animal, {"name": "a\x1b]0;b", "about": {"k\x1b": ["\x1b"]}}) == Animal(
        "a\ufffd]0;b", about={"k\ufffd": ["\ufffd"]}
    )


def test_long_texts_lose_their_middle():
    assert schema.shortened("abc", 3) == "abc"
    assert schema.shortened("a" * 10 + "b" * 10, 9) == "aaa...bbb"


@pytest.mark.parametrize(("text", "number"), [("12", 12), ("0", 0), ("", None), ("²", None), ("１", None), ("-1", None),
                                              ("9" * 5000, None), ("1.5", None)])  # fmt: skip
def test_whole_numbers_are_plain_digits(text, number):
    assert schema.whole_number(text) == number
