"""cdtool suite from the command line."""

from __future__ import annotations

import json

import suite_made


def test_a_suite_is_run_and_its_tables_are_printed_and_written(cdtool, wide_base, tmp_path, monkeypatch):
    suite_made.see_colours(monkeypatch)
    path = suite_made.write(tmp_path)
    command = ("suite", "run", path, "--out", tmp_path / "out", "--base", wide_base, "--only", "*.dog")
    planned = cdtool(*command, "--dry-run", "--json")
    assert json.loads(planned.out)["cells"] == ["base.dog", "ours.dog"]
    assert not (tmp_path / "out").exists()
    said = cdtool(*command)
    assert said.code == 0, said.err
    assert "| single | Ours |" in said.out
    assert "ours.dog: text" in said.err
    again = cdtool(*command, "--json")
    found = json.loads(again.out)
    assert set(found["scores"]) == {"base.dog", "ours.dog"}
    assert "2 of 2 cells are finished already" in again.err
    assert (tmp_path / "out" / "tables.md").read_text() == said.out
    assert json.loads((tmp_path / "out" / "tables.json").read_text())["tables"] == found["tables"]


def test_a_suite_that_is_not_there_is_told(cdtool):
    said = cdtool("suite", "run", "mnii")
    assert said.code == 3
    assert "mini" in said.err
    said = cdtool("suite", "run", "paper")
    assert said.code == 3
    assert "--data" in said.err
