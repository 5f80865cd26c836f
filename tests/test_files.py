"""Files that appear whole: the workplace goes whatever happens, and a name in use is never taken."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from cdtool.files import is_abandoned, owner, publish, sweep, workplace


def test_a_workplace_goes_with_all_it_holds(tmp_path):
    with pytest.raises(KeyError), workplace(tmp_path) as work:
        (work / "half").write_text("half")
        assert str(os.getpid()) in work.name
        assert work.name.startswith(".")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_name_in_use_is_left_alone(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("new")
    target.write_text("old")
    assert not publish(source, target)
    assert (source.read_text(), target.read_text()) == ("new", "old")
    target.unlink()
    assert publish(source, target)
    assert target.read_text() == "new"
    assert not source.exists()


def test_other_errors_are_not_hidden(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "link", full)
    (tmp_path / "a").touch()
    with pytest.raises(OSError, match="full"):
        publish(tmp_path / "a", tmp_path / "b")


def test_sweeping_while_our_own_work_goes_on(tmp_path):
    with workplace(tmp_path) as work:
        (work / "half").write_text("half")
        sweep(tmp_path)
        assert (work / "half").exists()


def test_what_a_dead_process_of_this_machine_signed_is_abandoned():
    host, _, pid = owner().rpartition(".")
    assert int(pid) == os.getpid()
    assert not is_abandoned(owner())
    assert not is_abandoned(f"{host}.1")  # init lives
    with subprocess.Popen(["true"]) as child:
        pass
    assert is_abandoned(f"{host}.{child.pid}")
    assert not is_abandoned(f"{host}-elsewhere.{child.pid}")
    assert not is_abandoned("nonsense")
