"""A set in the making: killed, stopped, raced for, replaced, and met by a full disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from corpora_made import noise

from cdtool.errors import InputError, NameTakenError, ResourceError
from cdtool.priors import sets
from cdtool.priors import work as priorwork
from cdtool.priors.sets import Manifest

RECIPE = {"generated": "so"}


def hidden(home):
    return sorted(path.name for path in (home / "priors").glob(".*"))


def fill(work, seeds):
    return tuple(work.put(noise(seed), "png", seed=seed) for seed in seeds)


def finish(name, seeds, **more):
    with priorwork.making(name, RECIPE) as work:
        return work.publish(Manifest(name, "dog", "own", {}, fill(work, seeds), side=40), **more)


def test_what_was_stopped_is_no_set_but_waits_for_the_next(home):
    with pytest.raises(KeyboardInterrupt), priorwork.making("dog", RECIPE) as work:
        fill(work, (1, 2))
        raise KeyboardInterrupt
    assert sets.names() == []
    assert [(one.name, one.pictures) for one in sets.unfinished()] == [("dog", 2)]
    with priorwork.making("dog", RECIPE) as work:
        assert [picture.seed for picture in work.kept()] == [1, 2]
        assert sets.unfinished() == []  # somebody is at work on it
        work.publish(Manifest("dog", "dog", "own", {}, (*work.kept(), *fill(work, (3,))), side=40))
    assert [picture.seed for picture in sets.find("dog").manifest.pictures] == [1, 2, 3]
    assert hidden(home) == []


def test_another_recipe_does_not_go_on_with_it(home):
    with pytest.raises(KeyError), priorwork.making("dog", RECIPE) as work:
        fill(work, (1,))
        raise KeyError
    with priorwork.making("dog", {"generated": "otherwise"}) as work:
        assert work.kept() == []
    assert [one.pictures for one in sets.unfinished()] == [1]
    finish("dog", (5,))
    assert hidden(home) == []  # the set is there now: nothing is left to go on with
    sets.remove("dog")


def test_an_empty_beginning_leaves_nothing(home):
    with pytest.raises(KeyError), priorwork.making("dog", RECIPE):
        raise KeyError
    assert hidden(home) == []


def test_a_picture_spoilt_meanwhile_is_not_kept(home):
    with pytest.raises(KeyError), priorwork.making("dog", RECIPE) as work:
        pictures = fill(work, (1, 2))
        (work.folder / pictures[0].file).write_bytes(b"half")
        with (work.folder / sets.JOURNAL).open("a") as file:
            file.write('{"sha256": "ha')  # killed over a line
        raise KeyError
    with priorwork.making("dog", RECIPE) as work:
        assert [picture.seed for picture in work.kept()] == [2]
        fill(work, (1,))
        assert sorted(picture.seed for picture in work.kept())[-2:] == [1, 2]


def test_a_killed_process_leaves_its_work_to_the_next(home):
    code = textwrap.dedent("""
        import sys, time
        from corpora_made import noise
        from cdtool.priors import work as priorwork
        with priorwork.making("dog", {"generated": "so"}) as work:
            for seed in (1, 2):
                work.put(noise(seed), "png", seed=seed)
            print("ready", flush=True)
            time.sleep(60)
    """)
    path = os.pathsep.join([str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent)])
    with subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "ready\n"
        with priorwork.making("dog", RECIPE) as work:
            assert work.kept() == []  # the other one is alive
        child.send_signal(signal.SIGKILL)
    assert sets.names() == []
    assert [(one.name, one.pictures) for one in sets.unfinished()] == [("dog", 2)]
    with priorwork.making("dog", RECIPE) as work:
        assert [picture.seed for picture in work.kept()] == [1, 2]


def test_two_at_once_get_two_names():
    with priorwork.making("dog", RECIPE) as one, priorwork.making("dog", RECIPE) as other:
        assert one.folder != other.folder
        first = one.publish(Manifest("dog", "dog", "own", {}, fill(one, (1,)), side=40))
        with pytest.raises(NameTakenError, match="dog-2"):
            other.publish(Manifest("dog", "dog", "own", {}, fill(other, (2,)), side=40))
    assert sets.names() == ["dog", "dog-2"]
    assert sets.content(first, first.manifest.pictures[0]) == noise(1)
    second = sets.find("dog-2")
    assert sets.content(second, second.manifest.pictures[0]) == noise(2)


def test_force_replaces_and_what_stays_is_not_written_again(home):
    before = finish("dog", (1, 2))
    kept = before.folder / before.manifest.pictures[1].file
    inode = kept.stat().st_ino
    after = finish("dog", (2, 3), force=True)
    assert sets.names() == ["dog"]
    assert [picture.seed for picture in after.manifest.pictures] == [2, 3]
    assert (after.folder / kept.name).stat().st_ino == inode
    assert not before.folder.exists()
    assert sorted(path.name for path in (home / "priors").iterdir()) == [after.folder.name, "dog.json"]


def test_a_changed_twin_is_not_shared():
    dog = finish("dog", (1,))
    (dog.folder / dog.manifest.pictures[0].file).write_bytes(b"spoilt")
    cat = finish("cat", (1,))
    assert sets.content(cat, cat.manifest.pictures[0]) == noise(1)


def test_only_listed_pictures_are_published():
    with priorwork.making("dog", RECIPE) as work:
        first, _ = fill(work, (1, 2))
        entry = work.publish(Manifest("dog", "dog", "own", {}, (first,), side=40))
    assert [path.name for path in entry.folder.iterdir()] == [first.file]


def test_a_place_without_links_copies(monkeypatch):
    finish("dog", (1,))

    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    cat = finish("cat", (1,))
    assert sets.content(cat, cat.manifest.pictures[0]) == noise(1)


def test_an_impossible_name_is_refused_before_anything_is_made(home):
    with pytest.raises(InputError), priorwork.making("auto", RECIPE):
        pass
    assert not (home / "priors").exists()


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_over_a_picture_keeps_those_before(monkeypatch):
    with pytest.raises(ResourceError, match="No space left"), priorwork.making("dog", RECIPE) as work:
        fill(work, (1,))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            fill(work, (2,))
    assert [one.pictures for one in sets.unfinished()] == [1]


def test_a_full_disk_over_the_manifest_keeps_everything(monkeypatch, home):
    before = finish("cat", (9,))
    with pytest.raises(ResourceError, match="could not be written"), priorwork.making("dog", RECIPE) as work:
        manifest = Manifest("dog", "dog", "own", {}, fill(work, (1, 2)), side=40)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            work.publish(manifest)
    assert list(sets.entries()) == [before]
    with priorwork.making("dog", RECIPE) as work:
        assert sorted({picture.seed for picture in work.kept()}) == [1, 2]


def test_a_data_directory_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CDTOOL_HOME", str(tmp_path / "file"))
    with pytest.raises(ResourceError), priorwork.making("dog", RECIPE):
        pass
