"""Corpora in every form they come in, hand-made, against what was put into them."""

from __future__ import annotations

import json

import pytest
from corpora_made import coco, lines, noise, picture, tar

from cdtool.errors import InputError, NotFoundError
from cdtool.images import corpora


def contents(found):
    return {member.caption: corpora.content(member) for member in found}


def test_a_folder_with_captions_beside_its_pictures_at_any_depth(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for place, name in enumerate(["a.png", "deep/b.JPG", "deep/er/c.webp", "lonely.png", ".hidden/d.png"]):
        (tmp_path / name).write_bytes(noise(place))
        if "lonely" not in name:
            (tmp_path / name).with_suffix(".txt").write_text(f"  caption\n {place} ")
    (tmp_path / "empty.png").write_bytes(noise(9))
    (tmp_path / "empty.txt").write_text(" ")
    found = corpora.read(tmp_path)
    assert contents(found) == {f"caption {n}": noise(n) for n in range(3)}


def test_a_folder_with_one_table_of_captions(tmp_path):
    (tmp_path / "images").mkdir()
    for place in range(3):
        (tmp_path / "images" / f"{place}.png").write_bytes(noise(place))
    table = lines(("images/0.png", "zero"), ("images/1.png", "one "), ("gone.png", "nobody"), ("images/2.png", " "))
    (tmp_path / "captions.jsonl").write_text(table + "\n", encoding="utf-8-sig")
    assert contents(corpora.read(tmp_path)) == {"zero": noise(0), "one": noise(1)}
    assert contents(corpora.read(tmp_path / "captions.jsonl")) == {"zero": noise(0), "one": noise(1)}


@pytest.mark.parametrize("layout", ["val2017", "images/val2017", "images", "annotations", "annotations/images"])
def test_coco_captions_find_their_pictures_where_coco_lays_them(tmp_path, layout):
    path = coco(tmp_path / "annotations" / "captions_val2017.json",
                [("1.jpg", "one"), ("2.jpg", "two"), ("1.jpg", "first"), ("3.jpg", "not there")])  # fmt: skip
    (tmp_path / layout).mkdir(parents=True, exist_ok=True)
    for name in ("1", "2"):
        (tmp_path / layout / f"{name}.jpg").write_bytes(noise(int(name), "JPEG"))
    found = corpora.read(path)
    assert [member.caption for member in found] == ["one", "two", "first"]
    assert corpora.content(found[0]) == corpora.content(found[2]) == noise(1, "JPEG")


def test_coco_captions_with_their_pictures_elsewhere(tmp_path):
    path = coco(tmp_path / "captions.json", [("1.jpg", "one")])
    with pytest.raises(NotFoundError) as raised:
        corpora.read(path)
    assert "--images" in raised.value.hint
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "far" / "away" / "1.jpg").write_bytes(noise(1))
    assert contents(corpora.read(path, tmp_path / "far" / "away")) == {"one": noise(1)}


def test_a_tar_pairs_pictures_with_captions_of_every_kind(tmp_path):
    table = lines(("3.png", "a  table's"), ("gone.png", "nobody"))
    members = [
        ("x/1.txt", b"first  one\n"), ("x/1.webp", picture(5, "WEBP")), ("y/1.jpg", picture(6, "JPEG")),
        ("y/1.json", json.dumps({"caption": "second"}).encode()), ("z/3.png", picture(7)),
        ("z/captions.jsonl", table.encode()), ("3.png", picture(8)), ("4.txt", b"no picture"), ("5.cls", b"0"),
    ]  # fmt: skip
    found = corpora.read(tar(tmp_path / "corpus.tar", members))
    assert contents(found) == {
        "first one": picture(5, "WEBP"), "second": picture(6, "JPEG"), "a table's": picture(7),
    }  # fmt: skip


def test_a_folder_of_tars_is_one_corpus(tmp_path):
    for shard in range(3):
        tar(tmp_path / f"{shard}.tar", [("1.png", noise(shard)), ("1.txt", f"shard {shard}".encode())])
    assert contents(corpora.read(tmp_path)) == {f"shard {n}": noise(n) for n in range(3)}


def test_a_tar_that_changed_is_read_again(tmp_path):
    path = tar(tmp_path / "corpus.tar", [("1.png", picture(5)), ("1.txt", b"old")])
    assert corpora.read(path)[0].caption == "old"
    tar(path, [("1.png", picture(5)), ("1.txt", b"new one"), ("2.png", picture(5)), ("2.txt", b"x" * 9000)])
    assert corpora.read(path)[0].caption == "new one"


def test_damaged_corpora_are_told_in_a_sentence(tmp_path):
    with pytest.raises(NotFoundError, match=r"lost\.tar"):
        corpora.read(tmp_path / "lost.tar")
    packed = tar(tmp_path / "packed.tar", [("1.png", picture(5)), ("1.txt", b"dog")], "w:gz")
    with pytest.raises(InputError, match="cannot be read"):
        corpora.read(packed)
    with pytest.raises(InputError, match="no captioned picture"):
        corpora.read(tar(tmp_path / "bare.tar", [("1.png", picture(5))]))
    for name, text in {
        "bad.json": "{",
        "other.json": "{}",
        "list.json": "[]",
        "bad.jsonl": '{"file_name": 1}\n',
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="cannot be read"):
            corpora.read(tmp_path / name)
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin" / "1.png").write_bytes(noise(1))
    (tmp_path / "latin" / "1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="cannot be read"):
        corpora.read(tmp_path / "latin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no captioned picture"):
        corpora.read(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.txt", "a dog\n\n a  cat \n"),
        ("c.jsonl", '{"file_name": "lost.png", "text": "a dog"}\n\n{"text": "a cat"}\n'),
        ("c.json", '{"images": [], "annotations": [{"caption": "a dog"}, {"caption": " a cat"}]}'),
    ],
)
def test_captions_need_no_pictures(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert corpora.captions(tmp_path / name) == ["a dog", "a cat"]


def test_captions_of_a_tar_are_those_of_its_pictures(tmp_path):
    path = tar(tmp_path / "c.tar", [("1.png", picture(1)), ("1.txt", b"a dog"), ("2.txt", b"no picture")])
    assert corpora.captions(path) == ["a dog"]


@pytest.mark.parametrize(
    ("items", "count", "chosen"),
    [("abcdefgh", 4, "aceg"), ("abcdefg", 3, "ace"), ("abc", 3, "abc"), ("ab", 5, "ab"), ("abc", 0, ""), ("", 2, "")],
)
def test_an_even_choice_is_from_all_over(items, count, chosen):
    assert corpora.evenly(items, count) == list(chosen)
