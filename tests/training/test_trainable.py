"""The trained part of a base: what moves by each method, and that nothing else does."""

from __future__ import annotations

import pytest
import torch
from predictions import conditioning, forward, same, snapshot

from cdtool import methods
from cdtool.errors import ConceptError, TrainingError, UsageError
from cdtool.models import adapter, deltas, denoiser, initializers, pipelines, text
from cdtool.settings import TrainSettings
from cdtool.store.concept import weight_name
from cdtool.tokens import Token
from cdtool.training import trainable


@pytest.fixture(scope="module", params=["sd_base", "sdxl_base"])
def base(request):
    return pipelines.load(str(request.getfixturevalue(request.param)), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def tokens(base):
    return initializers.assign(base.tokenizers, [Token("dog")])


@pytest.mark.parametrize("method", ["kv", "lora"])
def test_what_guidance_leads_away_from_can_be_held(base, tokens, method):
    """The empty prompt's own directions, found again as eigenvectors; a concept does nothing along them."""
    chosen = TrainSettings(method=method, preserve_uncond=0.3)
    with torch.no_grad():
        empty = text.unconditional(base, conditioning(base, [], [""], [[] for _ in base.text_encoders])).features[0]
    value, vectors = torch.linalg.eigh(empty.T @ empty)
    wanted = vectors[:, value.clamp(min=0).sqrt() >= 0.3 * value[-1].clamp(min=1e-12).sqrt()]
    held = text.empty_directions(base, 0.3)
    torch.testing.assert_close(held @ held.T, wanted @ wanted.T, atol=1e-4, rtol=0)
    assert held.shape[1] < len(held), "something is left to learn"
    with trainable.attached(base, tokens, chosen) as trained:
        for parameter in trained.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
        tensors = trainable.changes(trained)
    changes = adapter.read_deltas(base, tensors)
    assert changes
    for module, change in changes.items():
        dense = deltas.dense(change, base.unet.get_parameter(module).shape)
        assert float(dense.norm()) > 0.1
        assert float((dense @ held).norm()) < 2e-3 * float(dense.norm()), "fp16 is all that is left"


def test_what_is_held_is_what_a_training_goes_on_from(sd_base):
    base = pipelines.load(str(sd_base), precision="fp32", device="cpu")
    held = text.empty_directions(base, 0.3)
    module, weight = next(iter(base.kv.items()))
    before = 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    start = trainable.Start({weight_name(module): before.half()})
    with trainable.attached(
        base, [Token("moongate", modifier=False)], TrainSettings(preserve_uncond=0.3), start
    ) as trained:
        for parameter in trained.parameters():
            parameter.data += 1.0
        after = trainable.changes(trained)[weight_name(module)].float()
    torch.testing.assert_close(after @ held, before @ held, atol=5e-3, rtol=0)
    assert float((after - before).norm()) > 1


def test_training_begins_as_the_base(base, tokens):
    with torch.no_grad():
        rows = initializers.initial_embeddings(base, tokens)
        condition = conditioning(base, tokens, ["a V* dog", "the beach"], rows)
        before = forward(base, condition)
        with trainable.attached(base, tokens) as trained, trained.computing():
            again = conditioning(base, tokens, ["a V* dog", "the beach"], trained.rows)
            assert torch.equal(again.features, condition.features)
            assert torch.equal(forward(base, again), before)


def test_attaching_leaves_the_base_as_it_was(base, tokens):
    before = snapshot(base)
    with trainable.attached(base, tokens) as trained:
        for parameter in trained.parameters():
            parameter.data.add_(1.0)
    assert same(before, snapshot(base))
    with pytest.raises(RuntimeError, match="inside"), trainable.attached(base, tokens) as trained:
        trained.parameters()[0].data.add_(1.0)
        raise RuntimeError("inside")
    assert same(before, snapshot(base))


def test_only_kv_and_rows_are_trained(base, tokens):
    with trainable.attached(base, tokens) as trained:
        wanted = {id(parameter) for parameter in trained.parameters()}
        modules = (base.unet, base.vae, *base.text_encoders)
        moving = [p for module in modules for p in module.parameters() if p.requires_grad]
        assert {id(p) for p in moving} == {id(module.weight) for module in trained.modules.values()}
        assert len(wanted) == len(base.kv) + len(base.text_encoders)
        assert all(parameter.dtype == torch.float32 for parameter in trained.parameters())
        decayed, free = trained.groups(TrainSettings(weight_decay=0.01))
        assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
        assert free["lr"] == TrainSettings.lr
        assert trained.groups(TrainSettings(token_lr=0.3))[1]["lr"] == 0.3
        assert [id(row) for row in free["params"]] == [id(encoder[0]) for encoder in trained.rows]


def test_a_token_without_modifier_has_no_row(base):
    with trainable.attached(base, [Token("moongate", modifier=False)]) as trained:
        assert len(trained.parameters()) == len(base.kv)
        assert len(trained.groups(TrainSettings(weight_decay=0.01))) == 1
        assert set(trainable.changes(trained)) == {f"unet.{name}.weight" for name in base.kv}


def test_changes_are_the_differences_to_the_base(base, tokens):
    with trainable.attached(base, tokens) as trained:
        for module in trained.modules.values():
            module.weight.data.add_(0.25)
        for encoder in trained.rows:
            encoder[0].data.fill_(0.1)
        made = trainable.changes(trained)
    for name in base.kv:
        tensor = made[f"unet.{name}.weight"]
        assert tensor.dtype == torch.float16
        torch.testing.assert_close(tensor.float(), torch.full_like(tensor.float(), 0.25), atol=1e-4, rtol=0)
    for name, encoder in zip(base.family.encoders, base.text_encoders, strict=True):
        assert torch.equal(made[f"token.1.{name}"], torch.full((encoder.config.hidden_size,), 0.1))


# ---------------------------------------------------------------- methods


NAMED = {  # by name alone, which on these bases tells them
    "kv": lambda name: name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")),
    "crossattn": lambda name: ".attn2." in name,
    "full": lambda name: True,
    "dreambooth": lambda name: True,
    "textual-inversion": lambda name: False,
    "lora": lambda name: False,
}


def settings(method, **values):
    return TrainSettings(**{"method": method, "rank": 3} | dict(methods.METHODS[method].defaults) | values)


def moved(base, tokens, method, start=None):
    """A concept of a method, every trained number pushed by a few 64ths, and what the denoiser then says."""
    prompts = ["a V2 dog", "the beach"] if len(tokens) > 1 else ["a V* dog", "the beach"]
    with trainable.attached(base, tokens, settings(method), start) as trained:
        generator = torch.Generator().manual_seed(4)
        for part in trained.parts:
            noise = torch.randint(-16, 17, part.parameter.shape, generator=generator) / 64
            part.parameter.data.add_(noise)
        trained.check_moved()
        condition = conditioning(base, tokens, prompts, trained.rows)
        with torch.no_grad(), trained.computing():
            said = forward(base, condition)
        return trainable.changes(trained), said, condition


def drawn(base, tokens, tensors, prompts=("a V* dog", "the beach")):
    """What the denoiser says on the way that sampling takes."""
    what = adapter.load_weights(base, tokens, tensors)
    with torch.no_grad():
        condition = conditioning(base, tokens, prompts, what.embeddings)
        with (
            adapter.override_parameters(base.unet, adapter.changed_parameters(base, what)),
            adapter.precomputed_kv(base) as give,
        ):
            give(adapter.keys_and_values(base, what, condition.features))
            return forward(base, condition)


@pytest.mark.parametrize("method", methods.METHODS)
def test_each_method_trains_its_own_parameters(base, tokens, method):
    named = dict(base.unet.named_parameters())
    with trainable.attached(base, tokens, settings(method)) as trained:
        names = [part.name for part in trained.parts]
        rows = [name for name in names if name.startswith("token")]
        weights = [name.removeprefix("unet.") for name in names if name.startswith("unet")]
        assert len(rows) == (0 if method == "dreambooth" else len(base.text_encoders))
        if method == "lora":
            assert set(weights) == {f"{m}.weight.{leaf}" for m in base.kv for leaf in ("up", "down")}
        else:
            assert set(weights) == set(filter(NAMED[method], named))
            for part in trained.parts[: len(weights)]:
                assert part.parameter.dtype == torch.float32
                torch.testing.assert_close(part.parameter, named[part.name.removeprefix("unet.")], atol=0, rtol=0)
        decayed, free = (
            [p for g in trained.groups(TrainSettings(weight_decay=0.5)) if g["weight_decay"] == w for p in g["params"]]
            for w in (0.5, 0)
        )
        assert (len(decayed), len(free)) == (len(weights), len(rows))


@pytest.mark.parametrize("method", methods.METHODS)
def test_a_saved_concept_draws_as_the_trained_denoiser_did(base, tokens, method):
    before = snapshot(base)
    with torch.no_grad():
        plain = forward(
            base, conditioning(base, tokens, ["a V* dog", "the beach"], initializers.initial_embeddings(base, tokens))
        )
    tensors, said, _ = moved(base, tokens, method)
    assert same(before, snapshot(base))
    found = drawn(base, tokens, tensors)
    assert same(before, snapshot(base))
    torch.testing.assert_close(found, said, atol=2e-4, rtol=2e-3)
    assert (found - plain).abs().max() > 1e-3
    dtypes = {name.split(".")[0]: tensor.dtype for name, tensor in tensors.items()}
    assert dtypes == ({"token": torch.float32} if method == "textual-inversion"
                      else {"unet": torch.float16, "token": torch.float32})  # fmt: skip


def test_changes_beyond_keys_and_values_survive_bf16(sd_base, tokens):
    """They are far below a bf16 weight's last digit; added to the stored weight before rounding, they still tell."""
    base = pipelines.load(str(sd_base), precision="bf16", device="cpu")
    name = "conv_in.weight"
    stored = denoiser.read_parameters(base.folder, [name])[name]
    change = torch.full_like(stored, 1e-4)
    (found,) = adapter.changed_parameters(base, adapter.ConceptWeights(others={name: change})).values()
    assert found.dtype == torch.bfloat16
    mean = (found.double() - stored.double()).mean()
    assert mean == pytest.approx(1e-4, rel=0.9)
    assert torch.equal((stored.bfloat16().float() + change).bfloat16(), found) is False


def test_factors_of_a_convolutions_change_lie_flat(base):
    name = "conv_in.weight"
    shape = base.unet.get_parameter(name).shape
    up, down = torch.randn(shape[0], 2), torch.randn(2, shape[1:].numel())
    (kept,) = adapter.read_deltas(base, {f"unet.{name}.up": up, f"unet.{name}.down": down}).values()
    wanted = torch.einsum("or,rikl->oikl", up, down.reshape(2, *shape[1:]))
    torch.testing.assert_close(deltas.dense(kept, shape), wanted)


@pytest.mark.parametrize(
    "tensors",
    [{"unet.lost.weight": torch.zeros(2, 2)}, {"unet.conv_in.weight": torch.zeros(2, 2)},
     {"unet.conv_in.weight.up": torch.zeros(8, 1)}, {"unet.conv_in.bias": torch.zeros(9)}],
    ids=["unknown", "wide", "half", "long"],
)  # fmt: skip
def test_other_changes_that_do_not_fit_are_refused(base, tensors):
    with pytest.raises(ConceptError):
        adapter.load_weights(base, (), tensors)


def test_a_concept_of_words_alone_leaves_the_keys_alone(base, tokens):
    rows = {f"token.1.{name}": torch.ones(e.config.hidden_size)
            for name, e in zip(base.family.encoders, base.text_encoders, strict=True)}  # fmt: skip
    what = adapter.load_weights(base, tokens, rows)
    assert what.kv == what.others == {}
    assert all((encoder[0] == 1).all() for encoder in what.embeddings)


def test_the_start_token_passes_no_gradient_in_low_rank_either(base, tokens):
    with trainable.attached(base, tokens, settings("lora")) as trained:
        module = next(iter(trained.modules.values()))
        features = torch.randn(1, 3, module.down.shape[1], requires_grad=True)
        result = module(features)
        torch.testing.assert_close(result, torch.nn.functional.linear(features, module.frozen))
        result[:, 0].sum().backward(retain_graph=True) if result[:, 0].requires_grad else None
        result.sum().backward()
        wanted = features[0, 1:].sum(0) @ module.down.T  # dL/dup of every output, by hand
        torch.testing.assert_close(module.up.grad, wanted.expand_as(module.up).contiguous())
        assert (features.grad[0, 0] == 0).all()


def test_the_rank_is_no_larger_than_the_matrix(base, tokens):
    with trainable.attached(base, tokens, settings("lora", rank=10_000)) as trained:
        for module in trained.modules.values():
            assert module.down.shape[0] == min(module.frozen.shape)


def test_what_did_not_move_is_named(base, tokens):
    with trainable.attached(base, tokens, settings("full")) as trained:
        for part in trained.parts:
            if part.name != "unet.conv_in.bias":
                part.parameter.data.add_(1.0)
        with pytest.raises(TrainingError, match=r"changed nothing in conv_in\.bias"):
            trained.check_moved()


def test_nothing_to_learn_is_refused(base):
    with pytest.raises(UsageError), trainable.attached(base, (Token("dog", False),), settings("textual-inversion")):
        pass


# ---------------------------------------------------------------- going on from a concept


@pytest.mark.parametrize(
    ("before", "method"),
    [
        ("kv", "kv"),
        ("lora", "kv"),
        ("full", "full"),
        ("kv", "full"),
        ("kv", "textual-inversion"),
        ("textual-inversion", "crossattn"),
    ],
)
def test_a_training_begins_where_the_concept_ended(base, tokens, before, method):
    """At once it says what the concept says; the earlier rows stay; what is saved is the whole change."""
    both = initializers.assign(base.tokenizers, [*tokens, Token("dog")])
    first, _, _ = moved(base, tokens, before)
    start = trainable.Start(first, 1, "f00d")
    with trainable.attached(base, both, settings(method), start) as trained, torch.no_grad():
        learned = {part.name for part in trained.parts}
        assert not any(name.startswith("token.1.") for name in learned)
        condition = conditioning(base, both, ["a V1 dog", "the beach"], trained.rows)
        with trained.computing():
            said = forward(base, condition)
    torch.testing.assert_close(said, drawn(base, tokens, first), atol=2e-4, rtol=2e-3)
    second, said, _ = moved(base, both, method, start)
    for name in base.family.encoders:
        assert torch.equal(second[f"token.1.{name}"], first[f"token.1.{name}"])
        assert f"token.2.{name}" in second
    torch.testing.assert_close(drawn(base, both, second, ("a V2 dog", "the beach")), said, atol=3e-4, rtol=3e-3)


def test_a_merged_concepts_shared_factor_comes_along(base, tokens):
    both = initializers.assign(base.tokenizers, [*tokens, Token("dog")])
    merged = {"down": torch.randn(2, next(iter(base.kv.values())).shape[1])}
    merged |= {f"unet.{m}.weight.up": 0.1 * torch.randn(w.shape[0], 2) for m, w in base.kv.items()}
    merged |= {f"token.1.{name}": row[0] for name, row in
               zip(base.family.encoders, initializers.initial_embeddings(base, tokens), strict=True)}  # fmt: skip
    start = trainable.Start(merged, 1)
    with trainable.attached(base, both, settings("textual-inversion"), start) as trained:
        assert set(merged) <= set(trainable.changes(trained))
    with trainable.attached(base, both, settings("kv"), start) as trained:
        made = trainable.changes(trained)
    assert "down" not in made
    for module in base.kv:
        torch.testing.assert_close(
            made[f"unet.{module}.weight"].float(),
            merged[f"unet.{module}.weight.up"] @ merged["down"],
            atol=1e-3,
            rtol=1e-2,
        )


def test_low_rank_cannot_go_on_and_rows_must_fit(base, tokens):
    first, _, _ = moved(base, tokens, "kv")
    both = initializers.assign(base.tokenizers, [*tokens, Token("dog")])
    with (
        pytest.raises(UsageError, match="begin at the base"),
        trainable.attached(base, both, settings("lora"), trainable.Start(first, 1)),
    ):
        pass
    lost = {name: tensor for name, tensor in first.items() if not name.startswith("token")}
    with pytest.raises(ConceptError, match="no row"), trainable.attached(base, both, None, trainable.Start(lost, 1)):
        pass
