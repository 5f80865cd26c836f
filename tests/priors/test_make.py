"""Making prior sets: retrieved, drawn (and drawn on after a stop), and taken over from a folder."""

from __future__ import annotations

import errno
import io
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corpora_made import SPEC, angle, coco, encoder, noise, picture, tar
from PIL import Image

from cdtool.errors import InterruptedRun, NotFoundError, PhotoError, ResourceError
from cdtool.images import photos
from cdtool.models import pipelines
from cdtool.priors import make
from cdtool.priors import sets as priorsets
from cdtool.priors.sets import Generation, PendingSet
from cdtool.sampling import sample
from cdtool.settings import SampleSettings


def end(steps):
    """The set that the making ends with."""
    *_, last = steps
    assert last.kind == "done"
    return last.entry


def images(entry):
    return [priorsets.content(entry, image) for image in entry.manifest.images]


# ---------------------------------------------------------------- retrieved


@pytest.fixture
def corpus(tmp_path):
    """Captions 0 to 87 degrees away, shuffled, every image another."""
    members = []
    for n in np.random.default_rng(0).permutation(30):
        members += [(f"{n:04}.png", noise(n)), (f"{n:04}.txt", f"dog {3 * n}".encode())]
    return tar(tmp_path / "corpus.tar", members)


def retrieve(corpus, **more):
    return make.retrieve("dog", corpus, "dog", "photo of a dog", encoder(), **more)


def test_the_encoders_own_floor_holds_unless_another_is_given(corpus):
    found = end(retrieve(corpus)).manifest
    brute = [3 * n for n in range(30) if np.cos(np.radians(3 * n)) >= SPEC.floor]
    assert [angle(chosen.caption) for chosen in found.images] == brute
    assert found.origin == {
        "corpus": str(corpus), "prompt": "photo of a dog", "encoder": "fake", "floor": 0.85,
    }  # fmt: skip
    assert (found.source, found.noun, found.side, found.requested) == ("retrieved", "dog", 40, True)
    assert [chosen.cosine for chosen in found.images] == pytest.approx(np.cos(np.radians(brute)), abs=1e-4)
    wider = end(retrieve(corpus, floor=0.5, force=True)).manifest
    assert len(wider.images) == 21 > len(brute)


def test_the_images_are_those_of_the_captions_and_count_is_the_most(corpus):
    entry = end(retrieve(corpus, count=4))
    assert images(entry) == [noise(n) for n in range(4)]
    assert all(chosen.file == f"{chosen.sha256}.png" for chosen in entry.manifest.images)


def test_every_kind_of_corpus_makes_the_same_set(tmp_path, corpus):
    captioned = [(f"{n}.jpg", f"dog {3 * n}") for n in range(30)]
    folder, jsonl = tmp_path / "folder", tmp_path / "jsonl"
    for place in (folder, jsonl, tmp_path / "val"):
        place.mkdir()
        for number, (name, caption) in enumerate(captioned):
            (place / name).write_bytes(noise(number))
            if place == folder:
                (place / name).with_suffix(".txt").write_text(caption)
    (jsonl / "captions.jsonl").write_text(
        "\n".join(f'{{"file_name": "{name}", "text": "{text}"}}' for name, text in captioned)
    )
    table = coco(tmp_path / "captions_val.json", captioned)
    sets = [end(make.retrieve(f"s{n}", path, "dog", "photo of a dog", encoder()))
            for n, path in enumerate((corpus, folder, jsonl, table))]  # fmt: skip
    assert len({tuple(chosen.sha256 for chosen in entry.manifest.images) for entry in sets}) == 1


def test_what_is_not_used_is_told_with_the_reason(tmp_path):
    path = tar(tmp_path / "c.tar", [("1.png", noise(1)), ("1.txt", b"dog 1"), ("2.png", b"spoilt"), ("2.txt", b"dog 2"),
                                    ("3.png", noise(1)), ("3.txt", b"dog 3")])  # fmt: skip
    steps = list(retrieve(path))
    assert [step.reason for step in steps if step.kind == "skipped"] == [
        'c.tar ("dog 2"): not an image cdtool can open', 'c.tar ("dog 3"): the same image as one before',
    ]  # fmt: skip
    assert [step.kind for step in steps if step.kind != "skipped"] == ["caption", "image", "done"]


def test_nothing_near_enough_says_what_was_nearest(tmp_path):
    path = tar(tmp_path / "c.tar", [("1.png", noise(1)), ("1.txt", b"cat 60")])
    with pytest.raises(NotFoundError, match=r"0\.85") as raised:
        end(retrieve(path))
    assert 'nearest is "cat 60", 0.50' in raised.value.hint
    assert priorsets.names() == []


def test_near_captions_whose_images_are_all_bad(tmp_path):
    path = tar(tmp_path / "c.tar", [("1.png", b"spoilt"), ("1.txt", b"dog 1")])
    with pytest.raises(NotFoundError, match="None of the images"):
        end(retrieve(path))
    assert priorsets.names() == []


def test_a_full_disk_while_retrieving(corpus, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="No space left"):
        end(retrieve(corpus))
    assert priorsets.names() == []


# ---------------------------------------------------------------- drawn


@pytest.fixture(scope="module")
def base(sd_base):
    return pipelines.load(str(sd_base), precision="fp32", device="cpu")


def wanted(count, **how):
    return PendingSet(
        "dog", "dog", "photo of a dog", False, Generation(count=count, steps=2, batch=2, **how), requested=True
    )


def test_drawn_images_are_those_that_sampling_draws(base):
    entry = end(make.generate(base, wanted(3, seed=5)))
    settings = SampleSettings(count=3, seed=5, steps=2, guidance=6.0, batch=2)
    drawn = [np.asarray(one.image) for one in sample.generate(base, [], ["photo of a dog"], settings)]
    for content, expected in zip(entry.manifest.images, drawn, strict=True):
        with Image.open(entry.folder / content.file) as image:
            assert np.abs(np.asarray(image, dtype=int) - expected).max() <= 1
    assert [chosen.seed for chosen in entry.manifest.images] == [5, 6, 7]
    assert {chosen.caption for chosen in entry.manifest.images} == {"photo of a dog"}
    assert entry.manifest.origin["fingerprint"] == base.fingerprint
    assert entry.manifest.origin["eta"] == 1.0


@pytest.fixture
def counted(monkeypatch):
    """How many images the denoiser was asked for."""
    asked, plain = [], make._images

    def generate(*arguments):
        asked.extend(arguments[3])
        return plain(*arguments)

    monkeypatch.setattr(make, "_images", generate)
    return asked


def test_a_stopped_drawing_goes_on_where_it_was_to_the_same_set(base, counted):
    whole = images(end(make.generate(base, wanted(6))))
    priorsets.remove("dog")
    counted.clear()
    stops = itertools.chain([False, False], itertools.repeat(True))
    with pytest.raises(InterruptedRun, match="after 4 of 6") as raised:
        list(make.generate(base, wanted(6), stop=lambda: next(stops)))
    assert "same command" in raised.value.hint
    assert priorsets.names() == []
    assert counted == [0, 1, 2, 3]
    assert images(end(make.generate(base, wanted(6)))) == whole
    assert counted == [0, 1, 2, 3, 4, 5]


def test_a_drawing_that_is_dropped_goes_on_too(base, counted):
    steps = make.generate(base, wanted(4))
    next(steps)
    steps.close()
    assert [one.images for one in priorsets.unfinished()] == [2]
    end(make.generate(base, wanted(4)))
    assert counted == [0, 1, 2, 3]


def test_another_base_seed_or_number_of_steps_is_another_drawing(base, counted):
    steps = make.generate(base, wanted(2))
    next(steps)
    steps.close()
    counted.clear()
    other = wanted(2)
    end(make.generate(base, replace(other, how=replace(other.how, steps=3))))
    assert counted == [0, 1]


def test_more_of_the_same_draws_only_the_new_ones_and_what_is_spoilt(base, counted):
    entry = end(make.generate(base, wanted(4)))
    before = images(entry)
    (entry.folder / entry.manifest.images[2].file).write_bytes(b"spoilt")
    counted.clear()
    more = end(make.generate(base, wanted(6), force=True))
    assert images(more)[:4] == before
    assert counted == [2, 3, 4, 5]  # the two that are drawn together come together


def test_where_memory_runs_out_fewer_are_drawn_at_once_and_one_alone_is_an_error(base, monkeypatch):
    whole, plain, asked = images(end(make.generate(base, wanted(3)))), make._images, []

    def small(*arguments):
        asked.append(len(arguments[3]))
        if len(arguments[3]) > most:
            raise MemoryError
        return plain(*arguments)

    most = 1
    monkeypatch.setattr(make, "_images", small)
    entry = end(make.generate(base, replace(wanted(3), name="again")))
    assert asked == [2, 1, 1, 1]
    for one, other in zip(images(entry), whole, strict=True):
        assert (
            np.abs(np.asarray(Image.open(io.BytesIO(one)), int) - np.asarray(Image.open(io.BytesIO(other)), int)).max()
            <= 1
        )
    most = 0
    with pytest.raises(ResourceError, match="not enough memory to generate"):
        end(make.generate(base, replace(wanted(3), name="third")))


# ---------------------------------------------------------------- one's own


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(noise(number, side=40 + 8 * number))
    (folder / "1.txt").write_text("a brown dog")
    (folder / "notes.pdf").write_bytes(b"x")
    return folder


def test_a_folder_of_ones_own_is_copied_with_its_captions(own):
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    entry, skipped = make.take_over("dogs", own, "dog")
    assert images(entry) == [noise(n, side=40 + 8 * n) for n in range(3)]
    assert [chosen.caption for chosen in entry.manifest.images] == ["", "a brown dog", ""]
    assert (entry.manifest.side, entry.manifest.origin) == (40, {"folder": str(own)})
    assert [item.path.name for item in skipped] == ["notes.pdf"]
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before
    (own / "0.png").unlink()
    assert images(entry)[0] == noise(0)


def test_taking_over_again_redoes_what_changed(own):
    entry, _ = make.take_over("dogs", own, "dog")
    inodes = {path.name: path.stat().st_ino for path in entry.folder.iterdir()}
    (own / "2.png").write_bytes(noise(77))
    again, _ = make.take_over("dogs", own, "dog", force=True)
    assert images(again) == [noise(0), noise(1, side=48), noise(77)]
    kept = {path.name: path.stat().st_ino for path in again.folder.iterdir()}
    assert len(inodes.items() & kept.items()) == 2


def test_a_folder_without_images(tmp_path):
    with pytest.raises(PhotoError):
        make.take_over("dogs", tmp_path, "dog")
    assert priorsets.names() == []
    assert photos.SMALLEST == 32
    (tmp_path / "small.png").write_bytes(picture(1, side=16))
    with pytest.raises(PhotoError, match="too small"):
        make.take_over("dogs", tmp_path, "dog")
