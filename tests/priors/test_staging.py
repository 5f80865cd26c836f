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
from cdtool.priors import sets, staging
from cdtool.priors.sets import Manifest

RECIPE = {"generated": "so"}


def hidden(home):
    return sorted(path.name for path in (home / "priors").glob(".*"))


def fill(staged, seeds):
    return tuple(staged.put(noise(seed), "png", seed=seed) for seed in seeds)


def finish(name, seeds, **more):
    with staging.stage(name, RECIPE) as staged:
        return staged.publish(Manifest(name, "dog", "own", {}, fill(staged, seeds), side=40), **more)


def test_what_was_stopped_is_no_set_but_waits_for_the_next(home):
    with pytest.raises(KeyboardInterrupt), staging.stage("dog", RECIPE) as staged:
        fill(staged, (1, 2))
        raise KeyboardInterrupt
    assert sets.names() == []
    assert [(one.name, one.images) for one in sets.unfinished()] == [("dog", 2)]
    with staging.stage("dog", RECIPE) as staged:
        assert [image.seed for image in staged.kept()] == [1, 2]
        assert sets.unfinished() == []  # somebody is at staged on it
        staged.publish(Manifest("dog", "dog", "own", {}, (*staged.kept(), *fill(staged, (3,))), side=40))
    assert [image.seed for image in sets.find("dog").manifest.images] == [1, 2, 3]
    assert hidden(home) == []


def test_another_recipe_does_not_go_on_with_it(home):
    with pytest.raises(KeyError), staging.stage("dog", RECIPE) as staged:
        fill(staged, (1,))
        raise KeyError
    with staging.stage("dog", {"generated": "otherwise"}) as staged:
        assert staged.kept() == []
    assert [one.images for one in sets.unfinished()] == [1]
    finish("dog", (5,))
    assert hidden(home) == []  # the set is there now: nothing is left to go on with
    sets.remove("dog")


def test_an_empty_beginning_leaves_nothing(home):
    with pytest.raises(KeyError), staging.stage("dog", RECIPE):
        raise KeyError
    assert hidden(home) == []


def test_a_picture_spoilt_meanwhile_is_not_kept(home):
    with pytest.raises(KeyError), staging.stage("dog", RECIPE) as staged:
        images = fill(staged, (1, 2))
        (staged.folder / images[0].file).write_bytes(b"half")
        with (staged.folder / sets.JOURNAL).open("a") as file:
            file.write('{"sha256": "ha')  # killed over a line
        raise KeyError
    with staging.stage("dog", RECIPE) as staged:
        assert [image.seed for image in staged.kept()] == [2]
        fill(staged, (1,))
        assert sorted(image.seed for image in staged.kept())[-2:] == [1, 2]


def test_a_killed_process_leaves_its_work_to_the_next(home):
    code = textwrap.dedent("""
        import sys, time
        from corpora_made import noise
        from cdtool.priors import staging
        with staging.stage("dog", {"generated": "so"}) as staged:
            for seed in (1, 2):
                staged.put(noise(seed), "png", seed=seed)
            print("ready", flush=True)
            time.sleep(60)
    """)
    path = os.pathsep.join([str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent)])
    with subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "ready\n"
        with staging.stage("dog", RECIPE) as staged:
            assert staged.kept() == []  # the other one is alive
        child.send_signal(signal.SIGKILL)
    assert sets.names() == []
    assert [(one.name, one.images) for one in sets.unfinished()] == [("dog", 2)]
    with staging.stage("dog", RECIPE) as staged:
        assert [image.seed for image in staged.kept()] == [1, 2]


def test_two_at_once_get_two_names():
    with staging.stage("dog", RECIPE) as one, staging.stage("dog", RECIPE) as other:
        assert one.folder != other.folder
        first = one.publish(Manifest("dog", "dog", "own", {}, fill(one, (1,)), side=40))
        with pytest.raises(NameTakenError, match="dog-2"):
            other.publish(Manifest("dog", "dog", "own", {}, fill(other, (2,)), side=40))
    assert sets.names() == ["dog", "dog-2"]
    assert sets.content(first, first.manifest.images[0]) == noise(1)
    second = sets.find("dog-2")
    assert sets.content(second, second.manifest.images[0]) == noise(2)


def test_force_replaces_and_what_stays_is_not_written_again(home):
    before = finish("dog", (1, 2))
    kept = before.folder / before.manifest.images[1].file
    inode = kept.stat().st_ino
    after = finish("dog", (2, 3), force=True)
    assert sets.names() == ["dog"]
    assert [image.seed for image in after.manifest.images] == [2, 3]
    assert (after.folder / kept.name).stat().st_ino == inode
    assert not before.folder.exists()
    assert sorted(path.name for path in (home / "priors").iterdir()) == [after.folder.name, "dog.json"]


def test_a_changed_twin_is_not_shared():
    dog = finish("dog", (1,))
    (dog.folder / dog.manifest.images[0].file).write_bytes(b"spoilt")
    cat = finish("cat", (1,))
    assert sets.content(cat, cat.manifest.images[0]) == noise(1)


def test_only_listed_images_are_published():
    with staging.stage("dog", RECIPE) as staged:
        first, _ = fill(staged, (1, 2))
        entry = staged.publish(Manifest("dog", "dog", "own", {}, (first,), side=40))
    assert [path.name for path in entry.folder.iterdir()] == [first.file]


def test_a_place_without_links_copies(monkeypatch):
    finish("dog", (1,))

    def refuse(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    cat = finish("cat", (1,))
    assert sets.content(cat, cat.manifest.images[0]) == noise(1)


def test_an_impossible_name_is_refused_before_anything_is_made(home):
    with pytest.raises(InputError), staging.stage("auto", RECIPE):
        pass
    assert not (home / "priors").exists()


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_over_a_picture_keeps_those_before(monkeypatch):
    with pytest.raises(ResourceError, match="No space left"), staging.stage("dog", RECIPE) as staged:
        fill(staged, (1,))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            fill(staged, (2,))
    assert [one.images for one in sets.unfinished()] == [1]


def test_a_full_disk_over_the_manifest_keeps_everything(monkeypatch, home):
    before = finish("cat", (9,))
    with pytest.raises(ResourceError, match="could not be written"), staging.stage("dog", RECIPE) as staged:
        manifest = Manifest("dog", "dog", "own", {}, fill(staged, (1, 2)), side=40)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            staged.publish(manifest)
    assert list(sets.entries()) == [before]
    with staging.stage("dog", RECIPE) as staged:
        assert sorted({image.seed for image in staged.kept()}) == [1, 2]


def test_a_data_directory_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CDTOOL_HOME", str(tmp_path / "file"))
    with pytest.raises(ResourceError), staging.stage("dog", RECIPE):
        pass
