"""Prior sets for a training: from a small hand-made corpus, folders, named sets, and what a base has yet to draw."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from corpora_made import angle, encoder, noise, picture, tar

from cdtool.errors import BaseError, NotFoundError, PhotoError
from cdtool.priors import choose, staging
from cdtool.priors.sets import Manifest
from cdtool.tokens import Token

DOG = Token("dog")


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A base whose corpus has captions 0 to 176 degrees away, shuffled, each of another grey."""
    monkeypatch.setattr(choose, "LEAST", 3)
    members = []
    for degrees in np.random.default_rng(0).permutation(89):
        members += [(f"{degrees:04}.png", picture(degrees)), (f"{degrees:04}.txt", f"dog {2 * degrees}\n".encode())]
    folder = tmp_path / "base"
    folder.mkdir()
    tar(folder / "corpus.tar", members)
    (folder / "cdtool.toml").write_text('[prior]\ncorpus = "corpus.tar"\nfloor = 0.5\n')
    return folder


def test_the_nearest_captions_above_the_floor_are_taken(base, sheet):
    found = choose.gather("auto", DOG, base_folder=base, count=200, encoder=encoder())
    expected = sorted(2 * degrees for degrees in range(89) if np.cos(np.radians(2 * degrees)) >= 0.5)
    assert [angle(chosen.caption) for chosen in found.images] == expected
    assert len(expected) == 31
    assert found.warning == ""
    for chosen in found.images:
        assert chosen.load().getpixel((3, 3)) == (angle(chosen.caption) / 2,) * 3
    assert found.summary == '31 class images of corpus.tar, captions 0.50 to 1.00 like "photo of a dog"'


def test_no_more_than_asked_for(base, sheet):
    found = choose.gather("auto", DOG, base_folder=base, count=4, encoder=encoder())
    assert [chosen.caption for chosen in found.images] == ["dog 0", "dog 2", "dog 4", "dog 6"]


def test_a_class_far_from_everything_gets_the_nearest_and_a_warning(base, sheet):
    (base / "cdtool.toml").write_text('[prior]\ncorpus = "corpus.tar"\nfloor = 0.9999\n')
    found = choose.gather("auto", DOG, base_folder=base, encoder=encoder())
    assert [chosen.caption for chosen in found.images] == ["dog 0", "dog 2", "dog 4"]
    assert "only 1 caption is" in found.warning


def test_a_picture_that_is_there_twice_is_used_once(tmp_path):
    members = [("a.png", picture(1)), ("a.txt", b"dog 3"), ("b.png", picture(1)), ("b.txt", b"dog 1"),
               ("c.png", picture(2)), ("c.txt", b"dog 2")]  # fmt: skip
    path = tar(tmp_path / "corpus.tar", members)
    found = choose.from_corpus(path, "photo of a dog", floor=0.5, count=200, encoder=encoder())
    assert [chosen.caption for chosen in found.images] == ["dog 1", "dog 2"]


def test_images_can_be_sent_to_another_process(base, sheet):
    found = choose.gather("auto", DOG, base_folder=base, count=2, encoder=encoder())
    copy = pickle.loads(pickle.dumps(found.images[1]))
    assert copy.load().getpixel((0, 0)) == (1, 1, 1)


def test_a_folder_with_and_without_captions(tmp_path):
    for grey in range(1, 6):
        (tmp_path / f"{grey}.png").write_bytes(picture(grey))
    found = choose.gather(str(tmp_path), Token("owl"), base_folder=tmp_path)
    assert [chosen.caption for chosen in found.images] == ["photo of an owl"] * 5
    (tmp_path / "2.txt").write_text("a brown owl")
    (tmp_path / "captions.jsonl").write_text('{"file_name": "4.png", "text": "a white owl"}\n')
    found = choose.gather(str(tmp_path), Token("owl"), base_folder=tmp_path)
    assert [chosen.caption for chosen in found.images] == [
        "photo of an owl", "a brown owl", "photo of an owl", "a white owl", "photo of an owl",
    ]  # fmt: skip
    assert "2 with captions of their own" in found.summary
    assert found.images[3].load().getpixel((0, 0)) == (4, 4, 4)


def test_a_large_folder_is_thinned_evenly(tmp_path):
    for grey in range(9):
        (tmp_path / f"{grey}.png").write_bytes(picture(grey))
    found = choose.from_folder(tmp_path, DOG, count=3)
    assert [chosen.load().getpixel((0, 0))[0] for chosen in found.images] == [0, 3, 6]


def test_no_prior_and_choices_that_are_not_there(tmp_path):
    assert choose.gather("none", DOG, base_folder=tmp_path).images == ()
    with pytest.raises(NotFoundError, match="nowhere"):
        choose.gather("nowhere", DOG, base_folder=tmp_path)
    with pytest.raises(NotFoundError) as raised:
        choose.gather("generate", DOG, base_folder=tmp_path)
    assert "generated" in raised.value.hint
    with pytest.raises(PhotoError):
        choose.gather(str(tmp_path), DOG, base_folder=tmp_path)


def test_a_style_asks_for_its_own_kind_of_caption(base, sheet):
    found = choose.gather("auto", Token("art"), base_folder=base, style=True, count=1, encoder=encoder())
    assert 'like "painting in the style of art"' in found.summary


def test_a_base_with_a_damaged_corpus_is_a_base_error(base, sheet):
    (base / "corpus.tar").write_bytes(b"not a tar")
    with pytest.raises(BaseError, match="cannot be read"):
        choose.gather("auto", DOG, base_folder=base, encoder=encoder())
    (base / "corpus.tar").unlink()
    with pytest.raises(BaseError, match="no corpus"):
        choose.gather("auto", DOG, base_folder=base, encoder=encoder())
    tar(base / "corpus.tar", [("1.png", b"not an image"), ("1.txt", b"dog")])
    (only,) = choose.gather("auto", DOG, base_folder=base, encoder=encoder()).images
    with pytest.raises(BaseError, match="not an image"):
        only.load()


# ---------------------------------------------------------------- sets


def made(name, noun="dog", source="own", count=3, *, side=40, style=False, requested=True, **origin):
    """A set of images as they are published."""
    with staging.stage(name, {source: origin}) as staged:
        images = [staged.put(noise(n, side=side), "png", caption=f"{noun} {n}", seed=n)
                    for n in range(count)]  # fmt: skip
        return staged.publish(
            Manifest(name, noun, source, origin, tuple(images), side=side, style=style, requested=requested)
        )  # fmt: skip


def named(found):
    return found.summary.partition('"')[2].partition('"')[0]


def test_a_set_by_its_name_and_a_folder_of_the_same_name_behind_it(base, tmp_path, monkeypatch):
    entry = made("dogs", count=5)
    found = choose.gather("dogs", Token("corgi"), base_folder=base, count=3)
    assert [image.caption for image in found.images] == ["dog 0", "dog 1", "dog 3"]
    assert [image.sha256 for image in found.images] == [entry.manifest.images[n].sha256 for n in (0, 1, 3)]
    assert found.images[0].load().size == (40, 40)
    (tmp_path / "dogs").mkdir()
    (tmp_path / "dogs" / "1.png").write_bytes(picture(1))
    monkeypatch.chdir(tmp_path)
    assert len(choose.gather("dogs", DOG, base_folder=base).images) == 5
    assert len(choose.gather("./dogs", DOG, base_folder=base).images) == 1


def test_a_retrieved_set_gives_its_nearest_and_a_caption_that_is_empty_follows_the_template():
    with staging.stage("dogs", {}) as staged:
        images = tuple(staged.put(noise(n), "png", caption=text) for n, text in enumerate(["near", "", "far"]))
        entry = staged.publish(Manifest("dogs", "dog", "retrieved", {}, images, side=40))
    found = choose.from_set(entry, Token("owl"), count=2)
    assert [image.caption for image in found.images] == ["near", "photo of an owl"]


def test_a_changed_picture_is_an_error_that_says_what_to_do():
    entry = made("dogs")
    (entry.folder / entry.manifest.images[1].file).write_bytes(noise(99))
    first, second, _ = choose.from_set(entry, DOG).images
    assert first.load().size == (40, 40)
    with pytest.raises(PhotoError, match="has changed") as raised:
        second.load()
    assert "--force" in raised.value.hint


def test_auto_takes_a_fitting_set_before_the_corpus(base, sheet):
    assert "corpus.tar" in choose.gather("auto", DOG, base_folder=base, encoder=encoder()).summary
    made("cats", "cat")
    made("paintings", style=True)
    made("smaller", side=16)
    made("hidden", requested=False)
    assert "corpus.tar" in choose.gather("auto", DOG, base_folder=base, encoder=encoder()).summary
    made("few", "Dog", count=2)
    assert named(choose.gather("auto", DOG, base_folder=base)) == "few"
    made("many", count=4)
    assert named(choose.gather("auto", DOG, base_folder=base)) == "many"
    made("real", source="retrieved", count=1)
    assert named(choose.gather("auto", DOG, base_folder=base)) == "real"
    assert named(choose.gather("auto", DOG, base_folder=base, style=True)) == "paintings"


@pytest.fixture
def sheet(base, sd_base):
    """The base of the corpus with a pipeline around it, so that its resolution (16 px) is known."""
    for part in ("unet", "vae", "scheduler", "model_index.json"):
        (base / part).symlink_to(sd_base / part)


def test_without_set_or_corpus_auto_asks_for_a_hundred_at_most(sd_base):
    found = choose.gather("auto", DOG, base_folder=sd_base)
    assert (found.images, found.count) == ((), 100)
    assert (found.pending.how.count, found.pending.how.steps, found.pending.prompt) == (100, 25, "photo of a dog")
    assert found.pending.name == "dog-tiny-sd-25"
    assert "100 class images to be generated first" in found.summary
    assert choose.gather("auto", DOG, base_folder=sd_base, count=30).count == 30


def test_generated_asks_for_as_many_as_the_paper(base, sheet):
    found = choose.gather("generated", DOG, base_folder=base)
    assert (found.pending.how.count, found.pending.how.steps, found.pending.how.guidance) == (200, 50, 6.0)
    assert choose.gather("none", DOG, base_folder=base).pending is None


def test_drawn_images_are_found_again_by_how_they_were_drawn(sd_base):
    wanted = choose.gather("generated", DOG, base_folder=sd_base, count=4).pending
    origin = wanted.how.recipe(wanted.prompt, choose.fingerprint(sd_base))
    made("mine", source="generated", count=3, **origin)
    assert choose.gather("generated", DOG, base_folder=sd_base, count=4).pending == wanted
    assert named(choose.gather("generated", DOG, base_folder=sd_base, count=3)) == "mine"
    made("other-base", source="generated", count=9, **(origin | {"fingerprint": "x"}))
    made("other-steps", source="generated", count=9, **(origin | {"steps": 10}))
    assert choose.gather("generated", DOG, base_folder=sd_base, count=4).pending == wanted
    made(wanted.name, source="generated", count=4, requested=False, **origin)
    assert named(choose.gather("generated", DOG, base_folder=sd_base, count=4)) == wanted.name
    more = choose.gather("generated", DOG, base_folder=sd_base, count=5).pending
    assert (more.name, more.how.count) == (wanted.name, 5)  # its own set is drawn on


def test_a_set_of_the_users_is_never_drawn_over(sd_base):
    wanted = choose.gather("generated", DOG, base_folder=sd_base, count=4).pending
    made(wanted.name, count=2)
    assert choose.gather("generated", DOG, base_folder=sd_base, count=4).pending.name == f"{wanted.name}-2"


def test_auto_takes_the_users_drawn_set_only_on_the_base_that_drew_it(sd_base, sd_v_base):
    origin = {"fingerprint": choose.fingerprint(sd_base)}
    made("dogs", source="generated", **origin)
    assert named(choose.gather("auto", DOG, base_folder=sd_base)) == "dogs"
    assert choose.gather("auto", DOG, base_folder=sd_v_base).pending is not None


def test_the_fingerprint_is_that_of_the_loaded_base(sd_base):
    from cdtool.models import pipelines

    assert choose.fingerprint(sd_base) == pipelines.load(str(sd_base), parts=()).fingerprint


def test_the_corpus_of_a_base(base, sd_base):
    assert choose.corpus_of(base) == base / "corpus.tar"
    with pytest.raises(NotFoundError, match="no corpus"):
        choose.corpus_of(sd_base)
