"""How waiting threads wait: by what else runs, and never against the user's word."""

from __future__ import annotations

import pytest

from cdtool.cli import threads


@pytest.mark.parametrize(
    ("content", "usable", "contended"),
    [
        ("0.00 0.00 0.00 1/100 42\n", 2, False),  # we alone
        ("1.00 0.90 0.80 2/100 42\n", 2, True),  # another one, for a minute
        ("0.10 0.90 0.80 2/100 42\n", 2, False),  # another one, this moment
        ("1.00 0.90 0.80 1/100 42\n", 2, False),  # another one that is over
        ("1.00 0.90 0.80 2/100 42\n", 1, False),  # it has the core that is not ours
        ("2.00 1.90 1.80 3/100 42\n", 1, True),
        ("nonsense", 2, False),
    ],
)
def test_cores_are_contended_where_others_run_now_and_ran_before(tmp_path, monkeypatch, content, usable, contended):
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(threads, "_usable", lambda: usable)
    load = tmp_path / "loadavg"
    load.write_text(content)
    assert threads._is_contended(load) is contended


def test_where_nothing_is_told_of_the_load_there_is_none(tmp_path):
    assert not threads._is_contended(tmp_path / "loadavg")


@pytest.mark.parametrize("name", threads.OF_THE_USER)
def test_the_user_is_not_overruled(name):
    environment = {name: "active"}
    threads.set_wait_policy(environment)
    assert environment == {name: "active"}


@pytest.mark.parametrize(("contended", "turns"), [(True, "0"), (False, "10000")])
def test_threads_spin_for_a_moment_only_where_cores_are_free(monkeypatch, contended, turns):
    monkeypatch.setattr(threads, "_is_contended", lambda: contended)
    environment = {}
    threads.set_wait_policy(environment)
    assert environment == {"GOMP_SPINCOUNT": turns}
