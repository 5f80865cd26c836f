"""Retrieval among look-alikes, collapse and cut-outs, against plain loops and hand-made images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cdtool.errors import NotFoundError, UsageError
from cdtool.evaluation import alignment, evaluate, identity, metrics
from cdtool.evaluation.alignment import Sample
from cdtool.images import photos
from cdtool.models import encoders
from cdtool.store import registry


def at(*degrees):
    return np.array([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees], np.float32)


def test_own_first_by_hand():
    own, rivals = at(0, 10), [at(40), at(100, 120)]
    # The mean cosine with 0 and 10 degrees against that with 40: the bar lies between 22 and 23 degrees.
    assert identity.own_first(at(5, 22, 23, 60), own, rivals).tolist() == [1, 1, 0, 0]
    assert identity.own_first(at(5), own, [own]).tolist() == [0], "a tie goes to the rival"


def test_ranks_of_photos_leave_each_one_out():
    # Each photo's own folder without itself: 0 is nearer to 20 than to 30; 20 is nearer to 30 than to 0.
    assert identity.own_photos_first(at(0, 20), [at(30)]) == 0.5


def test_collapse_is_what_is_not_among_the_nearest():
    rng = np.random.default_rng(0)
    images = encoders.unit(rng.normal(size=(20, 5)).astype(np.float32))
    targets, rivals = ([encoders.unit(rng.normal(size=(3, 5)).astype(np.float32)) for _ in range(n)] for n in (2, 4))
    expected = []
    for image in images:
        near = sorted([*((np.mean(t @ image), "own") for t in targets), *((np.mean(r @ image), "") for r in rivals)])
        expected.append(1 - sum(kind == "own" for _, kind in near[-2:]) / 2)
    assert identity.collapsed(images, targets, rivals).tolist() == expected
    assert 0 < np.mean(expected) < 1
    assert identity.collapsed(at(0), [at(0)], [at(0)]).tolist() == [1], "a tie goes to the rival"


def colours(images):
    return np.stack([np.asarray(image, np.float32).mean(axis=(0, 1)) for image in images])


ENCODER = encoders.Encoder(encoders.EncoderSpec("colours", "", 0.0), lambda texts: np.ones((len(texts), 3)), colours)


def solid(colour):
    return Image.new("RGB", (40, 40), colour)


def test_rank_and_scr_are_columns_of_the_scores():
    samples = [Sample(solid("red"), "a"), Sample(solid("blue"), "a"), Sample(solid("lime"), "b")]
    targets = {"V1 dog": [solid("red")], "V2 cat": [solid("blue")]}
    found = alignment.score(samples, targets, ENCODER, metrics=("rank", "scr"), rivals={"gate": [solid("lime")]})
    assert found.each["rank V1 dog"] == [1, 0, 0]
    assert found.each["rank V2 cat"] == [0, 1, 0]
    # A red image is as near to blue as to lime, and a tie goes to the look-alike.
    assert found.each["scr"] == [0.5, 0.5, 0.5]


# ---------------------------------------------------------------- cut-outs


def thing(background, where=(30, 25, 49, 54)):
    image = Image.new("RGB", (96, 64), background)
    ImageDraw.Draw(image).rectangle(where, fill=(200, 30, 30))
    return image


def test_a_thing_is_cut_out_of_its_background():
    cut = identity.cut_out(thing((30, 120, 60)))
    assert abs(cut.width - 20) <= 6
    assert abs(cut.height - 30) <= 6
    assert np.median(np.asarray(cut).reshape(-1, 3), axis=0).tolist() == [200, 30, 30]


def test_cut_outs_of_one_thing_are_alike_whatever_is_behind_it():
    here, there = thing((30, 120, 60)), thing((240, 240, 240))
    whole, cut = (
        float(np.dot(*encoders.image_features(ENCODER, images)))
        for images in ([here, there], [identity.cut_out(here), identity.cut_out(there)])
    )
    assert cut > whole + 0.05


def test_an_image_without_a_foreground_stays_whole():
    plain = solid((10, 20, 30))
    assert identity.cut_out(plain) is plain


def test_otsu_parts_two_heaps():
    assert 0.2 < identity.otsu(np.array([0.0, 0.1, 0.2, 0.1, 5.0, 5.1])) < 5


# ---------------------------------------------------------------- look-alikes


def folder(parent, name, *colours):
    (parent / name).mkdir(parents=True)
    for number, colour in enumerate(colours):
        solid(colour).save(parent / name / f"{number}.png")
    return parent / name


def test_lookalikes_come_from_the_base_other_concepts_or_a_folder(tmp_path):
    own = list(photos.find([folder(tmp_path, "dog", "red")])[0])
    other = folder(tmp_path, "cat", "blue")
    base = tmp_path / "base"
    folder(base / "alike", "gate", "lime", "cyan")
    folder(base / "alike", "same", "red", "black")  # shares a photo with the concept's own
    known = {"cat": [other], "gone": [tmp_path / "gone"], "copy": [other]}
    assert list(identity.lookalikes(own, None, base, known)) == ["cat"]
    (base / "cdtool.toml").write_text('[eval]\nlookalikes = "alike"\n')
    assert list(identity.lookalikes(own, None, base, known)) == ["cat", "gate"]
    assert list(identity.lookalikes(own, base / "alike", tmp_path, known)) == ["gate"]
    with pytest.raises(NotFoundError, match="look-alikes"):
        identity.lookalikes(own, tmp_path / "cat", tmp_path, known)


def test_other_concepts_are_those_with_known_photos(saved, tmp_path):
    for name in ("dog", "cat", "gate"):
        saved(name)
    registry.add_note("cat", photos=[str(tmp_path)])
    registry.add_note("dog", photos=[str(tmp_path)])
    assert identity.other_concepts([registry.find("dog")]) == {"cat": [tmp_path]}


def test_public_bases_are_measured_with_dinov2_and_others_with_their_own(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(encoders, "find", lambda spec: asked.append(spec.name))
    request = metrics.request(metrics="text,rank,scr,cutout")
    metrics.find_encoders(request, tmp_path)
    assert asked == ["clip-vit-b32", "dinov2-small"]
    asked.clear()
    own = tmp_path / "own"
    (own / "eval").mkdir(parents=True)
    (own / "eval" / "config.json").write_text("{}")
    (own / "cdtool.toml").write_text('[eval]\nencoder = "eval"\nname = "mine"\n')
    metrics.find_encoders(request, own)
    assert asked == ["mine"]


def test_an_evaluation_names_the_lookalikes_it_compares_with(saved, tmp_path):
    saved("dog")
    own, other = folder(tmp_path, "dog", "red"), folder(tmp_path, "cat", "blue")
    saved("cat")
    registry.add_note("cat", photos=[str(other)])
    plan = evaluate.plan("dog", photos=[own], metrics="text,rank")
    assert "cat" in plan.lookalikes
    assert evaluate.plan("dog", photos=[own]).lookalikes is None
    with pytest.raises(UsageError, match="--lookalikes"):
        evaluate.plan("dog", photos=[own], lookalikes=tmp_path)
