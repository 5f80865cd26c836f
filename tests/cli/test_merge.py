"""cdtool merge on a tiny base: what it saves, tells and refuses."""

from __future__ import annotations

import json

import pytest
import torch

from cdtool.merging import diagnostics
from cdtool.models import initializers, pipelines
from cdtool.priors import captions
from cdtool.store import registry
from cdtool.store.concept import BaseRef, Manifest
from cdtool.tokens import Token


@pytest.fixture(scope="module")
def base(wide_base):
    return pipelines.load(str(wide_base), precision="fp32", device="cpu", parts=("text",))


@pytest.fixture
def concept(base):
    """Save a concept that changes all words alike, which any merge keeps: `concept("dog", Token("dog"))`."""

    def save(name, *tokens, method="kv", fingerprint="", note=None):
        tokens = initializers.assign(base.tokenizers, tokens)
        tensors = {f"unet.{module}.weight": torch.full(weight.shape, 0.1) for module, weight in base.kv.items()}
        generator = torch.Generator().manual_seed(len(registry.names()))
        for place, token in enumerate(tokens):
            if token.modifier:
                tensors[f"token.{place + 1}.text_encoder"] = torch.randn(160, generator=generator)
        where = BaseRef(base.name, base.family.name, fingerprint or base.fingerprint)
        entry = registry.save(Manifest(name, where, tokens, method=method), tensors)
        registry.add_note(name, **(note or {}))
        return entry

    return save


@pytest.fixture
def few(tmp_path):
    """A file of a few captions, so that a test need not encode a thousand."""
    path = tmp_path / "few.txt"
    path.write_text("photo of a dog\na cat on the beach\nin front of the beach\n", encoding="utf-8")
    return path


@pytest.fixture
def two(concept):
    concept("dog", Token("dog"), note={"photos": ["a"]})
    concept("gate", Token("moongate", modifier=False), note={"photos": ["b"]})


@pytest.fixture
def keeping(monkeypatch):
    monkeypatch.setattr(diagnostics, "LOST", -1e9)


def test_a_pair_is_saved_told_and_shown(cdtool, two, few, keeping):
    said = cdtool("merge", "dog", "gate", "-o", "pair", "--captions", few)
    assert (said.code, said.out) == (0, "pair\n")
    for word in ("dog: ", "gate: ", "of what it changes", "Other captions move by", "V1 dog in front of V2 moongate"):
        assert word in said.err
    shown = cdtool("show", "pair")
    assert "fidelity dog" in shown.out
    assert "drift" in shown.out
    assert "dog, gate" in shown.out
    assert "V1 dog, moongate" in shown.out
    assert registry.note("pair")["photos"] == ["a", "b"]


def test_json_has_the_whole_report_and_the_manifest_too(cdtool, two, few, keeping):
    found = json.loads(cdtool("merge", "dog", "gate", "-o", "pair", "--captions", few, "--json").out)
    assert found["name"] == "pair"
    assert found["saved"]
    report = found["report"]
    assert report["error"] < 1e-8
    assert report["saved_error"] < 1e-3
    assert set(report["fidelity"]) == {"dog", "gate"}
    assert json.loads(cdtool("show", "pair", "--json").out)["report"] == report


def test_the_pair_can_be_drawn(cdtool, two, few, keeping, tmp_path):
    assert cdtool("merge", "dog", "gate", "--captions", few, "-q").out == "dog-gate\n"
    drawn = cdtool("sample", "dog-gate", "V1 dog in front of V2 moongate", "-n", 1, "--steps", 2, "--out", tmp_path,
                   "--device", "cpu", "--precision", "fp32")  # fmt: skip
    assert drawn.code == 0, drawn.err


def test_a_lost_concept_is_not_saved_without_force(cdtool, two, few, monkeypatch):
    monkeypatch.setattr(diagnostics, "LOST", 2.0)
    said = cdtool("merge", "dog", "gate", "-o", "pair", "--captions", few, "--json")
    assert said.code == 6
    assert "lost dog and gate" in said.err
    assert json.loads(said.out)["saved"] is False
    assert json.loads(said.out)["report"]["lost"] == ["dog", "gate"]
    assert "pair" not in registry.names()
    forced = cdtool("merge", "dog", "gate", "-o", "pair", "--captions", few, "--force")
    assert forced.code == 0
    assert "lost" in forced.err
    assert "pair" in registry.names()


def test_a_name_in_use_needs_force_and_if_missing_skips(cdtool, two, few, keeping):
    said = cdtool("merge", "dog", "gate", "-o", "dog", "--captions", few)
    assert said.code == 4
    assert "--force" in said.err
    assert cdtool("merge", "dog", "gate", "-o", "dog", "--if-missing", "--captions", few).out == "dog\n"
    assert registry.find("dog").manifest.method == "kv"
    assert cdtool("merge", "dog", "gate", "-o", "dog", "--force", "--captions", few).code == 0
    assert registry.find("dog").manifest.method == "merge"


def test_the_captions_are_encoded_once(cdtool, two, few, keeping, monkeypatch):
    assert "caption 3/3" in cdtool("merge", "dog", "gate", "-o", "one", "--captions", few).err
    monkeypatch.setattr(captions, "encode", None)
    assert (
        "caption" not in cdtool("merge", "dog", "gate", "-o", "other", "--captions", few).err.split("Other captions")[0]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("dog",), 2, "two concepts"),
        (("dog", "dog"), 2, "named twice"),
        (("dog", "dog:0.5"), 2, "named twice"),
        (("dog", "gaet"), 3, "gate"),
        (("dog", "mini"), 2, "is a base"),
        (("dog", "more"), 4, "joined word by word"),
        (("dog", "far"), 4, "different"),
        (("gate", "gate-too"), 4, "plain word"),
        (("dog", "gate", "--captions", "nowhere.txt"), 3, "nowhere.txt"),
        (("dog", "gate", "-o", "Bad Name"), 4, "cannot be the name"),
    ],
)
def test_what_cannot_be_merged_is_refused(cdtool, two, concept, arguments, code, word):
    concept("more", Token("cat"), method="crossattn")
    concept("far", Token("cat"), fingerprint="f00d")
    concept("gate-too", Token("moongate", modifier=False))
    said = cdtool("merge", *arguments)
    assert said.code == code, said.err
    assert word in said.err


def test_another_base_needs_force(cdtool, two, few, keeping, tmp_path):
    """The same shapes with other weights, as a derived base has them."""
    import tiny_pipelines

    other = tiny_pipelines.sd(tmp_path / "other", width=160, seed=5)
    said = cdtool("merge", "dog", "gate", "-o", "pair", "--base", other, "--captions", few)
    assert said.code == 4
    assert "was trained on" in said.err
    assert cdtool("merge", "dog", "gate", "-o", "pair", "--base", other, "--captions", few, "--force").code == 0
    assert registry.find("pair").manifest.base.name == str(other)


@pytest.mark.parametrize(
    ("kept", "verdict"),
    [(0.9, "kept well"), (0.6, "kept in part"), (0.4, "lost"), (-3.0, "lost"), (float("nan"), "lost")],
)
def test_a_fidelity_is_told_in_words(kept, verdict):
    from cdtool.cli import merge

    assert merge._verdict(kept) == verdict
