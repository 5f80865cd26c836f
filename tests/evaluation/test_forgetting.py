"""What a concept broke: hand-made moves, and a concept of the tiny pipeline at several weights."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image

from cdtool.evaluation import alignment, distances, forgetting, references
from cdtool.evaluation.alignment import Sample
from cdtool.evaluation.metrics import MetricRequest
from cdtool.evaluation.side_effects import ClassProbe, ProbeImage, ProbePlan
from cdtool.models import encoders

SPEC = encoders.EncoderSpec("fake", "nowhere", 0.85)


def grey(degrees):
    return Image.new("RGB", (4, 4), (degrees,) * 3)


def cos(degrees):
    return math.cos(math.radians(degrees))


def encoder():
    """Pictures lie at the angle of their grey."""

    def image(images):
        turned = np.radians([image.getpixel((0, 0))[0] for image in images])
        return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32) * 5

    return encoders.Encoder(SPEC, lambda texts: np.ones((len(texts), 2), np.float32), image)


def drawn(group, own, base, prompts=None):
    asked = prompts or ["photo of a dog"] * len(own)
    return [
        ProbeImage(group, which, grey(level), prompt, seed)
        for which, levels in ((True, own), (False, base))
        for seed, (level, prompt) in enumerate(zip(levels, asked, strict=True))
    ]


KIND = ClassProbe("dog", "photo of a dog", "dog", is_own_word=False)


def test_moves_and_leaks_by_hand():
    pictures = drawn("dog", [20, 30], [50, 60]) + drawn("unrelated", [90, 5], [90, 15], ["a ship", "a tree"])
    found = forgetting.measure(ProbePlan((KIND,)), pictures, {"dog": [grey(20), grey(40)]}, encoder(), ("dog", "mini"))
    assert list(found) == ["class", "leak", "unrelated"]
    assert found["class"].score.mean == pytest.approx(1 - cos(30), abs=1e-6)
    near = (1 + cos(20) + cos(10) + cos(10)) / 4
    before = (cos(30) + cos(10) + cos(40) + cos(20)) / 4
    assert found["leak"].score.mean == pytest.approx(near - before, abs=1e-6)
    assert found["unrelated"].score.mean == pytest.approx((1 - cos(10)) / 2, abs=1e-6)
    assert found["unrelated"].score.low <= found["unrelated"].score.mean <= found["unrelated"].score.high
    assert "2 captions" in found["unrelated"].meaning
    assert found["leak"].sheet is None


def test_a_sheet_has_the_base_above_the_concept():
    found = forgetting.measure(
        ProbePlan((KIND,)), drawn("dog", [200], [100]), {"dog": [grey(1)]}, encoder(), ("dog", "mini")
    )
    sheet = np.asarray(found["class"].sheet)[:, 20, 0]
    assert np.flatnonzero(sheet == 100).max() < np.flatnonzero(sheet == 200).min()


def test_two_classes_have_scores_each():
    classes = KIND, ClassProbe("cat", "photo of a cat", "cat", is_own_word=False)
    pictures = drawn("dog", [0], [0]) + drawn("cat", [10], [40])
    found = forgetting.measure(
        ProbePlan(classes), pictures, {"dog": [grey(0)], "cat": [grey(0)]}, encoder(), ("x", "mini")
    )
    assert list(found) == ["class dog", "leak dog", "class cat", "leak cat"]
    assert found["class dog"].score.mean == found["leak dog"].score.mean == 0


def test_columns_of_sets_equal_the_distances(monkeypatch):
    real = [1, 2, 5, 9]
    monkeypatch.setattr(references, "images", lambda members: iter([grey(level) for level in members]))
    kind = ClassProbe("dog", "photo of a dog", "dog", is_own_word=False, pictures=tuple(real))
    own, base = [3, 4, 9, 30], [1, 2, 50, 70]
    pictures = drawn("dog", own, base) + drawn("unrelated", own, base)
    scores = alignment.score([Sample(grey(1), "a 0")], {}, encoder(), base=[Sample(grey(1), "a 0")])
    planned = ProbePlan((kind,), pictures=tuple(real))
    found = forgetting.with_sets(scores, planned, pictures, MetricRequest(("text", "kid", "fid")), encoder())

    def rows(levels):
        return np.array([[cos(level), math.sin(math.radians(level))] for level in levels], np.float32) * 2**0.5

    assert found.concept["kid"] == pytest.approx(1000 * distances.kid(rows(own), rows(real)), rel=1e-5)
    assert found.base["kid"] == pytest.approx(1000 * distances.kid(rows(base), rows(real)), rel=1e-5)
    assert found.concept["fid"] == pytest.approx(distances.frechet(rows(own), rows(real)), rel=1e-4)
    told = found.difference["kid"]
    assert told.mean == pytest.approx(found.concept["kid"] - found.base["kid"], abs=1e-6)
    assert told.low < told.mean < told.high
    assert "fid" not in found.difference
    assert found.sets["kid"] == {"encoder": "fake", "drawn": 4, "real": 4, "prompt": "photo of a dog"}
    assert json.loads(json.dumps(found.as_dict()))["concept"]["kid"] == found.concept["kid"]


def test_fid_looks_at_as_many_pictures_as_asked(monkeypatch):
    monkeypatch.setattr(references, "images", lambda members: iter([grey(1), grey(2), grey(3)]))
    scores = alignment.score([Sample(grey(1), "a 0")], {}, encoder())
    pictures = drawn("unrelated", [1, 2, 3, 90], [1, 2, 3, 80])
    found = forgetting.with_sets(scores, ProbePlan(), pictures, MetricRequest(("fid",), fid_count=3), encoder())
    assert found.concept["fid"] == pytest.approx(0, abs=1e-6)
    assert found.sets["fid"]["drawn"] == 3
