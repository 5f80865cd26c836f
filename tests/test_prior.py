"""Prior sets from a small hand-made tar and from folders, against brute force over hand-made features."""

from __future__ import annotations

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from cdtool import features, prior
from cdtool.errors import BaseError, NotFoundError, PhotoError
from cdtool.tokens import Token

DOG = Token("dog")
SPEC = features.EncoderSpec("fake", "nowhere", 0.85)


def angle(text):
    """Captions name their angle to the prompt in degrees: "dog 30" lies 30 degrees from "photo of a dog"."""
    return float(text.split()[-1]) if text.split()[-1].isdigit() else 0.0


def encoder():
    def text(texts):
        angles = np.radians([angle(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) * 3

    return features.Encoder(SPEC, text, None)


def picture(grey, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (grey, grey, grey)).save(file, kind)
    return file.getvalue()


def tar(path, members, mode="w"):
    with tarfile.open(path, mode) as made:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A base whose corpus has captions 0 to 176 degrees away, shuffled, each of another grey."""
    monkeypatch.setattr(prior, "LEAST", 3)
    members = []
    for degrees in np.random.default_rng(0).permutation(89):
        members += [(f"{degrees:04}.png", picture(degrees)), (f"{degrees:04}.txt", f"dog {2 * degrees}\n".encode())]
    folder = tmp_path / "base"
    folder.mkdir()
    tar(folder / "corpus.tar", members)
    (folder / "cdtool.toml").write_text('[prior]\ncorpus = "corpus.tar"\nfloor = 0.5\n')
    return folder


def test_captions_of_a_tar_may_stand_in_one_table(tmp_path):
    lines = [{"file_name": "1.png", "text": "a  dog"}, {"file_name": "gone.png", "text": "nobody"}]
    table = "".join(json.dumps(line) + "\n" for line in lines).encode()
    path = tar(
        tmp_path / "corpus.tar", [("in/1.png", picture(5)), ("in/2.png", picture(6)), ("in/captions.jsonl", table)]
    )
    (member,) = prior.read_index(path)
    assert member.caption == "a dog"
    assert prior.open_member(path, member).getpixel((0, 0)) == (5, 5, 5)


def test_the_nearest_captions_above_the_floor_are_taken(base):
    found = prior.gather("auto", DOG, base_folder=base, count=200, encoder=encoder())
    expected = sorted(2 * degrees for degrees in range(89) if np.cos(np.radians(2 * degrees)) >= 0.5)
    assert [angle(chosen.caption) for chosen in found.pictures] == expected
    assert len(expected) == 31
    assert found.warning == ""
    for chosen in found.pictures:
        assert chosen.load().getpixel((3, 3)) == (angle(chosen.caption) / 2,) * 3
    assert found.summary == '31 prior pictures of corpus.tar, captions 0.50 to 1.00 like "photo of a dog"'


def test_no_more_than_asked_for(base):
    found = prior.gather("auto", DOG, base_folder=base, count=4, encoder=encoder())
    assert [chosen.caption for chosen in found.pictures] == ["dog 0", "dog 2", "dog 4", "dog 6"]


def test_a_class_far_from_everything_gets_the_nearest_and_a_warning(base):
    (base / "cdtool.toml").write_text('[prior]\ncorpus = "corpus.tar"\nfloor = 0.9999\n')
    found = prior.gather("auto", DOG, base_folder=base, encoder=encoder())
    assert [chosen.caption for chosen in found.pictures] == ["dog 0", "dog 2", "dog 4"]
    assert "only 1 caption is" in found.warning


def test_a_picture_that_is_there_twice_is_used_once(tmp_path):
    members = [("a.png", picture(1)), ("a.txt", b"dog 3"), ("b.png", picture(1)), ("b.txt", b"dog 1"),
               ("c.png", picture(2)), ("c.txt", b"dog 2")]  # fmt: skip
    path = tar(tmp_path / "corpus.tar", members)
    found = prior.from_corpus(path, "photo of a dog", floor=0.5, count=200, encoder=encoder())
    assert [chosen.caption for chosen in found.pictures] == ["dog 1", "dog 2"]


def test_similarities_equal_a_plain_loop():
    rng = np.random.default_rng(1)
    table = {name: rng.normal(size=5).astype(np.float32) for name in "abcdp"}
    fake = features.Encoder(SPEC, lambda texts: np.stack([table[text] for text in texts]), None)
    captions = list("abacdb")
    for caption, cosine in zip(captions, prior.similarities(captions, "p", fake), strict=True):
        one, other = table[caption], table["p"]
        assert cosine == pytest.approx(one @ other / (one @ one) ** 0.5 / (other @ other) ** 0.5, abs=1e-6)


def test_the_index_pairs_pictures_with_captions_of_every_kind(tmp_path):
    members = [
        ("x/1.txt", b"first  one\n"), ("x/1.webp", picture(5, "WEBP")), ("y/1.jpg", picture(6, "JPEG")),
        ("y/1.json", json.dumps({"caption": "second"}).encode()), ("3.png", picture(7)), ("4.txt", b"no picture"),
        ("5.cls", b"0"),
    ]  # fmt: skip
    path = tar(tmp_path / "corpus.tar", members)
    found = prior.read_index(path)
    assert [member.caption for member in found] == ["first one", "second"]
    assert abs(prior.open_member(path, found[1]).getpixel((2, 2))[0] - 6) <= 1


def test_a_corpus_that_changed_is_read_again(tmp_path):
    path = tar(tmp_path / "corpus.tar", [("1.png", picture(5)), ("1.txt", b"old")])
    assert prior.read_index(path)[0].caption == "old"
    tar(path, [("1.png", picture(5)), ("1.txt", b"new one"), ("2.png", picture(5)), ("2.txt", b"x" * 9000)])
    assert prior.read_index(path)[0].caption == "new one"


def test_damaged_corpora_are_base_errors(tmp_path):
    with pytest.raises(BaseError, match="cannot be read"):
        prior.read_index(tmp_path / "lost.tar")
    packed = tar(tmp_path / "packed.tar", [("1.png", picture(5)), ("1.txt", b"dog")], "w:gz")
    with pytest.raises(BaseError, match="cannot be read"):
        prior.read_index(packed)
    with pytest.raises(BaseError, match="no captioned picture"):
        prior.read_index(tar(tmp_path / "bare.tar", [("1.png", picture(5))]))
    spoilt = tar(tmp_path / "spoilt.tar", [("1.png", b"not a picture"), ("1.txt", b"dog")])
    with pytest.raises(BaseError, match="not an image"):
        prior.open_member(spoilt, prior.read_index(spoilt)[0])


def test_pictures_can_be_sent_to_another_process(base):
    found = prior.gather("auto", DOG, base_folder=base, count=2, encoder=encoder())
    copy = pickle.loads(pickle.dumps(found.pictures[1]))
    assert copy.load().getpixel((0, 0)) == (1, 1, 1)


def test_a_folder_with_and_without_captions(tmp_path):
    for grey in range(1, 6):
        (tmp_path / f"{grey}.png").write_bytes(picture(grey))
    found = prior.gather(str(tmp_path), Token("owl"), base_folder=tmp_path)
    assert [chosen.caption for chosen in found.pictures] == ["photo of an owl"] * 5
    (tmp_path / "2.txt").write_text("a brown owl")
    (tmp_path / "captions.jsonl").write_text('{"file_name": "4.png", "text": "a white owl"}\n')
    found = prior.gather(str(tmp_path), Token("owl"), base_folder=tmp_path)
    assert [chosen.caption for chosen in found.pictures] == [
        "photo of an owl", "a brown owl", "photo of an owl", "a white owl", "photo of an owl",
    ]  # fmt: skip
    assert "2 with captions of their own" in found.summary
    assert found.pictures[3].load().getpixel((0, 0)) == (4, 4, 4)


def test_a_large_folder_is_thinned_evenly(tmp_path):
    for grey in range(9):
        (tmp_path / f"{grey}.png").write_bytes(picture(grey))
    found = prior.from_folder(tmp_path, DOG, count=3)
    assert [chosen.load().getpixel((0, 0))[0] for chosen in found.pictures] == [0, 4, 8]


def test_the_other_choices(tmp_path):
    assert prior.gather("none", DOG, base_folder=tmp_path).pictures == ()
    with pytest.raises(NotFoundError, match="no corpus") as raised:
        prior.gather("auto", DOG, base_folder=tmp_path)
    assert all(part in raised.value.hint for part in ("--prior DIR", "--prior none", "--base mini"))
    with pytest.raises(NotFoundError, match="nowhere"):
        prior.gather("nowhere", DOG, base_folder=tmp_path)
    with pytest.raises(PhotoError):
        prior.gather(str(tmp_path), DOG, base_folder=tmp_path)


def test_a_style_asks_for_its_own_kind_of_caption(base):
    found = prior.gather("auto", Token("art"), base_folder=base, style=True, count=1, encoder=encoder())
    assert 'like "painting in the style of art"' in found.summary
