"""Evaluations planned and run with a painter that stands in for sampling."""

from __future__ import annotations

import json
import types
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from cdtool.errors import InputError, NotFoundError, TokenError, UsageError
from cdtool.evaluation import evaluate, samples
from cdtool.models import encoders, pipelines
from cdtool.sampling import sample
from cdtool.store import bases, registry
from cdtool.tokens import Token


@dataclass(frozen=True)
class Generated:
    image: Image.Image
    prompt: str
    seed: int


class Calls(list):
    """What was asked of the painter: (concepts, prompts) each, and their weights."""

    def __init__(self):
        super().__init__()
        self.weights = []


def grey(level):
    return Image.new("RGB", (40, 40), (level,) * 3)


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A base folder where every base is found."""
    folder = tmp_path / "base"
    folder.mkdir()
    monkeypatch.setattr(bases, "locate", lambda _: folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for level in (100, 110):
        grey(level).save(folder / f"{level}.png")
    return folder


@pytest.fixture
def painter(base, monkeypatch):
    """Concepts paint 100 + seed, the bare base 30 + seed; pictures and texts lie at the angle of their grey."""
    calls = Calls()

    def draw(loaded, concepts, prompts, settings, weights=()):
        calls.append(([entry.name for entry in concepts], list(prompts)))
        calls.weights.append(weights)
        for prompt in prompts:
            for seed in range(settings.seed, settings.seed + settings.count):
                yield Generated(grey((100 if concepts else 30) + seed), prompt, seed)

    def direction(degrees):
        return [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]

    encoder = encoders.Encoder(
        encoders.EncoderSpec("fake", "nowhere", 0.8),
        lambda texts: np.array([direction(90) for _ in texts], np.float32),
        lambda images: np.array([direction(image.getpixel((0, 0))[0]) for image in images], np.float32),
    )
    monkeypatch.setattr(sample, "generate", draw)
    monkeypatch.setattr(pipelines, "load", lambda *_, **__: types.SimpleNamespace(device="cpu"))
    monkeypatch.setattr(encoders, "find", lambda spec: None)
    monkeypatch.setattr(encoders, "load", lambda *_: encoder)
    return calls


def cos(degrees):
    return float(np.cos(np.radians(degrees)))


def test_a_concept_is_scored_beside_its_base(saved, pictures, painter):
    saved("dog")
    plan = evaluate.plan("dog", photos=[pictures], prompts=["a V* dog on grass", "photo of a {}"], count=2)
    *drawn, scores = evaluate.run(plan)
    assert painter == [
        (["dog"], ["a V* dog on grass", "photo of a V* dog"]),
        ([], ["a dog on grass", "photo of a dog"]),
    ]
    assert len(drawn) == plan.pictures == 8
    expected = np.mean([cos(100 + seed - photo) for seed in (0, 1) for photo in (100, 110)])
    assert scores.concept["image"] == pytest.approx(expected, abs=1e-6)
    assert scores.base["text"] == pytest.approx(2.5 * np.mean([cos(60), cos(59)]), abs=1e-6)
    noted = registry.note("dog")
    assert noted["scores"] == scores.concept
    assert noted["evaluation"]["prompts"] == 2
    assert json.dumps(noted["evaluation"])


def test_the_photos_a_concept_was_trained_on_are_known(saved, pictures, base):
    saved("dog")
    with pytest.raises(NotFoundError, match="not known"):
        evaluate.plan("dog")
    registry.add_note("dog", photos=[str(pictures)])
    plan = evaluate.plan("dog")
    assert [len(found) for found in plan.photos.values()] == [2]
    assert plan.prompts == tuple(prompt.replace("{}", "V* dog") for prompt in samples.PROMPTS)


def test_several_tokens_have_a_folder_each(saved, pictures, base, tmp_path):
    saved("pair", tokens=(Token("dog"), Token("moongate", modifier=False)))
    other = tmp_path / "gates"
    other.mkdir()
    grey(7).save(other / "1.png")
    plan = evaluate.plan("pair", photos=[pictures, other], prompts=["A {}"])
    assert plan.prompts == ("A V1 dog and a moongate",)
    assert {name: len(found) for name, found in plan.photos.items()} == {"V1 dog": 2, "moongate": 1}
    with pytest.raises(UsageError, match="2 tokens"):
        evaluate.plan("pair", photos=[pictures])


def test_a_bare_base_needs_prompts_of_its_own(pictures, painter):
    with pytest.raises(UsageError, match="no word"):
        evaluate.plan("mini", photos=[pictures])
    plan = evaluate.plan("mini", photos=[pictures], prompts=["a dog"], count=1)
    *drawn, scores = evaluate.run(plan)
    assert painter == [([], ["a dog"])]
    assert len(drawn) == plan.pictures == 1
    assert scores.base == {}


def test_a_prompt_that_names_another_token_fails_before_anything_is_loaded(saved, pictures, base):
    saved("dog")
    with pytest.raises(TokenError, match="V2"):
        evaluate.plan("dog", photos=[pictures], prompts=["a V2 dog"])


def test_a_base_may_bring_its_own_prompts(saved, pictures, base):
    saved("dog")
    (base / "cdtool.toml").write_text('[eval]\nprompts = "ask.txt"\n')
    (base / "ask.txt").write_text("# what it draws\na {} at sea\n\n")
    assert evaluate.plan("dog", photos=[pictures]).prompts == ("a V* dog at sea",)
    (base / "ask.txt").unlink()
    with pytest.raises(NotFoundError, match=r"ask\.txt"):
        evaluate.plan("dog", photos=[pictures])


@pytest.mark.parametrize(
    ("prompt", "nouns", "expected"),
    [
        ("photo of a {}", ["owl"], "photo of an owl"),
        ("{} by the sea", ["owl"], "owl by the sea"),
        ("an owl", ["owl"], "an owl"),
        ("a {}", ["owl", "egg", "cup"], "an owl and an egg and a cup"),
    ],
)
def test_prompts_are_filled(prompt, nouns, expected):
    assert samples.fill(prompt, [Token(noun, modifier=False) for noun in nouns]) == expected


@pytest.mark.parametrize(
    ("prompt", "nouns", "expected"),
    [
        ("photo of a {0} in front of a {1}", ["dog", "cat"], "photo of a V1 dog in front of a V2 cat"),
        ("{1} and {0}", ["dog", "cat"], "V2 cat and V1 dog"),
        ("A {0} by an {1}, {0}", ["dog", "cat"], "A V1 dog by a V2 cat, V1 dog"),
        ("a {0}", ["dog"], "a V* dog"),
        ("{} in the snow, a {1}", ["dog", "cat"], "V1 dog and a V2 cat in the snow, a V2 cat"),
        ("a panda {0}", ["dog"], "a panda V* dog"),
    ],
)
def test_pair_prompts_are_filled_token_by_token(prompt, nouns, expected):
    assert samples.fill(prompt, [Token(noun) for noun in nouns]) == expected


def test_a_prompt_may_not_ask_for_a_token_that_is_not_there():
    with pytest.raises(UsageError, match=r"\{2\}.*2 tokens, \{0\} to \{1\}"):
        samples.fill("a {0} and a {2}", [Token("dog"), Token("cat")])
    with pytest.raises(UsageError, match="one token"):
        samples.fill("a {1}", [Token("dog")])
    with pytest.raises(UsageError, match="no word"):
        samples.fill("a {0}", [])


@pytest.fixture
def gates(tmp_path):
    """A second folder of photos."""
    folder = tmp_path / "gates"
    folder.mkdir()
    grey(150).save(folder / "1.png")
    return folder


@pytest.fixture
def two(saved, pictures, gates):
    """dog and gate, each with its photos known."""
    saved("dog")
    saved("gate", tokens=(Token("moongate", modifier=False),))
    registry.add_note("dog", photos=[str(pictures)])
    registry.add_note("gate", photos=[str(gates)])


def test_joined_concepts_are_measured_against_the_photos_of_each(two, painter):
    plan = evaluate.plan("dog:0.5+gate", prompts=["a {0} before a {1}"], count=2)
    assert plan.prompts == ("a V1 dog before a moongate",)
    *drawn, scores = evaluate.run(plan)
    assert painter == [(["dog", "gate"], ["a V1 dog before a moongate"]), ([], ["a dog before a moongate"])]
    assert painter.weights == [(0.5, 1.0), ()]
    assert len(drawn) == plan.pictures == 4
    assert scores.photos == {"V1 dog": 2, "moongate": 1}
    assert scores.concept["image moongate"] == pytest.approx((cos(50) + cos(49)) / 2, abs=1e-6)
    assert set(scores.difference) == {"text", "image V1 dog", "image moongate"}
    assert "scores" not in registry.note("dog")
    assert "scores" not in registry.note("gate")


def test_a_weighted_concept_is_measured_and_not_noted(two, painter):
    *_, scores = evaluate.run(evaluate.plan("dog:0.5", prompts=["a {}"], count=1))
    assert "image" in scores.concept
    assert "scores" not in registry.note("dog")


def test_the_photos_of_a_merge_are_those_of_its_parents(two, saved, base, pictures, gates):
    tokens = (Token("dog"), Token("moongate", modifier=False))
    saved("pair", method="merge", tokens=tokens, parents=({"name": "dog"}, {"name": "gate"}))
    saved("small", method="merge", tokens=tokens, parents=({"name": "pair", "by": "compress"},))
    for name in ("pair", "small"):
        plan = evaluate.plan(name)
        assert {target: found[0].path.parent for target, found in plan.photos.items()} == {
            "V1 dog": pictures, "moongate": gates,
        }  # fmt: skip
    saved("odd", method="merge", tokens=tokens, parents=({"name": "dog"}, {"name": "lost"}))
    with pytest.raises(NotFoundError, match="not known"):
        evaluate.plan("odd")


def test_parents_whose_names_changed_hands_end(saved, base):
    saved("a", parents=({"name": "b"},))
    saved("b", parents=({"name": "a"},))
    with pytest.raises(NotFoundError, match="not known"):
        evaluate.plan("a")


def test_pictures_drawn_before_are_scored(saved, pictures, painter, tmp_path):
    saved("dog")
    folder = tmp_path / "out"
    folder.mkdir()
    for level in (100, 105):
        grey(level).save(folder / f"{level}.png")
    lines = [{"file": f"{level}.png", "prompt": "a V* dog", "subject": "dog"} for level in (100, 105)]
    lines.append({"file": "other.png", "prompt": "V3 cat", "subject": "other"})
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores = evaluate.evaluate("dog", photos=[pictures], images=folder)
    assert scores.concept["image"] == pytest.approx((1 + cos(10) + cos(5) + cos(5)) / 4, abs=1e-6)
    assert painter == []
    (folder / "105.png").unlink()
    with pytest.raises(InputError, match="line 2"):
        evaluate.evaluate("dog", photos=[pictures], images=folder)
    with pytest.raises(NotFoundError, match=r"samples\.jsonl"):
        evaluate.evaluate("dog", photos=[pictures], images="nowhere")
