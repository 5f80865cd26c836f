"""Files that appear whole: the workplace goes whatever happens, and a name in use is never taken."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdtool import files
from cdtool.errors import ResourceError
from cdtool.files import is_abandoned, owner, publish, replacing, sweep, workplace


def test_a_workplace_goes_with_all_it_holds(tmp_path):
    with pytest.raises(KeyError), workplace(tmp_path) as work:
        (work / "half").write_text("half")
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


def test_a_killed_process_leaves_nothing_after_a_sweep(tmp_path):
    code = (
        "import os, pathlib, sys\n"
        "from cdtool.files import workplace\n"
        "with workplace(pathlib.Path(sys.argv[1])) as work:\n"
        "    (work / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert len(list(tmp_path.rglob("half"))) == 1
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    with replacing(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert (path.read_text(), [one.name for one in tmp_path.iterdir()]) == ("new", ["a.json"])


def test_a_replaced_file_has_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "any").touch()
    with replacing(tmp_path / "a") as temporary:
        temporary.touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="regular"):
        files.open_regular(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"x" * 11)
    assert files.read_regular(tmp_path / "long", most=11) == b"x" * 11
    with pytest.raises(OSError, match="more than"):
        files.read_regular(tmp_path / "long", most=10)


def test_room_and_rights_are_checked_where_nothing_is_made(tmp_path, monkeypatch):
    files.check_writable(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="file is not a folder"):
        files.check_writable(tmp_path / "file" / "below")
    with pytest.raises(ResourceError, match=r"The disk of .* is full: 1000000000 MB are needed"):
        files.check_writable(tmp_path, needed=10**15)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ResourceError, match="read-only"):
        files.check_writable(tmp_path)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (RuntimeError("odd"), "odd"),
    ],
)
def test_what_a_failed_write_says(tmp_path, error, said):
    assert said in str(files.write_error(tmp_path / "a", error))


def test_json_is_read_of_regular_files_alone(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 50_000)
    with pytest.raises(ValueError, match="deep"):
        files.parse_json(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="regular"):
        files.parse_json(tmp_path / "pipe")
    path.write_text('\ufeff{"a": 1}', encoding="utf-8")
    assert files.parse_json(path) == {"a": 1}


def test_no_code_of_a_base_is_ever_trusted():
    package = Path(files.__file__).parent
    assert not [path for path in package.rglob("*.py") if "trust_remote_code" in path.read_text(encoding="utf-8")]
