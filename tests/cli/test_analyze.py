"""cdtool analyze change and attention: the picture, the lines, the JSON, and what is said of little."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from cdtool.models import initializers, pipelines
from cdtool.store import concept, registry
from cdtool.store.concept import BaseRef, Manifest
from cdtool.tokens import Token


@pytest.fixture
def make(sd_base):
    """A concept on the tiny base that changes what `chosen` says of each parameter's name."""
    base = pipelines.load(str(sd_base), device="cpu", precision="fp32")

    def save(name, chosen, method="full"):
        tokens = initializers.assign(base.tokenizers, (Token("dog", initializer="ktn"),))
        tensors = {concept.parameter_name(parameter): (torch.randn(weight.shape) / 100).half()
                   for parameter, weight in base.unet.named_parameters() if chosen(parameter)}  # fmt: skip
        tensors[concept.row_name(0, "text_encoder")] = torch.randn(16)
        ref = BaseRef(str(sd_base), base.family.name, base.fingerprint)
        return registry.save(Manifest(name, ref, tokens, method=method), tensors)

    return save


def kv(parameter):
    return "attn2.to_k" in parameter or "attn2.to_v" in parameter


def test_change_of_everything(cdtool, make, tmp_path):
    make("dog", lambda _: True)
    target = tmp_path / "change.png"
    said = cdtool("analyze", "change", "dog", "-o", target)
    assert said.code == 0, said.err
    kinds = [line.split("  ")[0] for line in said.out.splitlines()]
    assert kinds == ["cross-attention", "self-attention", "the rest", str(target)]
    with Image.open(target) as image:
        assert image.width > 400
    assert "free to change" not in said.err
    data = json.loads(cdtool("analyze", "change", "dog", "-o", target, "--json").out)
    assert data["picture"] == str(target)
    means = {kind: about["mean"] for kind, about in data["kinds"].items()}
    for kind, mean in means.items():
        changes = [layer["change"] for layer in data["layers"] if layer["kind"] == kind]
        assert mean == pytest.approx(sum(changes) / len(changes))


def test_change_of_keys_and_values_says_so(cdtool, make, tmp_path):
    make("dog", kv, "kv")
    said = cdtool("analyze", "change", "dog", "-o", tmp_path / "change.png")
    assert "keys and values only" in said.err
    assert said.out.splitlines()[1].startswith("self-attention  0.0000  (0 of")
    make("cross", lambda name: "attn2" in name, "crossattn")
    assert "the cross-attention only" in cdtool("analyze", "change", "cross", "-o", tmp_path / "change.png").err


def test_change_of_nothing_and_of_another_base(cdtool, make, tmp_path, sd_v_base):
    make("word", lambda _: False, "textual-inversion")
    said = cdtool("analyze", "change", "word", "-o", tmp_path / "change.png")
    assert said.code == 4
    assert "learned word alone" in said.err
    make("dog", kv, "kv")
    assert cdtool("analyze", "change", "dog", "--base", sd_v_base, "-o", tmp_path / "change.png").code == 4
    assert cdtool("analyze", "change", "dgo").code == 3
    assert cdtool("analyze", "change", "dog", "-o", tmp_path / "change.docx").code == 2
    assert not list(tmp_path.iterdir())


def test_attention_of_a_concept(cdtool, make, tmp_path):
    make("dog", kv, "kv")
    target = tmp_path / "attention.png"
    options = ["-o", target, "--steps", 1, "--device", "cpu", "--precision", "fp32"]
    said = cdtool("analyze", "attention", "dog", "photo of a V* dog", *options)
    assert said.code == 0, said.err
    assert [line.split()[0] for line in said.out.splitlines()] == ["photo", "of", "a", "V*", "dog", str(target)]
    with Image.open(target) as image:
        assert image.width > 5 * 192
    data = json.loads(cdtool("analyze", "attention", "dog", "photo of a V* dog", *options, "--json").out)
    assert [word["word"] for word in data["words"]] == ["photo", "of", "a", "V*", "dog"]
    assert torch.tensor(data["words"][3]["map"]).shape == (8, 8)
    assert data["start"] + data["end"] + sum(word["share"] for word in data["words"]) == pytest.approx(1, abs=1e-3)


def test_attention_of_the_bare_base_and_a_picture_of_its_own_name(cdtool, sd_base):
    said = cdtool("analyze", "attention", sd_base, "a dog", "--steps", 1, "-q")
    assert said.code == 0, said.err
    assert said.out.splitlines()[-1] == "tiny-sd-attention.png"
    assert said.err == ""


def test_attention_refuses_words_nobody_holds(cdtool, make, tmp_path):
    make("dog", kv, "kv")
    said = cdtool("analyze", "attention", "dog", "a V2 cat", "-o", tmp_path / "a.png")
    assert said.code == 4
    said = cdtool("analyze", "attention", "dog", "a cat", "-o", tmp_path / "a.png", "--steps", 1)
    assert "names no token" in said.err
