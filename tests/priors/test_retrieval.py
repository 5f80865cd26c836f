"""Retrieval against brute force: nearest captions, no image twice, nothing below the floor."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from corpora_made import SPEC, angle, encoder, noise, picture, tar

from cdtool.images import corpora
from cdtool.models import encoders
from cdtool.priors import retrieval


def corpus(tmp_path, *members):
    """Members of a tar of (caption, image bytes)."""
    files = [(f"{n}.{kind}", content) for n, (caption, image) in enumerate(members)
             for kind, content in (("png", image), ("txt", caption.encode()))]  # fmt: skip
    return corpora.read(tar(tmp_path / "corpus.tar", files))


def taken(found):
    return [item.member.caption for item in found if isinstance(item, retrieval.Found)]


def reasons(found):
    return [item.reason for item in found if isinstance(item, retrieval.Passed)]


def test_cosines_equal_a_plain_loop():
    rng = np.random.default_rng(1)
    table = {name: rng.normal(size=5).astype(np.float32) for name in "abcdp"}
    fake = encoders.Encoder(SPEC, lambda texts: np.stack([table[text] for text in texts]), None)
    captions = list("abacdb")
    for caption, cosine in zip(captions, retrieval.cosines(captions, "p", fake), strict=True):
        one, other = table[caption], table["p"]
        assert cosine == pytest.approx(one @ other / (one @ one) ** 0.5 / (other @ other) ** 0.5, abs=1e-6)


def test_a_class_is_asked_for_in_all_of_the_encoders_ways():
    table = {"a dog": [1.0, 0, 0], "a dog on grass": [0, 1.0, 0], "c": [0.6, 0.8, 0], "d": [0, 0, 1.0]}
    spec = dataclasses.replace(SPEC, asked=("{}", "{} on grass"))
    fake = encoders.Encoder(spec, lambda texts: np.array([table[text] for text in texts], np.float32), None)
    np.testing.assert_allclose(retrieval.cosines(["c", "d"], "a dog", fake), [1.4 * 0.5**0.5, 0], atol=1e-6)


def test_equal_captions_are_encoded_once_and_progress_counts_the_different_ones(monkeypatch):
    monkeypatch.setattr(retrieval, "CHUNK", 2)
    asked = []
    plain = encoder()
    fake = encoders.Encoder(SPEC, lambda texts: asked.extend(texts) or plain.text(texts), None)
    steps = list(retrieval.likeness(["a 1", "a 2", "a 1", "a 3", "a 4", "a 5"], "x", fake))
    assert sorted(asked) == ["a 1", "a 2", "a 3", "a 4", "a 5", "x"]
    assert [(step.done, step.of) for step in steps] == [(2, 5), (4, 5), (5, 5)]
    assert [step.cosines is None for step in steps] == [True, True, False]
    expected = np.cos(np.radians([1, 2, 1, 3, 4, 5]))
    np.testing.assert_allclose(steps[-1].cosines, expected, atol=1e-6)


def test_the_nearest_come_first_and_none_below_the_floor(tmp_path):
    order = np.random.default_rng(0).permutation(60)
    members = corpus(tmp_path, *((f"dog {3 * n}", noise(n)) for n in order))
    near = retrieval.cosines([member.caption for member in members], "photo of a dog", encoder())
    found = list(retrieval.nearest(members, near, 0.5))
    brute = sorted(3 * n for n in range(60) if np.cos(np.radians(3 * n)) >= 0.5 - 1e-7)
    assert [angle(caption) for caption in taken(found)] == brute
    assert all(item.content == noise(int(angle(item.member.caption)) // 3) for item in found)
    assert [item.cosine for item in found] == sorted((item.cosine for item in found), reverse=True)


def test_no_picture_comes_twice(tmp_path):
    same = noise(1)
    again = noise(1, "JPEG", quality=90)
    members = corpus(tmp_path, ("dog", same), ("a dog", same), ("Dog", again), ("other dog", again), ("dog", noise(2)))
    found = list(retrieval.nearest(members, np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32), 0.0))
    assert taken(found) == ["dog", "other dog", "dog"]
    assert [item.member.caption for item in found if isinstance(item, retrieval.Passed)] == ["a dog", "Dog"]
    assert reasons(found) == ["the same image as one before", "looks as one before it with the same caption"]


def test_another_caption_of_the_same_file_is_no_duplicate_worth_a_word(tmp_path):
    (tmp_path / "1.png").write_bytes(noise(1))
    members = [corpora.Member(text, tmp_path / "1.png") for text in ("far", "near", "middle")]
    found = list(retrieval.nearest(members, np.array([0.1, 0.9, 0.5], np.float32), 0.0))
    assert taken(found) == ["near"]
    assert len(found) == 1


def test_what_cannot_be_used_is_passed_with_the_reason(tmp_path):
    members = corpus(
        tmp_path, ("1", b"not an image"), ("2", noise(1)[:200]), ("3", picture(1, side=20)), ("4", noise(4))
    )
    members.append(corpora.Member("5", tmp_path / "gone.png"))
    found = list(retrieval.nearest(members, np.ones(5, np.float32), 0.0))
    assert taken(found) == ["4"]
    assert [reason.split(":")[0] for reason in reasons(found)] == [
        "not an image cdtool can open", "damaged or cut short", "too small", "No such file or directory",
    ]  # fmt: skip


def test_distinct_places_by_bytes(tmp_path):
    members = corpus(tmp_path, ("1", noise(1)), ("2", noise(1)), ("3", noise(2)))
    found = list(retrieval.distinct(members, [2, 1, 0]))
    assert [(place, content) for place, _, content in found] == [(2, noise(2)), (1, noise(1))]
    assert len({digest for _, digest, _ in found}) == 2
