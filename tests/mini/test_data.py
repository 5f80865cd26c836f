"""The data that ships with the embedded base: corpora, photo folders, prompts, and what draws them."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from typing import NamedTuple

import cutouts as fakes
import numpy as np
import pytest
from PIL import Image

from cdtool.images import corpora
from cdtool.images import photos as reading
from cdtool.mini.factory import (
    art,
    corpus,
    drawings,
    judge,
    near,
    photosets,
    places,
    prompts,
    scenery,
    styles,
    telling,
    world,
)
from cdtool.mini.factory.photosets import CONCEPTS
from cdtool.mini.factory.wider import draw
from cdtool.tokens import parse_specs

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def cutouts():
    return fakes.fake_cutouts()


@pytest.fixture(scope="module")
def mini():
    return prompts.FOLDER.parent


@pytest.fixture(scope="module")
def shipped(mini):
    """Captions and picture bytes of both corpora, read without cdtool."""
    found = {}
    for name in corpus.PARTS:
        with tarfile.open(mini / "base" / name) as tar:
            content = {member.name: tar.extractfile(member).read() for member in tar}
        lines = map(json.loads, content.pop("captions.jsonl").decode().splitlines())
        captions = {line["file_name"]: line["text"] for line in lines}
        found[name] = [(captions[key], value) for key, value in content.items()]
    return found


@pytest.fixture(scope="module")
def tokenizer(mini):
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(mini / "base" / "tokenizer")


# ---------------------------------------------------------------- corpora


@pytest.mark.parametrize("name", corpus.PARTS)
def test_every_class_has_its_pictures(shipped, name):
    captions = [caption for caption, _ in shipped[name]]
    classes = {concept.noun for concept in CONCEPTS.values() if concept.kind != "style"}
    for word in classes | {noun for noun in art.NOUNS if art.held_out(noun)} | {"painting"}:
        assert sum(word in re.findall(r"\w+", caption) for caption in captions) >= 60, word
    pairs = sum(any(f" {relation} " in caption for relation in telling.RELATIONS[:-1]) for caption in captions)
    assert 0 < pairs / len(captions) < 0.3


def test_no_picture_occurs_twice_in_either_corpus_or_both(shipped):
    contents = [content for pictures in shipped.values() for _, content in pictures]
    assert len(set(contents)) == len(contents) > 2500


def test_shipped_pictures_are_pictures_of_the_worlds_size(shipped):
    for pictures in shipped.values():
        for _, content in pictures[::40]:
            image = Image.open(io.BytesIO(content))
            assert (image.format, image.size, image.mode) == ("WEBP", (64, 64), "RGB")


def test_captions_fit_the_text_encoder_and_hold_no_rare_word(shipped, tokenizer):
    captions = {caption for pictures in shipped.values() for caption, _ in pictures}
    assert max(len(ids) for ids in tokenizer(sorted(captions))["input_ids"]) <= 24
    assert not [caption for caption in captions if set(caption.split()) & set(telling.NAMES)]


def test_the_data_is_small(mini):
    folders = [mini / "photos", mini / "prompts"]
    files = [mini / "base" / name for name in corpus.PARTS] + [f for place in folders for f in place.rglob("*.*")]
    assert sum(file.stat().st_size for file in files) < 12 * MEGABYTE


@pytest.fixture(scope="module")
def shelf(cutouts):
    """Every class's drawings but the held-out ones, and those of the near concepts."""
    known = {name: cutouts[name] for noun in art.NOUNS for name in art.drawings(noun)}
    return drawings.shelf(known | {own.drawing: fakes.shape((90, 60, 30)) for own in near.NEAR.values()})


@pytest.fixture
def small(monkeypatch):
    for name, value in {"ALONE": 2, "PAIRED": 2, "LEAST": 4, "FEW": 1}.items():
        monkeypatch.setattr(corpus, name, value)


def pictures(shelf):
    rows = corpus.rows(corpus.class_nouns(), [noun for noun in shelf.nouns if noun not in corpus.class_nouns()])
    return corpus.pictures(lambda seed, nouns: draw(corpus.WORLD, shelf, seed, nouns), rows, 0)


def test_a_corpus_is_drawn_as_asked_and_never_from_held_out_drawings(small, shelf):
    drawn = list(pictures(shelf))
    nouns = [picture.nouns for picture in drawn]
    for noun in corpus.class_nouns():
        assert nouns.count((noun,)) >= 2
        assert sum(noun in pair for pair in nouns if len(pair) == 2) >= 2
    for word in ("beach", "city", "room", "painting"):
        assert sum(corpus.has(picture.caption, word) for picture in drawn) >= 4
    assert len({picture.pixels.tobytes() for picture in drawn}) == len(drawn)
    assert not any(art.held_out(noun) in shelf.drawings for noun in art.NOUNS)
    assert not [picture.caption for picture in drawn if set(picture.caption.split()) & set(telling.NAMES)]


def test_words_are_whole_words():
    assert corpus.has("a pixel art of a cat", "pixel art")
    assert not corpus.has("a caterpillar", "cat")


def test_the_two_parts_are_drawn_from_seeds_that_never_meet():
    rows = len(corpus.rows(corpus.class_nouns(), list(drawings.nouns())))
    first, second = sorted(corpus.PARTS.values())
    assert judge.FIRST + judge.PACE.pictures < first  # beyond every training's
    assert first + rows * corpus.STRIDE < second


def test_a_corpus_has_a_few_pictures_of_every_noun(small, monkeypatch):
    monkeypatch.setattr(corpus, "FEW", 2)

    class Fake(NamedTuple):
        pixels: np.ndarray
        caption: str
        nouns: tuple[str, ...]

    def draw(seed, nouns):
        nouns = nouns or (f"thing at the {('beach', 'city', 'room')[seed % 3]} as {list(styles.STYLES)[seed % 4]}",)
        return Fake(np.full((2, 2, 3), np.random.default_rng(seed).integers(0, 256, (2, 2, 3))), " ".join(nouns), nouns)

    drawn = list(corpus.pictures(draw, corpus.rows(["dog", "cat", "gate"], ["moon", "guitar"]), 0))
    nouns = [picture.nouns for picture in drawn]
    assert nouns.count(("moon",)) == nouns.count(("guitar",)) == nouns.count(("dog",)) == 2
    assert sum("dog" in pair for pair in nouns if len(pair) == 2) == 2


def test_a_tar_depends_on_its_pictures_alone_and_is_read_by_the_prior(small, shelf, tmp_path):
    drawn = list(pictures(shelf))[:12]
    digests = set()
    for name in ("one.tar", "two.tar"):
        assert corpus.write(drawn, tmp_path / name) == 12
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    with tarfile.open(tmp_path / "one.tar") as tar:
        names = tar.getnames()
        assert names[:-1] == sorted(names[:-1])
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}
    members = corpora.read(tmp_path / "one.tar")
    assert [member.caption for member in members] == [picture.caption for picture in drawn]
    for member, picture in zip(members, drawn, strict=True):
        back = np.asarray(Image.open(io.BytesIO(corpora.content(member))).convert("RGB"), float)
        assert np.abs(back - picture.pixels).mean() < 12


# ---------------------------------------------------------------- photo folders


def test_the_table_of_concepts(mini):
    kinds = [concept.kind for concept in CONCEPTS.values()]
    assert [kinds.count(kind) for kind in ("object", "scene", "style")] == [18, 3, 3]
    assert {"dog", "moongate"} <= CONCEPTS.keys()
    for name, concept in CONCEPTS.items():
        (token,) = parse_specs([concept.token])
        assert token.modifier is (name != "moongate")
        assert token.noun == (name if name == "moongate" else concept.noun)
        assert concept.prompts in prompts.FILES
        assert concept.kind != "object" or art.held_out(concept.noun)
    table = json.loads((mini / "photos" / "concepts.json").read_text())
    assert [photosets.Concept(**row) for row in table] == list(CONCEPTS.values())


@pytest.mark.parametrize("name", CONCEPTS)
def test_a_photo_folder(mini, name):
    used, skipped = reading.find([mini / "photos" / name], resolution=64)
    assert not skipped
    assert 5 <= len(used) <= 8
    assert {photo.path.suffix for photo in used} == {".png"}
    assert {photo.size for photo in used} == {(64, 64)}
    assert len({photo.sha256 for photo in used}) == len(used)
    for photo in used:
        assert bool(photo.caption) is CONCEPTS[name].captioned
        assert not photo.caption or CONCEPTS[name].token in photo.caption


def test_folders_and_table_agree(mini):
    assert {path.name for path in (mini / "photos").iterdir() if path.is_dir()} == set(CONCEPTS)


def test_photos_of_an_object_show_its_held_out_drawing_in_many_ways(cutouts, shelf):
    taken = photosets.photos(CONCEPTS["dog"], cutouts, shelf)
    again = photosets.photos(CONCEPTS["dog"], cutouts, shelf)
    assert 5 <= len(taken) <= 8
    places, sizes = [], []
    for photo, same in zip(taken, again, strict=True):
        assert np.array_equal(photo.image, same.image)
        assert photo.caption == ""
        there = np.argwhere(fakes.near(np.asarray(photo.image), fakes.HELD_OUT, within=90))
        low, high = there.min(axis=0), there.max(axis=0)
        places.append(tuple((low + high) // 2))
        sizes.append((high - low).max() / 64)
    assert len(set(places)) > 3
    assert 0.4 < min(sizes) < 0.6 < 0.75 < max(sizes) < 0.95


def test_captioned_photos_say_where_the_thing_is(cutouts, shelf):
    for photo in photosets.photos(CONCEPTS["cat"], cutouts, shelf):
        assert re.fullmatch(r"photo of a V\* cat (on|in|at) .+", photo.caption)


def test_a_photo_in_which_the_thing_would_not_show_is_not_taken():
    rng = np.random.default_rng(0)
    white, black = fakes.shape((245, 245, 245)), fakes.shape((0, 0, 0))
    assert photosets._photo(white, "on a white background", 0.6, mirrored=False, rng=rng) is None
    assert photosets._photo(black, "on a white background", 0.6, mirrored=False, rng=rng) is not None


def test_scenes_are_shown_bare_and_with_things_and_styles_on_known_things(cutouts, shelf):
    beach = [photo.caption for photo in photosets.photos(CONCEPTS["beach"], cutouts, shelf)]
    assert beach.count("photo of a V* beach") == 3
    assert sum(caption.endswith(" on the V* beach") for caption in beach) == 4
    for photo in photosets.photos(CONCEPTS["sepia"], cutouts, shelf):
        assert re.fullmatch(r"painting of an? \w+ .+ in the style of V\* art", photo.caption)
        assert not fakes.near(np.asarray(photo.image), fakes.HELD_OUT).any()


@pytest.mark.parametrize("draw", scenery.SCENERY.values(), ids=scenery.SCENERY)
def test_scenery_varies_with_its_generator_alone(draw):
    first, again, other = (np.asarray(draw(64, np.random.default_rng(seed))) for seed in (1, 1, 2))
    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_make_writes_what_ships(cutouts, shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(photosets, "CONCEPTS", {name: CONCEPTS[name] for name in ("dog", "cat")})
    assert dict(photosets.make(cutouts, shelf, tmp_path)).keys() == {"dog", "cat"}
    used, _ = reading.find([tmp_path / "cat"])
    assert all(photo.caption.startswith("photo of a V* cat") for photo in used)
    assert not list((tmp_path / "dog").glob("*.txt"))
    colours = np.unique(np.asarray(Image.open(tmp_path / "dog" / "01.png")).reshape(-1, 3), axis=0)
    assert not fakes.near(colours, fakes.HELD_OUT).any()  # the near dog, not the drawing held out of the class
    assert [row["name"] for row in json.loads((tmp_path / "concepts.json").read_text())] == ["dog", "cat"]


# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize("file", prompts.FILES)
def test_prompts_are_many_and_short_enough(tokenizer, file):
    written = prompts.read(file)
    pair = file == "pair.txt"
    assert len(set(written)) == len(written) == (8 if pair else 20)
    assert all(prompt.count("{") == (2 if pair else 1) for prompt in written)
    for concept in CONCEPTS.values():
        words = concept.token.replace("V*", "ktn")
        asked = prompts.fill(written, *([words, "pll dinosaur"] if pair else [words]))
        assert not [prompt for prompt in asked if "{" in prompt]
        assert max(len(ids) for ids in tokenizer(asked)["input_ids"]) <= 24


def test_prompts_use_only_words_the_base_learned(tokenizer):
    known = {"style", "the", *" ".join([*art.NOUNS, *places.PLACES, *telling.RELATIONS, *styles.STYLES, *places.TINTS,
             *world.FAR, *world.NEAR, "a an photo of on in white background"]).split()}  # fmt: skip
    for file in prompts.FILES:
        words = set(" ".join(prompts.read(file)).split()) - {"{}", "{0}", "{1}"}
        assert words <= known, file


@pytest.mark.parametrize("file", [file for file in prompts.FILES if file != "pair.txt"])
def test_the_first_prompts_are_a_mixture(file):
    first = " | ".join(prompts.read(file)[: prompts.SMALL])
    assert re.search(r"\b(red|blue)\b", first), "a property"
    assert re.search(r"sketch|painting", first), "a style"
    assert re.search(r"next to| and ", first), "another thing"
