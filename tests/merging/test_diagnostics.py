"""The doctor of a merge: its figures on hand-made changes, and its warnings."""

from __future__ import annotations

import pytest
import torch

from cdtool.merging import diagnostics
from cdtool.merging.targets import Targets
from cdtool.tokens import Token

EYE = torch.eye(2, dtype=torch.float64)


def linear(matrix):
    return lambda _, rows: rows @ torch.tensor(matrix, dtype=torch.float64).T


def figures(concepts, exact, saved, bound=((0,), (1,)), tried=((0,), (1,))):
    measured = diagnostics.measure(
        ["only"], [linear(matrix) for matrix in concepts], linear(exact), linear(saved),
        Targets(EYE, list(bound)), Targets(EYE, list(tried)), EYE,
    )  # fmt: skip
    return diagnostics.report(measured, ["one", "two"], 2, 10.0, ())


def test_figures_by_hand():
    found = figures([[[3, 0], [0, 0]], [[0, 0], [0, 4]]], [[3, 0], [0, 4]], [[3, 0], [0, 5]])
    assert found.error == 0
    assert found.saved_error == pytest.approx(1 / 5)  # 1 of the root of 3² + 4²
    assert found.fidelity == {"one": pytest.approx(1.0), "two": pytest.approx(1 - 1 / 4)}
    assert found.drift == pytest.approx((9 + 25) ** 0.5 / 3.5)
    assert found.lost == []


def test_a_concept_below_half_is_lost():
    found = figures([[[3, 0], [0, 0]], [[0, 0], [0, 4]]], [[3, 0], [0, 1]], [[3, 0], [0, 1]])
    assert found.fidelity["two"] == pytest.approx(0.25)
    assert found.lost == ["two"]
    assert found.data()["lost"] == ["two"]


def test_what_is_no_number_is_lost():
    found = figures([[[3, 0], [0, 0]], [[0, 0], [0, 4]]], [[3, 0], [0, 1]], [[float("nan"), 0], [float("nan"), 4]])
    assert found.lost == ["one", "two"]


def test_a_row_of_two_owners_counts_against_both():
    found = figures([[[2, 0], [0, 0]], [[0, 0], [0, 0]]], [[1, 0], [0, 0]], [[1, 0], [0, 0]], bound=((0, 1), (1,)))
    assert found.error == pytest.approx((2 / 4) ** 0.5)


@pytest.mark.parametrize(
    ("tokens", "rows", "said"),
    [
        ((Token("dog"), Token("Dog")), ([1.0, 0], [0, 1.0]), ["one class"]),
        ((Token("dog"), Token("cat")), ([1.0, 0], [0.9, 0.1]), ["nearly the same"]),
        ((Token("dog"), Token("dog")), ([1.0, 0], [1.0, 0]), ["one class", "nearly the same"]),
        ((Token("dog"), Token("cat")), ([1.0, 0], [0, 1.0]), []),
        ((Token("dog"), Token("cat", modifier=False)), ([1.0, 0], []), []),
    ],
)
def test_what_may_go_wrong_is_told_before(tokens, rows, said):
    found = diagnostics.clashes(tokens, [[torch.tensor(row) for row in rows]])
    assert len(found) == len(said)
    assert all(part in warning for part, warning in zip(said, found, strict=True))


def test_two_concepts_that_began_as_one_word_are_named(saved):
    def concept(name, initializer, **values):
        return saved(name, tokens=(Token(name, initializer=initializer, ids=(7,)),), **values)

    concepts = [concept("dog", "ktn"), concept("cat", "pll"), concept("owl", "ktn")]
    (said,) = diagnostics.shared_initializers(concepts)
    assert all(part in said for part in ('V1 dog of "dog"', 'V3 owl of "owl"', '"ktn"', 'Train "owl" again'))
    assert diagnostics.shared_initializers(concepts[:2]) == ()
    by_class = concept("fox", "ktn", settings={"token_init": "class"})
    imported = concept("cow", "ktn", parents=({"by": "import"},))
    assert diagnostics.shared_initializers([concepts[0], by_class, imported]) == ()
