"""The trained part on a base: against hand cases, and against a copy of the denoiser with W0 + dW written into it."""

from __future__ import annotations

import copy

import pytest
import torch
from predictions import conditioning, forward, same, snapshot
from torch.nn import functional as F

from cdtool.errors import BaseError, ConceptError
from cdtool.models import adapter, initializers, pipelines
from cdtool.tokens import Token
from cdtool.training import trainable


@pytest.fixture(scope="module", params=["sd_base", "sdxl_base"])
def base(request):
    return pipelines.load(str(request.getfixturevalue(request.param)), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def tokens(base):
    return initializers.assign(base.tokenizers, [Token("dog")])


def concept(base, tokens, rank=None, shared=False, seed=1):
    """Random tensors of a concept: dense, or of a rank, its `down` one for all layers if shared."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for module, weight in base.kv.items():
        name = f"unet.{module}.weight"
        if rank is None:
            made[name] = 0.3 * torch.randn(weight.shape, generator=generator)
            continue
        made[f"{name}.up"] = 0.5 * torch.randn((weight.shape[0], rank), generator=generator)
        if not shared:
            made[f"{name}.down"] = 0.5 * torch.randn((rank, weight.shape[1]), generator=generator)
        else:
            made["down"] = 0.5 * torch.randn((rank, weight.shape[1]), generator=torch.Generator().manual_seed(9))
    for name, encoder in zip(base.family.encoders, base.text_encoders, strict=True):
        for place, token in enumerate(tokens):
            if token.modifier:
                width = encoder.config.hidden_size
                made[f"token.{place + 1}.{name}"] = torch.randn(width, generator=generator)
    return made


# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize(("rank", "shared"), [(None, False), (3, False), (3, True)], ids=["dense", "low", "shared"])
def test_precomputed_keys_equal_a_denoiser_with_the_changes_written_in(base, tokens, rank, shared):
    tensors = concept(base, tokens, rank, shared)
    slow = copy.copy(base)
    slow.unet = copy.deepcopy(base.unet)
    for module, weight in base.kv.items():
        name = f"unet.{module}.weight"
        down = tensors.get(f"{name}.down", tensors.get("down"))
        change = tensors[name] if rank is None else tensors[f"{name}.up"] @ down
        slow.unet.get_submodule(module).weight.copy_(weight + change)
    what = adapter.load_weights(base, tokens, tensors)
    with torch.no_grad():
        condition = conditioning(base, tokens, ["a V* dog", "the beach"], what.embeddings)
        plain, wanted = forward(base, condition), forward(slow, condition)
        with adapter.precomputed_kv(base) as give:
            give(adapter.keys_and_values(base, what, condition.features))
            found = forward(base, condition)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert (found - plain).abs().max() > 1e-3  # the changes matter
    assert torch.equal(plain, forward(base, condition).detach())


def test_without_changes_the_precomputed_keys_are_the_bases_own(base):
    with torch.no_grad():
        condition = conditioning(base, (), ["a dog", "the beach"], ((),) * len(base.text_encoders))
        before = forward(base, condition)
        with adapter.precomputed_kv(base) as give:
            give(adapter.keys_and_values(base, adapter.ConceptWeights(), condition.features))
            torch.testing.assert_close(forward(base, condition), before, atol=1e-6, rtol=1e-5)


def test_a_bias_of_a_projection_is_kept(base):
    name = next(iter(base.kv))
    other = copy.copy(base)
    other.unet = copy.deepcopy(base.unet)
    module = other.unet.get_submodule(name)
    module.bias = torch.nn.Parameter(torch.linspace(-1, 1, len(module.weight)), requires_grad=False)
    features = torch.randn(1, 5, base.kv[name].shape[1])
    wanted = F.linear(features, module.weight, module.bias)
    with trainable.attached(other, ()) as trained, torch.no_grad():
        torch.testing.assert_close(trained.modules[name](features), wanted)
    with pytest.raises(BaseError), adapter.precomputed_kv(other) as give:
        give(adapter.keys_and_values(other, adapter.ConceptWeights(), features))
        held = other.unet.get_submodule(name)
        torch.testing.assert_close(held(features), wanted)


def test_a_denoiser_that_never_uses_them_is_found_out(base):
    features = torch.randn(1, 5, next(iter(base.kv.values())).shape[1])
    before = snapshot(base)
    with pytest.raises(BaseError, match="never used"), adapter.precomputed_kv(base) as give:
        give(adapter.keys_and_values(base, adapter.ConceptWeights(), features))
    assert same(before, snapshot(base))


def test_keys_of_other_prompts_are_found_out(base):
    features = torch.randn(1, 5, next(iter(base.kv.values())).shape[1])
    with pytest.raises(BaseError, match="other prompts"), adapter.precomputed_kv(base) as give:
        name = next(iter(base.kv))
        give(adapter.keys_and_values(base, adapter.ConceptWeights(), features))
        base.unet.get_submodule(name)(features.expand(2, -1, -1))


def test_holding_leaves_the_base_as_it_was_also_on_an_error(base):
    before = snapshot(base)
    with pytest.raises(RuntimeError, match="inside"), adapter.precomputed_kv(base):
        raise RuntimeError("inside")
    assert same(before, snapshot(base))


# ---------------------------------------------------------------- concepts that do not fit


def spoiled(base, tokens, how):
    name = f"unet.{next(iter(base.kv))}.weight"
    row = f"token.1.{base.family.encoders[-1]}"
    made = concept(base, tokens, rank=3 if how.startswith("factor") else None)
    if how == "missing":
        del made[name]
    elif how == "wide":
        made[name] = torch.zeros(made[name].shape[0], made[name].shape[1] + 1)
    elif how == "no row":
        del made[row]
    elif how == "long row":
        made[row] = torch.zeros(len(made[row]) + 1)
    elif how == "factor missing":
        del made[f"{name}.down"]
    elif how == "factors of two ranks":
        made[f"{name}.up"] = made[f"{name}.up"][:, :2]
    return made


@pytest.mark.parametrize("how", ["missing", "wide", "no row", "long row", "factor missing", "factors of two ranks"])
def test_a_concept_that_does_not_fit_is_refused(base, tokens, how):
    with pytest.raises(ConceptError):
        adapter.load_weights(base, tokens, spoiled(base, tokens, how))


def test_half_precision_tensors_stay_as_stored_and_act_in_float32(base, tokens):
    made = {name: tensor.half() for name, tensor in concept(base, tokens).items()}
    what = adapter.load_weights(base, tokens, made)
    assert all(change.dtype == torch.float16 for change in what.kv.values())
    assert all(row.dtype == torch.float32 for encoder in what.embeddings for row in encoder)
    features = torch.randn(2, 5, next(iter(base.kv.values())).shape[1])
    wide = adapter.load_weights(base, tokens, {name: tensor.float() for name, tensor in made.items()})
    found, wanted = (adapter.keys_and_values(base, one, features) for one in (what, wide))
    assert all(torch.equal(found[name], wanted[name]) and found[name].dtype == torch.float32 for name in wanted)
