"""The benchmark page is rebuilt from the suites' tables, and its own text stays."""

from __future__ import annotations

import re

import pytest

from tests.benchmarks import benchmark_page

PAGE = "# Page\n\nText.\n\n## All\n\n<!-- suite: mini -->\nold\n\n### Old\n<!-- end -->\n\nMore text.\n"


def test_regions_become_the_suites_tables(tmp_path):
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "tables.md").write_text("# mini: about\n\nOn mini; 2 of 2 cells.\n\n## Methods\n\n| a |\n")
    found = benchmark_page.rebuilt(PAGE, tmp_path)
    filled = "On mini; 2 of 2 cells.\n\n### Methods\n\n| a |"
    assert found == f"# Page\n\nText.\n\n## All\n\n<!-- suite: mini -->\n{filled}\n<!-- end -->\n\nMore text.\n"
    assert benchmark_page.rebuilt(found, tmp_path) == found


def test_a_suite_never_run_changes_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        benchmark_page.rebuilt(PAGE, tmp_path)


def test_the_page_of_mini_names_its_suites_and_has_no_tables_of_theirs_elsewhere():
    page = benchmark_page.PAGE.read_text(encoding="utf-8")
    assert re.findall(r"<!-- suite: ([\w-]+) -->", page) == ["mini", "mini-sets"]
    assert page.count("<!-- end -->") == 2
    outside = benchmark_page._REGION.sub("", page)
    assert "cells." not in outside
    assert "| single | Ours |" not in outside


def test_the_page_of_mini_says_what_the_card_measured():
    page = benchmark_page.MINI_PAGE.read_text(encoding="utf-8")
    assert benchmark_page.mini_page(page) == page
    assert page.count("<!-- end -->") == 2


def test_means_are_over_near_far_and_all_by_method():
    rows = [{"concept": name, "kind": kind, "method": method, "share": share, "text": 1.0, "rank": -share}
            for name, kind, share in (("dog", "near", 0.5), ("gate", "far", 0.25))
            for method in benchmark_page.METHODS]  # fmt: skip
    lines = benchmark_page.learnability_table(rows).splitlines()
    assert lines[2] == "| dog | near | .50 | .50 | .50 | 1.00 | 1.00 | 1.00 | -.50 | -.50 | -.50 |"
    assert lines[-1].startswith("| **mean** | all | .38 | .38")
