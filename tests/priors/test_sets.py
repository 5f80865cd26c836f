"""Prior sets on disk: listing, finding, damage, names, and removal that harms no other set."""

from __future__ import annotations

import json
import os
import time

import pytest
from corpora_made import noise

from cdtool.errors import InputError, NameTakenError, NotFoundError, PhotoError
from cdtool.priors import sets, staging
from cdtool.priors.sets import Manifest


def made(name, *seeds, noun="dog"):
    with staging.stage(name, {"of": name}) as staged:
        images = tuple(staged.put(noise(seed), "png", caption=f"{noun} {seed}") for seed in seeds)
        return staged.publish(Manifest(name, noun, "own", {"folder": "x"}, images, side=40))


def test_nothing_is_there_at_first():
    assert sets.names() == []
    assert list(sets.entries()) == []
    assert sets.unfinished() == []


def test_a_set_comes_back_as_it_was_published(home):
    entry = made("dog", 1, 2)
    assert sets.names() == ["dog"]
    found = sets.find("dog")
    assert found == entry
    assert found.path == home / "priors" / "dog.json"
    assert [image.caption for image in found.manifest.images] == ["dog 1", "dog 2"]
    assert found.bytes == len(noise(1)) + len(noise(2))
    assert [sets.content(found, image) for image in found.manifest.images] == [noise(1), noise(2)]
    assert (found.manifest.noun, found.manifest.source, found.manifest.side) == ("dog", "own", 40)
    assert found.manifest.created.endswith("+00:00")


def test_an_unknown_name_is_told_with_the_nearest():
    made("teddy", 1)
    with pytest.raises(NotFoundError) as raised:
        sets.find("tedy")
    assert "teddy" in raised.value.hint
    with pytest.raises(NotFoundError, match="no prior set"):
        sets.find("../dog")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1}', '{"format": 1, "images": [{}]}'])
def test_a_damaged_manifest_is_listed_as_damaged(home, text):
    made("dog", 1)
    (home / "priors" / "cat.json").write_text(text)
    kinds = {entry.name: entry.manifest is None for entry in sets.entries()}
    assert kinds == ({"cat": True, "dog": False} if text else {"dog": False})
    with pytest.raises((InputError, NotFoundError)):
        sets.find("cat")


def test_a_set_of_format_1_is_read_with_the_names_of_today(home):
    made("dog", 1, 2)
    path = home / "priors" / "dog.json"
    table = json.loads(path.read_text())
    before = {"pictures": table.pop("images"), "asked": False, "format": 1}
    path.write_text(json.dumps({key: value for key, value in table.items() if key != "requested"} | before))
    entry = sets.find("dog")
    assert [image.caption for image in entry.manifest.images] == ["dog 1", "dog 2"]
    assert entry.manifest.requested is False
    assert sets.content(entry, entry.manifest.images[0]) == noise(1)


def test_keys_of_a_newer_minor_version_are_passed_over(home):
    made("dog", 1)
    path = home / "priors" / "dog.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mood": "good"}))
    assert sets.find("dog").manifest.noun == "dog"


def test_missing_and_changed_images_are_told_apart():
    entry = made("dog", 1, 2)
    first, second = entry.manifest.images
    (entry.folder / first.file).unlink()
    (entry.folder / second.file).write_bytes(noise(2) + b"x")
    with pytest.raises(PhotoError, match="is missing"):
        sets.content(entry, first)
    with pytest.raises(PhotoError, match="has changed"):
        sets.content(entry, second)


@pytest.mark.parametrize("name", ["", "Dog", "a b", "-x", "x/y", "auto", "none", "generated", "x" * 101])
def test_impossible_names(name):
    with pytest.raises(InputError, match="cannot be the name") as raised:
        sets.check_free(name)
    assert "--name" in raised.value.hint


def test_a_name_in_use():
    made("dog", 1)
    with pytest.raises(NameTakenError, match="already"):
        sets.check_free("dog")
    sets.check_free("dog", force=True)
    sets.check_free("dog-2")


def test_removing_a_set_leaves_what_others_share(home):
    dog, cat = made("dog", 1, 2), made("cat", 2, 3)
    shared = next(iter({p.file for p in dog.manifest.images} & {p.file for p in cat.manifest.images}))
    assert (dog.folder / shared).stat().st_ino == (cat.folder / shared).stat().st_ino  # stored once
    sets.remove("dog")
    assert sets.names() == ["cat"]
    assert not dog.folder.exists()
    assert [sets.content(cat, image) for image in cat.manifest.images] == [noise(2), noise(3)]
    with pytest.raises(NotFoundError):
        sets.remove("dog")
    sets.remove("cat")
    assert list((home / "priors").iterdir()) == []


def test_a_damaged_set_can_be_removed(home):
    made("dog", 1)
    (home / "priors" / "dog.json").write_text("{")
    sets.remove("dog")
    assert sets.names() == []


def test_folders_nobody_names_go_after_a_while(home):
    entry = made("dog", 1)
    old, new = home / "priors" / "cat.0123abcd", home / "priors" / "cow.0123abcd"
    (home / "priors" / "mine").mkdir()
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (time.time() - 3600,) * 2)
    os.utime(entry.folder, (time.time() - 3600,) * 2)
    sets.sweep_folders()
    assert not old.exists()
    assert new.exists()  # perhaps just being published
    assert entry.folder.exists()
    assert (home / "priors" / "mine").exists()


@pytest.fixture
def two(home):
    """Two small sets of one image each, dog and cat, and a folder outside with a file in it."""
    for name in ("dog", "cat"):
        with staging.stage(name, {"own": name}) as work:
            taken = work.put(name.encode(), "png", caption=name)
            work.publish(Manifest(name, name, "own", {}, images=(taken,), side=8))
    outside = home.parent / "outside.12345678"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    return outside


def rewrite(name, **values):
    path = sets.sets_dir() / f"{name}.json"
    table = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in table.items() if value is not ...}))


@pytest.mark.parametrize(
    "folder",
    [..., "", "..", "../outside.12345678", "/", "/tmp", "cat", "dog", "a/b.12345678", 3, None, "dog.g"],
)
@pytest.mark.parametrize("how", ["remove", "force"])
def test_only_a_folder_of_the_sets_own_making_is_ever_removed(two, folder, how):
    before = {path for path in sets.sets_dir().rglob("*") if path.suffix == ".png"}
    rewrite("dog", folder=folder)
    assert sets.find("cat")
    with pytest.raises(InputError):
        sets.find("dog")
    if how == "remove":
        sets.remove("dog")
    else:
        with staging.stage("dog", {"own": "new"}) as work:
            work.publish(Manifest("dog", "dog", "own", {}, images=(work.put(b"new", "png"),), side=8), force=True)
    assert before <= {path for path in sets.sets_dir().rglob("*") if path.suffix == ".png"}
    assert (two / "precious").read_text() == "precious"


def test_a_manifest_that_names_another_sets_folder_or_a_link_removes_neither(two):
    cats = sets.find("cat").folder
    rewrite("dog", folder=cats.name)
    sets.remove("dog")
    (sets.sets_dir() / "cat-2.json").write_bytes((sets.sets_dir() / "cat.json").read_bytes())
    sets.remove("cat-2")
    assert len(list(cats.iterdir())) == 1
    (sets.sets_dir() / "cat.0a0a0a0a").symlink_to(two)
    rewrite("cat", folder="cat.0a0a0a0a")
    sets.remove("cat")
    assert (two / "precious").exists()


def test_a_folder_outside_is_not_discarded_whoever_asks(two, tmp_path):
    for folder in (two, tmp_path, sets.sets_dir(), sets.sets_dir() / ".." / ".." / two.name):
        sets.discard(folder)
        assert folder.exists()


@pytest.mark.parametrize(
    "values", [{"images": 3}, {"images": [1]}, {"images": []}, {"noun": 1}, {"format": 99}, {"format": "x"},
               {"images": [{"sha256": "a", "file": "../x"}]}, {"origin": []}, {"side": float("inf")}]
)  # fmt: skip
def test_a_manifest_with_one_value_of_another_type(two, values):
    rewrite("dog", **values)
    assert [entry.manifest is None for entry in sets.entries()] == [False, True]
