"""Tables of hand-made cells, and the published numbers."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from cdtool.research import tables as suitetables
from cdtool.research.suite import ConceptSpec, MethodSpec, PairSpec, Suite, TableSpec

DOG, CAT = (ConceptSpec(name, f"V* {name}", Path(), Path()) for name in ("dog", "cat"))
BASE, OURS = MethodSpec("Base", "base"), MethodSpec("Ours")
SUITE = Suite(
    "two", "a try", concepts=(DOG, CAT), pairs=(PairSpec((DOG, CAT), Path()),), methods=(BASE, OURS),
    compositions=(MethodSpec("Bases", "base"), MethodSpec("Joint", "joint")),
    tables=(TableSpec("All", published="1"), TableSpec("Each", "concepts", ("Ours",), "7"),
            TableSpec("Two", "pairs", (), "8")),
)  # fmt: skip


def result(base=None, each=None, **scores):
    named = {name.replace("_", " "): value for name, value in scores.items()}
    return {"scores": named, "base": base or {}, "each": each or {}, "prompts": ["a", "b"], "notes": {}}


RESULTS = {
    "base.dog": result(text=0.9, image=0.5, each={"text": [0.8, 1.0]}),
    "base.cat": result(text=0.8, image=0.4, each={"text": [0.8, 0.8]}),
    "ours.dog": result({"kid": 7.0}, text=0.8, image=0.7, kid=9.0, each={"text": [0.7, 0.9]}),
    "ours.cat": result({"kid": 5.0}, text=0.6, image=0.9, kid=6.0, each={"text": [0.5, 0.7]}),
    "joint.dog+cat": result(text=0.5, image_1=0.6, image_2=0.8),
}


@pytest.fixture
def tables():
    return suitetables.fill(SUITE, SUITE.cells, RESULTS)


def line(table, row, column, item="mean"):
    (found,) = [one for one in table.lines if (one.method, one.column, one.item) == (row, column, item)]
    return found


def test_means_are_over_the_cells_that_are_there(tables):
    ours = line(tables[0], "Ours", "text")
    assert (ours.value, ours.cells, ours.published) == (pytest.approx(0.7), 2, 0.795)
    assert line(tables[0], "Joint", "image").value == pytest.approx(0.7), "the mean of both targets"
    assert line(tables[0], "Joint", "image").published == 0.706
    assert not [one for one in tables[0].lines if one.method == "Bases"], "which nobody has made, and nobody published"


def test_what_a_method_takes_has_no_published_numbers_beside_it():
    suite = replace(SUITE, tables=(TableSpec("Costs", "costs"),))
    costs = {
        "ours.dog": {"seconds": 20.0, "numbers": 1e6, "megabytes": 2.0},
        "ours.cat": {"numbers": 3e6, "megabytes": 4.0},
    }
    found = {name: {**RESULTS[name], "cost": cost} for name, cost in costs.items()}
    table = suitetables.fill(suite, suite.cells, found)
    ours = [line(table[0], "Ours", column) for column in ("seconds", "numbers", "megabytes")]
    assert [(one.value, one.cells) for one in ours] == [(20.0, 1), (2e6, 2), (3.0, 2)]
    assert "| single | Ours | 20 | 2,000,000 | 3.00 | 2 |" in suitetables.markdown(suite, table, "")


def test_the_bases_row_takes_what_the_others_measured_of_it(tables):
    assert line(tables[0], "Base", "kid").value == pytest.approx(6.0)
    assert line(tables[0], "Ours", "kid").value == pytest.approx(7.5)


def test_differences_from_the_base_are_paired(tables):
    told = line(tables[0], "Ours", "text").against
    assert told.mean == pytest.approx(fmean([-0.1, -0.1, -0.3, -0.1]))
    assert told.low <= told.mean <= told.high
    assert line(tables[0], "Base", "text").against is None


def test_numbers_by_concept_and_pair_have_the_published_beside_them(tables):
    dog = line(tables[1], "Ours", "image", "dog")
    assert (dog.value, dog.published) == (0.7, 0.684)
    assert line(tables[1], "Ours", "image").value == pytest.approx(0.8)
    assert not [one for one in tables[1].lines if one.method == "Base"], "the table names its rows"
    assert line(tables[2], "Joint", "image 2", "dog+cat").value == 0.8
    assert line(tables[2], "Joint", "image 2").published == 0.710


def test_the_three_files_say_the_same(tables, tmp_path):
    page = suitetables.markdown(SUITE, tables, "About.")
    paths = suitetables.write(tmp_path, page, tables, {"some": "data"})
    assert [path.name for path in paths] == ["tables.md", "tables.csv", "tables.json"]
    assert "| single | Ours | 0.700 | 0.795 |" in page
    assert "| image 2 | Joint (paper) |  | 0.710 |" in page
    rows = list(csv.DictReader(paths[1].read_text().splitlines()))
    (found,) = [row for row in rows if (row["table"], row["method"], row["column"]) == ("All", "Ours", "kid")]
    assert (float(found["value"]), float(found["published"])) == (7.5, 20.96)
    assert json.loads(paths[2].read_text()) == {"some": "data"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tables.csv", "tables.json", "tables.md"]


# ---------------------------------------------------------------- what was published


def test_the_means_of_table_7_are_the_rows_of_table_1():
    known = suitetables.published()
    for column, rows in known["7"]["each"].items():
        for row, values in rows.items():
            concepts = [value for name, value in values.items() if name != "mean"]
            assert len(concepts) == 10
            # The printed means of image, and most of text, leave moongate out, the first.
            found = [fmean(concepts), fmean(concepts[1:])]
            assert min(abs(mean - values["mean"]) for mean in found) < (0.01 if column == "kid" else 1.1e-3)
            if row in known["1"]["single"]:
                assert known["1"]["single"][row][column] == values["mean"]


def test_the_means_of_table_8_are_the_lower_rows_of_table_1():
    known = suitetables.published()
    one, two = (known["8"]["each"][f"image {place}"] for place in (1, 2))
    for row, told in known["1"]["pairs"].items():
        assert known["8"]["each"]["text"][row]["mean"] == told["text"]
        assert fmean([one[row]["mean"], two[row]["mean"]]) == pytest.approx(told["image"], abs=2e-3)


def test_published_numbers_stand_where_the_paper_has_them():
    known = suitetables.published()
    assert known["3"]["single"]["Ours w/o prior"] == {"text": 0.799, "image": 0.756, "kid": 32.64}
    assert known["4"]["pairs"]["Joint"] == {"text": 0.7567, "image": 0.668, "dino": 0.376}
    assert known["5"]["each"]["image"]["Ours, frozen V*"]["chair"] == 0.757
    assert known["6"]["each"]["fid"]["DreamBooth"]["barn"] == 20.36
    assert known["7"]["each"]["kid"]["DreamBooth"]["barn"] == 12.975
