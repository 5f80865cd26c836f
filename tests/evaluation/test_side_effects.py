"""What is drawn beside the samples, planned and drawn on the tiny pipeline."""

from __future__ import annotations

import numpy as np
import pytest
from corpora_made import noise

from cdtool.errors import NotFoundError, UsageError
from cdtool.evaluation import metrics, side_effects
from cdtool.evaluation.metrics import MetricRequest
from cdtool.models import encoders
from cdtool.sampling import sample
from cdtool.sampling.sample import Generated
from cdtool.settings import SampleSettings
from cdtool.store import subject


@pytest.mark.parametrize(
    ("text", "expected"),
    [("text", ("text",)), ("image, kid,image", ("image", "kid")), ("dino,fid", ("dino", "fid"))],
)
def test_metrics_are_read(text, expected):
    assert metrics.metric_names(text) == expected


def test_an_unknown_metric_is_a_usage_error_with_the_nearest():
    with pytest.raises(UsageError, match='"txt"') as raised:
        metrics.metric_names("txt")
    assert raised.value.hint == "Did you mean text?"
    with pytest.raises(UsageError):
        metrics.metric_names(" ,")


@pytest.fixture
def dog(saved, tmp_path):
    saved("dog")
    return subject.find("dog")


def test_nothing_is_drawn_for_scores_of_samples(dog, tmp_path):
    assert side_effects.plan(MetricRequest(("text", "image", "dino")), dog, ["dog"], tmp_path, 20).total == 0


def test_forgetting_looks_at_a_class_its_neighbours_and_captions(dog, tmp_path):
    found = side_effects.plan(MetricRequest(forgetting=True), dog, ["dog"], tmp_path, 20)
    (kind,) = found.classes
    assert (kind.noun, kind.prompt, kind.target, kind.pictures) == ("dog", "photo of a dog", "dog", ())
    assert (found.count, found.near, len(found.captions)) == (20, 7, 20)
    assert "dog" not in found.nouns
    assert found.total == 2 * (20 + 3 * 7 + 20)
    few, many = (side_effects.plan(MetricRequest(forgetting=True), dog, ["dog"], tmp_path, n) for n in (1, 999))
    assert (few.count, many.count, len(many.captions)) == (side_effects.FEWEST, side_effects.MOST, side_effects.MOST)


def test_kid_draws_the_class_alone(dog, tmp_path):
    with pytest.raises(NotFoundError, match="brings none"):
        side_effects.plan(MetricRequest(("kid",)), dog, ["dog"], tmp_path, 20)
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(noise(seed))
    found = side_effects.plan(MetricRequest(("kid",), kid=tmp_path), dog, ["dog"], tmp_path, 99)
    assert len(found.classes[0].pictures) == 3
    assert (found.count, found.nouns, found.captions) == (99, (), ())
    assert (
        side_effects.plan(MetricRequest(("kid",), kid=tmp_path), dog, ["dog"], tmp_path, 4).count == side_effects.ENOUGH
    )


def test_a_concepts_only_word_cannot_be_leaked_into(saved, tmp_path):
    from cdtool.tokens import Token

    saved("gate", tokens=(Token("moongate", modifier=False),))
    found = side_effects.plan(MetricRequest(forgetting=True), subject.find("gate"), ["moongate"], tmp_path, 20)
    assert found.classes == ()
    assert found.class_prompts == ("photo of a moongate",)


def test_a_base_changes_nothing_in_itself(tmp_path):
    with pytest.raises(UsageError, match="is a base"):
        side_effects.plan(MetricRequest(forgetting=True), subject.find("mini"), [], tmp_path, 4)


def test_neighbours_are_the_nearest_nouns():
    angles = {"dog": 0, "cat": 10, "cow": 20, "car": 90, "cup": 80, "fox": 5}

    def text(texts):
        turned = np.radians([angles[one.split()[-1]] for one in texts])
        return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)

    encoder = encoders.Encoder(encoders.EncoderSpec("fake", "nowhere", 0.8), text, None)
    found = side_effects.ProbePlan(class_prompts=("photo of a dog",), nouns=("car", "cow", "cup", "cat", "fox"))
    assert side_effects.neighbours(found, encoder) == ["fox", "cat", "cow"]
    assert side_effects.neighbours(side_effects.ProbePlan(), encoder) == []


def test_what_the_base_drew_is_kept_by_prompt_number_and_settings(dog, monkeypatch):
    asked = []

    def draw(base, concepts, prompts, chosen, weights=()):
        asked.append((bool(concepts), tuple(prompts), chosen.count))
        return (Generated(f"{bool(concepts)} {place}", prompts[0], place) for place in range(chosen.count))

    monkeypatch.setattr(sample, "generate", draw)
    kind = side_effects.ClassProbe("dog", "photo of a dog", "dog", False)
    kept = {}

    def run(count, **changed):
        beside = side_effects.ProbePlan(classes=(kind,), count=count)
        return list(side_effects.generate(None, dog, beside, (), SampleSettings(**changed), kept))

    first = run(2)
    assert [(one.is_concept, one.image) for one in first] == [
        (True, "True 0"), (True, "True 1"), (False, "False 0"), (False, "False 1"),
    ]  # fmt: skip
    assert run(2) == first
    assert [concept for concept, *_ in asked] == [True, False, True]
    run(3)
    run(2, steps=7)
    assert [concept for concept, *_ in asked[3:]] == [True, False, True, False]
