"""Real pictures of a class and of none, from folders and corpora."""

from __future__ import annotations

import json

import numpy as np
import pytest
from corpora_made import noise, picture

from cdtool.errors import InputError, NotFoundError
from cdtool.evaluation import references
from cdtool.priors import captions


@pytest.fixture
def base(tmp_path):
    """A base with a validation corpus of five pictures."""
    folder = tmp_path / "base"
    (folder / "own").mkdir(parents=True)
    captions = ["photo of a dog", "two Dogs and a cat", "a doghouse", "a cat", "a ship at sea"]
    lines = [json.dumps({"file_name": f"{n}.png", "text": text}) for n, text in enumerate(captions)]
    for number in range(len(captions)):
        (folder / "own" / f"{number}.png").write_bytes(picture(10 * number))
    (folder / "own" / "captions.jsonl").write_text("\n".join([*lines, lines[0]]))
    (folder / "cdtool.toml").write_text('[eval]\nvalidation = "own"\nnouns = "nouns.txt"\n')
    (folder / "nouns.txt").write_text("dog\nsea horse\n")
    return folder


def levels(members):
    return [int(np.asarray(image)[0, 0, 0]) for image in references.images(members)]


def test_pictures_of_a_class_are_those_whose_captions_name_it(base):
    assert levels(references.of_class(None, base, "dog", 2)) == [0, 10]
    with pytest.raises(InputError, match="has 2 pictures"):
        references.of_class(None, base, "dog", 3)


def test_unrelated_pictures_name_no_class(base):
    assert levels(references.unrelated(None, base, ["dog", "cat"])) == [20, 40]
    assert references.unrelated_captions(base, ["dog", "cat"], 9) == ["a doghouse", "a ship at sea"]
    assert references.unrelated_captions(base, ["ship"], 2) == ["photo of a dog", "a doghouse"]


def test_a_folder_without_captions_is_the_class(base, tmp_path):
    (tmp_path / "dogs").mkdir()
    for seed in range(3):
        (tmp_path / "dogs" / f"{seed}.png").write_bytes(noise(seed))
    assert len(references.of_class(tmp_path / "dogs", base, "dog", 3)) == 3
    assert levels(references.of_class(base / "own", base, "ship", 1)) == [40]


def test_a_base_without_a_corpus_needs_one_for_kid_and_has_shipped_words(tmp_path):
    with pytest.raises(NotFoundError, match="brings none") as raised:
        references.of_class(None, tmp_path, "dog", 3)
    assert "--kid" in raised.value.hint
    assert references.unrelated(None, tmp_path, ["dog"]) == ()
    found = references.unrelated_captions(tmp_path, ["dog"], 20)
    assert len(set(found)) == 20
    assert not any(captions.names(caption, "dog") for caption in found)


def test_nouns_are_the_bases_or_the_shipped(base, tmp_path):
    assert captions.class_nouns(base) == ["dog", "sea horse"]
    shipped = captions.class_nouns(tmp_path)
    assert len(set(shipped)) == len(shipped) > 50
    assert all(noun and noun == noun.strip() for noun in shipped)


def test_pictures_that_cannot_be_read_are_left_out(base):
    (base / "own" / "3.png").write_bytes(b"no picture")
    assert levels(references.unrelated(None, base, ["dog"])) == [20, 40]


def test_the_embedded_base_knows_its_classes():
    from cdtool.mini.factory import corpus
    from cdtool.store.bases import MINI

    assert captions.class_nouns(MINI) == corpus.class_nouns()
    assert len(references.of_class(None, MINI, "dog", 60)) >= corpus.LEAST
