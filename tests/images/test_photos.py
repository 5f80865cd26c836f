"""Folders of good and bad files, and the captions that come of them."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image

from cdtool.errors import NotFoundError, PhotoError
from cdtool.images import photos
from cdtool.tokens import Token, bind

DOG = Token("dog")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def save(path, size=(64, 64), seed=0, **options):
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).save(path, **options)
    return path


def reasons(skipped):
    return {item.path.name: item.reason for item in skipped}


def test_photos_come_in_natural_order_with_hash_and_size(folder):
    for seed, name in enumerate(["dog10.png", "dog2.png", "Dog1.png"]):
        save(folder / name, (80, 64), seed)
    found, skipped = photos.find([folder])
    assert [photo.path.name for photo in found] == ["Dog1.png", "dog2.png", "dog10.png"]
    assert skipped == []
    assert found[0].sha256 == hashlib.sha256((folder / "Dog1.png").read_bytes()).hexdigest()
    assert found[0].size == (80, 64)
    assert photos.read(found[0]).size == (80, 64)


def test_every_unusable_file_has_its_reason(folder):
    good = save(folder / "a.jpg")
    (folder / "b-copy.jpg").write_bytes(good.read_bytes())
    cut = save(folder / "cut.jpg", (200, 200), 3).read_bytes()
    (folder / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    (folder / "empty.png").touch()
    (folder / "film.mp4").write_bytes(b"\0\0\0 ftypisom" + bytes(200))
    (folder / "phone.HEIC").write_bytes(b"\0\0\0 ftypheic" + bytes(200))
    save(folder / "raw.tiff").rename(folder / "raw.nef")
    (folder / "lonely.txt").write_text("a caption")
    (folder / "inner").mkdir()
    os.symlink(folder / "nowhere", folder / "link.jpg")
    save(folder / "tiny.png", (64, 31), 9)
    for name in (".DS_Store", "Thumbs.db"):
        (folder / name).write_bytes(b"litter")
    found, skipped = photos.find([folder])
    assert [photo.path.name for photo in found] == ["a.jpg"]
    expected = {
        "b-copy.jpg": "same picture as a.jpg", "cut.jpg": "cut short", "empty.png": "empty", "film.mp4": "not an image",
        "raw.nef": "raw file", "lonely.txt": "without its photo", "inner": "folder", "link.jpg": "not a file",
        "tiny.png": "64x31",
    }  # fmt: skip
    given = reasons(skipped)
    assert set(given) == {*expected, "phone.HEIC"}
    for name, part in expected.items():
        assert part in given[name]


def test_a_link_to_itself_is_skipped(folder):
    save(folder / "good.png")
    (folder / "loop.png").symlink_to("loop.png")
    found, skipped = photos.find([folder])
    assert [photo.path.name for photo in found] == ["good.png"]
    assert reasons(skipped) == {"loop.png": "not a file"}


def test_a_name_too_long_for_a_path_is_not_there(folder):
    with pytest.raises(NotFoundError, match="no photo or folder"):
        photos.find([folder / ("x" * 5000)])


def test_heic_without_its_plugin_names_the_package(folder, monkeypatch):
    save(folder / "a.png")
    (folder / "phone.heic").write_bytes(b"\0\0\0 ftypheic" + bytes(200))
    monkeypatch.setattr(photos, "formats", lambda: ("JPEG", "PNG"))
    _, skipped = photos.find([folder])
    assert "pip install pillow-heif" in reasons(skipped)["phone.heic"]


def test_small_photos_are_scaled_up_but_not_below_a_quarter(folder):
    save(folder / "a.png", (512, 512), 0)
    save(folder / "b.png", (300, 200), 1)
    save(folder / "c.png", (300, 120), 2)
    found, skipped = photos.find([folder], resolution=512)
    assert [(photo.path.name, bool(photo.note)) for photo in found] == [("a.png", False), ("b.png", True)]
    assert "128" in reasons(skipped)["c.png"]


def test_files_may_be_given_one_by_one_as_a_shell_does(folder):
    first = save(folder / "1.png", seed=1)
    second = save(folder / "2.png", seed=2)
    text = folder / "1.txt"
    text.write_text("the dog\nasleep\n")
    table = folder / "captions.jsonl"
    table.write_text('{"file_name": "2.png", "text": "the dog awake"}\n')
    found, skipped = photos.find([second, text, table, first, folder])
    assert [photo.path.name for photo in found] == ["2.png", "1.png"]
    assert [photo.caption for photo in found] == ["the dog awake", "the dog asleep"]
    assert skipped == []


def test_a_linked_photo_takes_the_caption_beside_the_link(folder):
    save(folder / "store" / "x.png")
    (folder / "set").mkdir()
    os.symlink(folder / "store" / "x.png", folder / "set" / "x.png")
    (folder / "set" / "x.txt").write_text("my caption")
    assert photos.find([folder / "set"])[0][0].caption == "my caption"


def test_nothing_usable_is_an_error_that_says_why(folder):
    with pytest.raises(PhotoError, match="no usable photo"):
        photos.find([folder])
    (folder / "a.jpg").write_text("not a picture")
    with pytest.raises(PhotoError, match=r"a\.jpg: not an image"):
        photos.find([folder])
    with pytest.raises(NotFoundError, match="nowhere"):
        photos.find([folder / "nowhere"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{oops", "line 2 is not JSON"),
        ('{"file_name": "b.png", "text": "x"}', "no file b.png"),
        ('{"file_name": "a.png"}', "needs"),
        ('["a.png", "x"]', "needs"),
        ('{"file_name": "a.png", "text": " "}', "empty caption"),
        ('{"file_name": "a.png", "text": "again"}', "already"),
    ],
)
def test_a_bad_line_of_captions_is_named(folder, line, words):
    save(folder / "a.png")
    good = json.dumps({"file_name": "a.png", "text": "fine"})
    (folder / "captions.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(PhotoError, match=words):
        photos.find([folder])


def test_an_empty_or_binary_caption_is_an_error(folder):
    save(folder / "a.png")
    (folder / "a.txt").write_text(" \n")
    with pytest.raises(PhotoError, match="empty"):
        photos.find([folder])
    (folder / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PhotoError, match="UTF-8"):
        photos.find([folder])


def test_a_photo_spoilt_later_is_a_photo_error(folder):
    path = save(folder / "a.png")
    found = photos.find([folder])[0][0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PhotoError, match="any more"):
        photos.read(found)
    path.unlink()
    with pytest.raises(PhotoError, match="any more"):
        photos.read(found)


def photo(caption=""):
    return photos.Photo(path=None, sha256="", size=(1, 1), caption=caption)


@pytest.mark.parametrize(
    ("token", "place", "style", "expected"),
    [
        (DOG, None, False, "photo of a V* dog"),
        (DOG, 1, False, "photo of a V2 dog"),
        (Token("owl"), 0, False, "photo of a V1 owl"),
        (Token("moongate", modifier=False), 1, False, "photo of a moongate"),
        (Token("owl", modifier=False), None, False, "photo of an owl"),
        (Token("unicorn", modifier=False), None, False, "photo of a unicorn"),
        (Token("art"), None, True, "painting in the style of V* art"),
    ],
)
def test_templates(token, place, style, expected):
    assert photos.caption_for(token, place, style, photo()) == expected


@pytest.mark.parametrize(
    ("caption", "place", "expected"),
    [
        ("a V* dog on grass", None, "a V* dog on grass"),
        ("a V* dog on grass", 1, "a V2 dog on grass"),
        ("V1 cat with V2 dog", 1, "V1 cat with V2 dog"),
        ("A dog and another dog", None, "A V* dog and another dog"),
        ("my Dog asleep", 0, "my V1 dog asleep"),
        ("a hotdog", None, "photo of a V* dog, a hotdog"),
        ("a terrier on grass", 2, "photo of a V3 dog, a terrier on grass"),
    ],
)
def test_user_captions_are_made_to_name_the_token(caption, place, expected):
    made = photos.caption_for(DOG, place, False, photo(caption))
    assert made == expected
    assert place is not None or bind(made, [DOG]).named == {0}


def test_articles_and_plain_words_in_user_captions():
    owl = Token("owl")
    assert photos.caption_for(owl, None, False, photo("an owl at night")) == "a V* owl at night"
    gate = Token("moongate", modifier=False)
    assert photos.caption_for(gate, None, False, photo("the moongate")) == "the moongate"
    assert photos.caption_for(gate, None, False, photo("a garden")) == "photo of a moongate, a garden"
