"""--log FILE: what ran, what was said and how it ended, wherever the option stands; never instead of the work."""

from __future__ import annotations

import os

import pytest

from cdtool.store import registry


@pytest.mark.parametrize("words", [["--log", "LOG", "show", "nothing"], ["show", "--log=LOG", "nothing"],
                                   ["show", "nothing", "--log", "LOG"]])  # fmt: skip
def test_it_holds_what_ran_what_was_said_and_the_traceback_of_a_known_error(cdtool, tmp_path, monkeypatch, words):
    monkeypatch.setenv("HF_TOKEN", "secret")
    path = tmp_path / "run.log"
    said = cdtool(*(word.replace("LOG", str(path)) for word in words))
    plain = cdtool("show", "nothing")
    assert (said.code, said.out, said.err) == (plain.code, plain.out, plain.err)
    text = path.read_text()
    assert "arguments  ['show', 'nothing']" in text
    assert 'There is no concept "nothing"' in text
    assert "Traceback" in text
    assert "exit code 3" in text
    assert "CDTOOL_HOME" in text
    assert "secret" not in text


def test_results_are_in_it_and_runs_follow_each_other(cdtool, tmp_path, saved):
    saved("dog")
    path = tmp_path / "run.log"
    for _ in range(2):
        assert cdtool("list", "--quiet", "--log", path).out == "dog\n"
    assert path.read_text().count("  dog\n") == path.read_text().count("exit code 0") == 2


@pytest.mark.parametrize("kind", ["folder", "pipe", "nowhere", "too long"])
def test_a_log_that_cannot_be_written_is_told_before_the_work(cdtool, tmp_path, saved, kind):
    saved("dog")
    place = tmp_path / kind
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    path = {"nowhere": place / "x", "too long": tmp_path / ("x" * 300)}.get(kind, place)
    said = cdtool("remove", "dog", "--yes", "--log", path)
    assert said.code == 5
    assert "cannot be written" in said.err
    assert registry.names() == ["dog"]


def test_it_needs_its_file_and_ends_at_two_dashes(cdtool):
    assert cdtool("list", "--log").code == 2
    assert cdtool("show", "--", "--log").code == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full here")
def test_a_disk_that_fills_costs_the_log_not_the_work(cdtool, saved):
    saved("dog")
    assert cdtool("list", "--quiet", "--log", "/dev/full").out == "dog\n"
