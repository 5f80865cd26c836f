"""The exception tree: its drawing, its exit codes, its hints."""

from __future__ import annotations

import inspect
import re

import pytest

from cdtool import errors


def classes():
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: cls for name, cls in found if issubclass(cls, errors.CdtoolError)}


def test_the_drawn_tree_is_the_tree():
    drawn = {name: int(code) for name, code in re.findall(r"[├└]── (\w+) +(\d+)", errors.__doc__)}
    assert drawn == {name: cls.exit_code for name, cls in classes().items() if name != "CdtoolError"}


def test_indented_classes_derive_from_the_one_above():
    parent = "CdtoolError"
    for line in errors.__doc__.splitlines():
        if found := re.match(r"(│?) *[├└]── (\w+)", line):
            inner, name = found.groups()
            assert classes()[name].__mro__[1].__name__ == (parent if inner else "CdtoolError")
            parent = parent if inner else name


def test_message_and_hint():
    error = errors.NotFoundError("There is no cat.", "Take a dog.")
    assert (str(error), error.hint, error.exit_code) == ("There is no cat.", "Take a dog.", 3)


@pytest.mark.parametrize(
    ("word", "hint"),
    [("dgo", "Did you mean dog?"), ("moon", "Did you mean moongate?"), ("xylophone", ""), ("", "")],
)
def test_nearest(word, hint):
    assert errors.nearest(word, ["dog", "moongate", "teapot"]) == hint
