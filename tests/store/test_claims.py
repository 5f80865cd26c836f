"""Claims of cells: one worker each, given back by the living and taken from the dead."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from cdtool.errors import InputError
from cdtool.store import claims


def none(cell):
    return ()


def dead_pid():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_cell_is_claimed_once_and_given_back(tmp_path):
    first = claims.take(tmp_path, ["a", "b"], none)
    second = claims.take(tmp_path, ["a", "b"], none)
    assert (first.cell, second.cell) == ("a", "b")
    assert claims.take(tmp_path, ["a", "b"], none) is None
    with claims.kept(tmp_path, first):
        assert claims.alive(tmp_path, first)
    assert claims.take(tmp_path, ["b", "a"], none).cell == "a"


def test_many_takers_get_a_cell_each(tmp_path):
    cells, got = [f"c{number}" for number in range(24)], []

    def work():
        while claim := claims.take(tmp_path, cells, none):
            got.append(claim.cell)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(cells)


def test_a_concept_is_trained_by_one_worker_at_a_time(tmp_path):
    needs = {"a": ("dog",), "b": ("dog", "cat"), "c": ("gate",)}
    first = claims.take(tmp_path, ["a", "b", "c"], needs.get)
    assert claims.take(tmp_path, ["b", "c"], needs.get).cell == "c", "b waits for dog"
    assert claims.take(tmp_path, ["b"], needs.get) is None
    with claims.kept(tmp_path, first):
        pass
    assert claims.take(tmp_path, ["b"], needs.get).cell == "b"


def hand_over(folder, **changed):
    """Make the claim of "a" another worker's."""
    claim = claims.Claim(**{"cell": "a", "host": claims.host(), "pid": os.getpid(), "since": 0.0, **changed})
    claims._write(claims._path(folder, "a"), claims.asdict(claim))
    return claim


def test_the_cell_of_a_killed_worker_is_taken_over(tmp_path):
    hand_over(tmp_path, pid=dead_pid())
    claim = claims.take(tmp_path, ["a"], none)
    assert (claim.cell, claim.attempt, claim.pid) == ("a", 2, os.getpid())


def test_a_worker_elsewhere_is_dead_once_it_shows_no_sign_of_life(tmp_path):
    claim = hand_over(tmp_path, host="elsewhere", pid=1)
    assert claims.take(tmp_path, ["a"], none) is None
    assert claims.alive(tmp_path, claim)
    old = claims._path(tmp_path, "a").stat().st_mtime - 2 * claims.STALE
    os.utime(claims._path(tmp_path, "a"), (old, old))
    assert not claims.alive(tmp_path, claim)
    assert claims.take(tmp_path, ["a"], none).attempt == 2


def test_signs_of_life_keep_a_claim(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.01)
    claim = claims.take(tmp_path, ["a"], none)
    path = claims._path(tmp_path, "a")
    os.utime(path, (1, 1))
    beaten = threading.Event()
    monkeypatch.setattr(claims, "_touch", lambda _: beaten.set())
    with claims.kept(tmp_path, claim):
        assert beaten.wait(10)


def test_a_claim_that_went_to_another_worker_is_left_to_it(tmp_path):
    claim = claims.take(tmp_path, ["a"], none)
    with claims.kept(tmp_path, claim):
        hand_over(tmp_path, host="elsewhere")
    assert [one.host for one in claims.claims(tmp_path)] == ["elsewhere"]


def test_a_cell_that_kills_its_workers_fails(tmp_path):
    hand_over(tmp_path, pid=dead_pid(), attempt=claims.ATTEMPTS)
    assert claims.take(tmp_path, ["a"], none) is None
    assert "died 3 times" in claims.failures(tmp_path)["a"].message
    assert claims.claims(tmp_path) == []


def test_failures_are_kept_and_forgotten(tmp_path):
    claim = claims.take(tmp_path, ["a"], none)
    claims.fail(tmp_path, claim, InputError("No photos.", "Add some."))
    (found,) = claims.failures(tmp_path).values()
    assert (found.cell, found.message, found.hint) == ("a", "No photos.", "Add some.")
    claims.forget(tmp_path, "a")
    assert claims.failures(tmp_path) == {}


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"cell": "a"}'])
def test_a_damaged_claim_is_nobodys(tmp_path, content):
    claims._path(tmp_path, "a").write_text(content)
    assert claims.take(tmp_path, ["a"], none).attempt == 1
