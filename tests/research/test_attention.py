"""Relative changes against a loop over the loaded denoiser, and attention against softmax(QK') written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cdtool.errors import BaseError, ConceptError
from cdtool.models import initializers, pipelines
from cdtool.research import attention
from cdtool.settings import SampleSettings
from cdtool.store import concept, registry
from cdtool.store.concept import BaseRef, Manifest
from cdtool.tokens import Token, bind

DOG = Token("dog", initializer="ktn")
SETTINGS = SampleSettings(steps=2, guidance=3.0, seed=4)


@pytest.fixture(scope="module")
def base(sd_base):
    return pipelines.load(str(sd_base), precision="fp32", device="cpu")


def parameters(base):
    return dict(base.unet.named_parameters())


def saved(base, names, tokens=(DOG,), method="full"):
    """A concept that changes the named parameters by random numbers."""
    tokens = initializers.assign(base.tokenizers, tokens)
    generator = torch.Generator().manual_seed(3)
    shapes = {name: parameters(base)[name].shape for name in names}
    tensors = {concept.parameter_name(name): (torch.randn(shape, generator=generator) / 50).half()
               for name, shape in shapes.items()}  # fmt: skip
    for place, token in enumerate(tokens):
        if token.modifier:
            tensors[concept.row_name(place, "text_encoder")] = torch.randn(16, generator=generator)
    ref = BaseRef(str(base.folder), base.family.name, base.fingerprint)
    return registry.save(Manifest("dog", ref, tokens, method=method), tensors, force=True)


def kv(base):
    return [f"{name}.weight" for name in base.kv]


# ---------------------------------------------------------------- how much changed


def brute(base, tensors):
    """ClassProbe and relative change of every module that holds parameters, from the loaded denoiser."""
    found = {}
    for name, module in base.unet.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not own:
            continue
        parts = name.split(".")
        kind = "cross-attention" if "attn2" in parts else "self-attention" if "attn1" in parts else "the rest"
        before = math.sqrt(sum((weight.double() ** 2).sum().item() for weight in own.values()))
        changes = [tensors.get(f"unet.{name}.{leaf}") for leaf in own]
        after = math.sqrt(sum((change.double() ** 2).sum().item() for change in changes if change is not None))
        if before:
            found[name] = (kind, after / before)
    return found


def test_relative_changes_equal_a_plain_loop(base, monkeypatch):
    monkeypatch.setattr(attention, "READ", 7)
    entry = saved(base, [name for place, name in enumerate(parameters(base)) if place % 5])
    tensors = concept.read_tensors(entry.path)
    found = attention.changes(base, tensors)
    expected = brute(base, tensors)
    assert {layer.name for layer in found.layers} == expected.keys()
    for layer in found.layers:
        assert layer.kind == expected[layer.name][0]
        assert layer.change == pytest.approx(expected[layer.name][1], rel=1e-6)
    summary = found.summary()
    for kind, about in summary.items():
        values = [value for known, value in expected.values() if known == kind]
        assert about["mean"] == pytest.approx(sum(values) / len(values), rel=1e-6)
        assert about["layers"] == len(values) > 1
        assert about["changed"] == sum(value > 0 for value in values)
    assert sum(about["share"] for about in summary.values()) == pytest.approx(1)
    assert sum(layer.numbers for layer in found.layers) == sum(p.numel() for p in parameters(base).values())


def test_the_denoiser_need_not_be_loaded(base, sd_base):
    entry = saved(base, parameters(base))
    tensors = concept.read_tensors(entry.path)
    light = pipelines.load(str(sd_base), device="cpu", parts=())
    assert attention.changes(light, tensors) == attention.changes(base, tensors)


def test_keys_and_values_change_nothing_else(base):
    summary = attention.changes(base, concept.read_tensors(saved(base, kv(base), method="kv").path)).summary()
    assert summary["cross-attention"]["changed"] == len(base.kv)
    assert summary["cross-attention"]["layers"] == 2 * len(base.kv)  # queries and outputs are there too
    assert summary["self-attention"]["mean"] == summary["the rest"]["mean"] == 0


def test_factors_count_as_their_product(base):
    name = next(iter(base.kv))
    up, down = torch.randn(parameters(base)[f"{name}.weight"].shape[0], 2), torch.randn(2, 16)
    stored = concept.parameter_name(f"{name}.weight")
    low = attention.changes(base, {f"{stored}.up": up, f"{stored}.down": down})
    dense = attention.changes(base, {stored: up @ down})
    for one, other in zip(low.layers, dense.layers, strict=True):
        assert one.change == pytest.approx(other.change, rel=1e-5)


def test_a_change_that_does_not_fit_is_refused(base):
    name = concept.parameter_name(f"{next(iter(base.kv))}.weight")
    with pytest.raises(ConceptError):
        attention.changes(base, {name: torch.zeros(3, 3)})
    with pytest.raises(ConceptError, match="no nowhere"):
        attention.changes(base, {concept.parameter_name("nowhere.weight"): torch.zeros(3, 3)})


# ---------------------------------------------------------------- where words are looked for


def by_hand(base, hidden, context, name):
    """softmax(QK') of an attention module from its weights alone, a loop over heads: [b, heads, n, l]."""
    module = base.unet.get_submodule(name)
    query, key = hidden @ module.to_q.weight.T, context @ module.to_k.weight.T
    width = query.shape[-1] // module.heads
    made = []
    for head in range(module.heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(width)
        made.append(torch.exp(scores) / torch.exp(scores).sum(dim=-1, keepdim=True))
    return torch.stack(made, dim=1)


def names(base):
    return list(dict.fromkeys(module.rpartition(".")[0] for module in base.kv))


def test_shares_equal_softmax_by_hand(base):
    generator = torch.Generator().manual_seed(0)
    for name in names(base):
        module = base.unet.get_submodule(name)
        hidden = torch.randn(2, 9, module.to_q.in_features, generator=generator)
        context = torch.randn(2, 7, module.to_k.in_features, generator=generator)
        found = attention.shares(module, hidden, context)
        assert found.shape == (2, module.heads, 9, 7)
        torch.testing.assert_close(found, by_hand(base, hidden, context, name), atol=1e-6, rtol=1e-5)


def test_the_attention_seen_is_what_the_denoiser_used(base):
    """Inputs recorded at each module, softmax by hand, averaged with numpy: equal to the watch."""
    seen, handles = [], []
    for name in names(base):
        handles.append(
            base.unet.get_submodule(name).register_forward_pre_hook(
                lambda _, args, given, name=name: seen.append((name, args[0], given["encoder_hidden_states"])),
                with_kwargs=True,
            )
        )
    found = attention.attend(base, [], "photo of a dog", SETTINGS)
    for handle in handles:
        handle.remove()
    assert len(seen) == 2 * len(names(base))  # steps times layers
    total = np.zeros((77, 8, 8))
    for name, hidden, context in seen:
        probabilities = by_hand(base, hidden, context, name)[1]  # the second of a batch has the prompt
        side = math.isqrt(probabilities.shape[1])
        grid = probabilities.mean(dim=0).T.reshape(77, side, side)
        for place in range(77):
            if side == 8:
                total[place] += grid[place].numpy()
            else:
                total[place] += np.array(_twice(grid[place].numpy()))
    mean = total / len(seen)
    assert [word.text for word in found.words] == ["photo", "of", "a", "dog"]
    for word in found.words:
        np.testing.assert_allclose(word.map, mean[list(word.positions)].sum(axis=0), atol=1e-5)
    assert found.start == pytest.approx(mean[0].mean(), abs=1e-5)
    assert found.end == pytest.approx(mean[5:].sum(axis=0).mean(), abs=1e-5)
    assert found.start + found.end + sum(word.share for word in found.words) == pytest.approx(1, abs=1e-5)


def _twice(grid):
    """Bilinear enlargement to twice the side: weights 3/4 and 1/4 of the nearest cells, the edge repeated."""
    side = grid.shape[0]

    def line(values):
        padded = [values[0], *values, values[-1]]
        made = []
        for place in range(1, side + 1):
            made.append(0.75 * padded[place] + 0.25 * padded[place - 1])
            made.append(0.75 * padded[place] + 0.25 * padded[place + 1])
        return made

    rows = [line(list(row)) for row in grid]
    return [list(column) for column in zip(*[line(list(column)) for column in zip(*rows, strict=True)], strict=True)]


def test_the_picture_is_what_sampling_draws_and_nothing_stays_on_the_base(base):
    from cdtool.sampling import sample

    found = attention.attend(base, [], "photo of a dog", SETTINGS)
    (plain,) = sample.generate(base, [], ["photo of a dog"], SampleSettings(count=1, steps=2, guidance=3.0, seed=4))
    assert np.array_equal(np.asarray(found.image), np.asarray(plain.image))
    assert not any(module._forward_pre_hooks for module in base.unet.modules())
    with pytest.raises(KeyError), attention.watched(base, (8, 8)):
        raise KeyError
    assert not any(module._forward_pre_hooks for module in base.unet.modules())


def test_a_concepts_words_are_named_and_its_keys_are_used(base):
    entry = saved(base, kv(base), method="kv")
    found = attention.attend(base, [entry], "photo of a V* dog", SETTINGS)
    plain = attention.attend(base, [], "photo of a ktn dog", SETTINGS)
    assert [word.text for word in found.words] == ["photo", "of", "a", "V*", "dog"]
    assert [word.positions for word in found.words] == [(1,), (2,), (3,), (4,), (5,)]
    assert abs(found.words[3].map - plain.words[3].map).max() > 1e-6


def test_words_of_several_pieces_and_of_several_tokens(base):
    tokens = initializers.assign(base.tokenizers, (DOG, Token("cat")))
    found = attention.words(base, bind("V2 cat in front of V1 dogs", tokens), tokens)
    assert [word for word, _ in found][:7] == ["V2", "cat", "in", "front", "of", "V1", "dogs"]
    assert len(found[6][1]) > 1  # "dogs" is no word of this small vocabulary
    positions = [position for _, places in found for position in places]
    assert positions == list(range(1, len(positions) + 1))


def test_without_guidance_and_with_two_text_encoders(sdxl_base):
    large = pipelines.load(str(sdxl_base), precision="fp32", device="cpu")
    found = attention.attend(large, [], "a dog on the beach", SampleSettings(steps=1, guidance=1.0))
    assert [word.text for word in found.words] == ["a", "dog", "on", "the", "beach"]
    assert found.words[0].map.shape == (8, 8)
    assert found.start + found.end + sum(word.share for word in found.words) == pytest.approx(1, abs=1e-5)


def test_a_concept_of_another_base_is_refused(base, sd_v_base):
    entry = saved(base, kv(base), method="kv")
    other = pipelines.load(str(sd_v_base), precision="fp32", device="cpu")
    with pytest.raises(BaseError):
        attention.attend(other, [entry], "V* dog", SETTINGS)
    assert not any(module._forward_pre_hooks for module in other.unet.modules())
