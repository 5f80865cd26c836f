"""Which pictures each step sees, and the bank in which every crop of them is encoded once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from cdtool.errors import SettingsError
from cdtool.images import augmentation
from cdtool.models import diffusion, pipelines
from cdtool.settings import TrainSettings
from cdtool.tokens import Token, bind
from cdtool.training import batches
from cdtool.training.processes import Ranks

TOKENS = (Token("dog", initializer="ktn", ids=(1,)), Token("cat", initializer="pll", ids=(2,)))


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 40, 3), dtype=np.uint8))


def subject(photos, priors, noun="V* dog", first=0):
    return batches.ConceptImages(
        tuple(batches.Example(f"photo of a {noun}", lambda n=n: picture(first + n)) for n in range(photos)),
        tuple(batches.Example(f"prior {n}", lambda n=n: picture(100 + first + n)) for n in range(priors)),
    )


def all_samples(settings, concepts, steps):
    return [sample for step in range(steps) for sample in batches.samples_of(settings, concepts, step)]


# ---------------------------------------------------------------- draws


def test_draws_are_a_function_of_seed_and_step():
    concepts = [subject(5, 7)]
    one = [batches.samples_of(TrainSettings(seed=3), concepts, step) for step in range(40)]
    again = [batches.samples_of(TrainSettings(seed=3), concepts, step) for step in reversed(range(40))]
    other = [batches.samples_of(TrainSettings(seed=4), concepts, step) for step in range(40)]
    assert one == again[::-1]
    assert one != other
    assert len({tuple(step) for step in one}) == 40


def test_half_of_a_step_is_prior_and_all_of_it_without():
    with_prior = batches.samples_of(TrainSettings(batch=8), [subject(3, 5)], 2)
    assert [sample.is_class for sample in with_prior] == [False] * 4 + [True] * 4
    assert [sample.position for sample in with_prior] == list(range(8))
    without = batches.samples_of(TrainSettings(batch=8), [subject(3, 0)], 2)
    assert not any(sample.is_class for sample in without)
    assert len(without) == 8


@pytest.mark.parametrize(("photos", "batch"), [((3, 5), 8), ((4,), 8), ((2, 3, 7), 6), ((5, 5), 2)])
def test_subjects_and_their_photos_are_balanced_exactly(photos, batch):
    """Over whole epochs every subject comes equally often, and so does every photo of it."""
    concepts = [subject(count, count + 1) for count in photos]
    targets, epoch = batch // 2, int(np.lcm.reduce([*photos, *(count + 1 for count in photos)]))
    steps = epoch * len(photos)
    found = all_samples(TrainSettings(batch=batch), concepts, steps)
    for prior in (False, True):
        chosen = [sample for sample in found if sample.is_class == prior]
        assert set(Counter(sample.concept for sample in chosen).values()) == {steps * targets // len(photos)}
        for place, count in enumerate(photos):
            seen = Counter(sample.image for sample in chosen if sample.concept == place)
            assert len(seen) == count + prior
            assert len(set(seen.values())) == 1


def test_no_photo_comes_twice_before_all_came():
    found = [sample.image for sample in all_samples(TrainSettings(batch=2), [subject(5, 9)], 45) if not sample.is_class]
    epochs = [tuple(found[start : start + 5]) for start in range(0, 45, 5)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len(set(epochs)) > 3  # each in its own order


def test_a_prior_picture_is_of_the_class_of_its_target():
    for step in range(8):
        found = batches.samples_of(TrainSettings(batch=6), [subject(2, 3), subject(2, 4)], step)
        assert [sample.concept for sample in found[3:]] == [sample.concept for sample in found[:3]]


def test_crops_cover_the_bank():
    found = all_samples(TrainSettings(batch=8, crops=4), [subject(2, 2)], 60)
    assert {sample.crop for sample in found if not sample.is_class} == {0, 1, 2, 3}
    assert {sample.crop for sample in found if sample.is_class} == set(range(batches.CLASS_CROPS))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("priors", [0, 6])
def test_shares_partition_a_step_exactly(world, priors):
    drawn = batches.samples_of(TrainSettings(batch=8), [subject(3, priors)], 4)
    parts = [batches.shard(drawn, Ranks(rank, world)) for rank in range(world)]
    assert sorted(sample for part in parts for sample in part) == sorted(drawn)
    assert max(map(len, parts)) - min(map(len, parts)) <= 2


# ---------------------------------------------------------------- the bank


@pytest.fixture(scope="module")
def base(sd_base):
    return pipelines.load(str(sd_base), precision="fp32", device="cpu", parts=("vae",))


def filled(base, settings, concepts, tokens, wanted):
    *_, (done, count, made) = batches.encode_crops(base, settings, concepts, tokens, wanted)
    assert done == count == len(made)
    return made


def test_each_crop_is_encoded_once_and_each_photo_opened_once(base, monkeypatch):
    opened, encoded = Counter(), []

    def example(number):
        def open_picture():
            opened[number] += 1
            return picture(number)

        return batches.Example("photo of a V* dog", open_picture)

    monkeypatch.setattr(diffusion, "moments", lambda _, images: encoded.extend(images) or torch.zeros(len(images), 2))
    settings = TrainSettings(batch=4, crops=3)
    concepts = [batches.ConceptImages((example(0), example(1)), (example(10), example(11), example(12)))]
    wanted = all_samples(settings, concepts, 50)
    made = filled(base, settings, concepts, TOKENS[:1], wanted)
    assert len(made) == len(encoded) == 2 * 3 + 3 * 2
    assert set(opened.values()) == {1}
    assert set(made) == {batches.crop_key(sample) for sample in wanted}


def test_a_crop_has_its_own_moments_mask_and_prompt(base):
    settings = TrainSettings(batch=4, crops=8, seed=5)
    concepts = [subject(2, 2, "V1 dog"), subject(2, 2, "V2 cat", first=20)]
    made = filled(base, settings, concepts, TOKENS, all_samples(settings, concepts, 60))
    prefixes = set()
    for (prior, place, number, index), item in made.items():
        example = (concepts[place].class_images if prior else concepts[place].photos)[number]
        if prior:
            crop = augmentation.class_crop(example.open(), 16, 8, flipped=bool(index))
            wanted = bind(example.caption, [])
        else:
            photo = place * batches.MOST_PHOTOS + number
            crop = augmentation.crop(example.open(), 16, 8, seed=5, photo=photo, index=index)
            wanted = bind(augmentation.prefixed(crop.prefix, example.caption), TOKENS)
            prefixes.add(crop.prefix)
        alone = diffusion.moments(base, [crop.pixels])[0]
        torch.testing.assert_close(item.moments, alone, atol=1e-5, rtol=1e-4)
        assert item.moments.shape == (2, 4, 8, 8)
        assert torch.equal(item.mask, torch.from_numpy(crop.mask))
        assert item.prompt.pieces == wanted.pieces
    assert len(prefixes) > 2


def cached(priors, opened):
    """A subject whose class images have digests; `opened` counts how often each is opened."""

    def example(number):
        def open_picture():
            opened[number] += 1
            return picture(number)

        return batches.Example(f"prior {number}", open_picture, f"{number:064d}")

    return batches.ConceptImages(subject(2, 0).photos, tuple(example(number) for number in priors))


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[key].moments, other[key].moments)
        and torch.equal(one[key].mask, other[key].mask)
        and one[key].prompt == other[key].prompt
        for key in one
    )


def test_kept_latents_equal_fresh_ones_bit_by_bit(base, home):
    settings, opened = TrainSettings(batch=4, crops=3), Counter()
    wanted = all_samples(settings, [cached(range(5), opened)], 60)
    plain = batches.ConceptImages(
        subject(2, 0).photos, tuple(batches.Example(f"prior {n}", lambda n=n: picture(n)) for n in range(5))
    )
    uncached = filled(base, settings, [plain], TOKENS[:1], wanted)
    assert not (home / "cache").exists()  # a picture without a digest cannot be known again
    first = filled(base, settings, [cached(range(5), opened)], TOKENS[:1], wanted)
    assert sorted(opened.values()) == [1] * 5
    again = filled(base, settings, [cached(range(5), opened)], TOKENS[:1], wanted)
    assert sorted(opened.values()) == [1] * 5
    assert same(uncached, first)
    assert same(first, again)


def test_latents_do_not_depend_on_which_other_pictures_are_encoded(base):
    settings, opened = TrainSettings(batch=4, crops=2), Counter()
    filled(base, settings, [cached([3], opened)], TOKENS[:1], all_samples(settings, [cached([3], opened)], 30))
    concepts = [cached(range(6), opened)]
    mixed = filled(base, settings, concepts, TOKENS[:1], all_samples(settings, concepts, 90))
    latents_of_three = mixed[True, 0, 3, 1].moments
    crop = augmentation.class_crop(picture(3), 16, 8, flipped=True)
    assert torch.equal(latents_of_three, diffusion.moments(base, [crop.pixels])[0])


def test_one_changed_picture_is_one_entry_redone(base):
    settings, opened = TrainSettings(batch=4, crops=2), Counter()
    concepts = [cached(range(4), opened)]
    wanted = all_samples(settings, concepts, 60)
    filled(base, settings, concepts, TOKENS[:1], wanted)
    opened.clear()
    changed = [cached([0, 1, 9, 3], opened)]
    filled(base, settings, changed, TOKENS[:1], wanted)
    assert opened == {9: 1}


def test_without_augmentation_there_are_full_pictures_only(base):
    settings = TrainSettings(batch=2, crops=8, augment=False)
    concepts = [subject(2, 2)]
    made = filled(base, settings, concepts, TOKENS[:1], all_samples(settings, concepts, 30))
    assert all(item.mask.all() for item in made.values())
    assert {item.prompt.pieces[0] for key, item in made.items() if not key[0]} == {"photo of a "}


def test_a_caption_of_the_prior_is_never_read_for_modifier_tokens(base):
    example = batches.Example("a V8 engine", lambda: picture(0))
    concepts = [batches.ConceptImages((batches.Example("photo of a V* dog", lambda: picture(1)),), (example,))]
    made = filled(base, TrainSettings(batch=2), concepts, TOKENS[:1], all_samples(TrainSettings(batch=2), concepts, 3))
    assert {item.prompt.pieces for key, item in made.items() if key[0]} == {("a V8 engine",)}


def test_a_resolution_the_denoiser_cannot_halve_is_refused(base):
    assert batches.resolution(base, TrainSettings()) == 16
    assert batches.resolution(base, TrainSettings(resolution=32)) == 32
    with pytest.raises(SettingsError, match="multiple of 4") as caught:
        batches.resolution(base, TrainSettings(resolution=30))
    assert "28" in caught.value.hint
