"""The trash: what was removed comes back whole, never over another, and not for ever."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from cdtool.errors import NameTakenError, NotFoundError
from cdtool.store import registry, trash


def files():
    return sorted(path.name for path in registry.concepts_dir().iterdir() if path.suffix in (".safetensors", ".json"))


def test_what_was_removed_comes_back_byte_for_byte_with_its_notes(saved):
    content = saved("dog").path.read_bytes()
    registry.add_note("dog", scores={"text": 0.5})
    assert trash.put("dog")
    assert files() == []
    trash.undo("dog")
    assert registry.find("dog").path.read_bytes() == content
    assert registry.note("dog")["scores"] == {"text": 0.5}
    assert list(trash.trash_dir().iterdir()) == []


def test_the_last_removal_of_a_name_is_undone_first(saved):
    for steps in (1, 2):
        saved("dog", settings={"steps": steps})
        trash.put("dog")
        newest = min(trash.trash_dir().iterdir(), key=lambda path: path.stat().st_mtime)  # those before: in 2033
        os.utime(newest, (0, 2e9 + steps))
    trash.undo("dog")
    assert registry.find("dog").manifest.settings == {"steps": 2}
    with pytest.raises(NameTakenError, match="again"):
        trash.undo("dog")
    registry.rename("dog", "rex")
    trash.undo("dog")
    assert registry.find("dog").manifest.settings == {"steps": 1}


def test_an_unknown_name_gets_the_nearest(saved):
    saved("dog")
    trash.put("dog")
    with pytest.raises(NotFoundError) as caught:
        trash.undo("dgo")
    assert "dog" in caught.value.hint


def test_it_is_emptied_after_some_days_and_on_demand(saved):
    for name in ("old", "new", "other"):
        saved(name)
        trash.put(name)
    (old,) = trash.trash_dir().glob("old.*")
    os.utime(old, (0, time.time() - (trash.DAYS + 1) * 86_400))
    trash.prune()
    trash.empty("other")
    assert [path.name.partition(".")[0] for path in trash.trash_dir().iterdir()] == ["new"]


def test_nothing_but_folders_of_its_own_is_deleted(saved, tmp_path):
    saved("dog")
    trash.put("dog")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    (trash.trash_dir() / "link.12345678").symlink_to(precious)
    os.utime(trash.trash_dir() / "link.12345678", (0, 0), follow_symlinks=False)
    trash.prune()
    trash.empty("link")
    assert (precious / "file").read_text() == "kept"


def test_a_full_disk_still_lets_go(saved, monkeypatch):
    saved("dog")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "mkdir", full)
    assert not trash.put("dog")
    assert registry.names() == []
