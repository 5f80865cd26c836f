"""Prompts to features, against an encoder whose embedding table was really overwritten and against diffusers."""

from __future__ import annotations

import copy

import pytest
import torch

from cdtool.models import initializers, pipelines, text
from cdtool.tokens import Prompt, Token, bind, bind_weighted


@pytest.fixture(scope="module")
def sd(sd_base):
    return pipelines.load(str(sd_base), precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def sdxl(sdxl_base):
    return pipelines.load(str(sdxl_base), precision="fp32", device="cpu")


def tokens_of(base, *nouns):
    return initializers.assign(base.tokenizers, [Token(noun) for noun in nouns])


def rows_of(base, count, seed=3):
    generator = torch.Generator().manual_seed(seed)
    widths = [encoder.config.hidden_size for encoder in base.text_encoders]
    return [[torch.randn(width, generator=generator) for _ in range(count)] for width in widths]


def encoded(base, prompt, tokens, rows):
    with torch.no_grad():
        return text.encode(base, [text.tokenize(base, bind(prompt, tokens), tokens)], rows)


# ---------------------------------------------------------------- ids


def test_the_initializers_id_stands_in_the_modifiers_place(sd):
    (token,) = tokens_of(sd, "dog")
    tokenizer = sd.tokenizers[0]
    found = text.tokenize(sd, bind("photo of a V* dog on the beach", [token]), [token])
    plain = tokenizer("photo of a dog on the beach", padding="max_length", truncation=True)["input_ids"]
    ((position, place),) = found.slots[0]
    assert (position, place) == (4, 0)
    assert found.ids[0][position] == token.ids[0]
    assert [*found.ids[0][:position], *found.ids[0][position + 1 :]] == plain[:-1]
    assert not found.truncated


def test_nothing_is_ever_added_to_a_tokenizer(sd, sdxl):
    for base in (sd, sdxl):
        before = [(len(tokenizer), dict(tokenizer.get_vocab())) for tokenizer in base.tokenizers]
        tokens = tokens_of(base, "dog", "cat")
        encoded(base, "a V1 dog and a V2 cat", tokens, rows_of(base, 2))
        assert [(len(tokenizer), tokenizer.get_vocab()) for tokenizer in base.tokenizers] == before
        assert not any("V*" in tokenizer.get_vocab() for tokenizer in base.tokenizers)


def test_the_word_of_the_initializer_itself_is_left_alone(sd):
    (token,) = tokens_of(sd, "dog")
    found = text.tokenize(sd, bind("ktn V* dog", [token]), [token])
    assert len(found.slots[0]) == 1
    rows = rows_of(sd, 1)
    slow = overwritten(sd, {(0, found.slots[0][0].position): rows[0][0]}, found.ids[0])
    torch.testing.assert_close(encoded(sd, "ktn V* dog", [token], rows).features, slow, atol=1e-6, rtol=1e-5)


# ---------------------------------------------------------------- learned embeddings in place


def overwritten(base, rows, ids):
    """Features of ids by a copy of the first encoder whose table has a row of its own for each replaced position."""
    encoder = copy.deepcopy(base.text_encoders[0])
    table = encoder.get_input_embeddings()
    ids = list(ids)
    new = torch.cat([table.weight, *[row[None] for row in rows.values()]])
    for number, (_, position) in enumerate(rows):
        ids[position] = len(table.weight) + number
    encoder.embeddings["token_embedding"] = torch.nn.Embedding.from_pretrained(new)
    # the end-of-text position decides the pooled vector only; features of all positions are compared
    with torch.no_grad():
        return encoder(torch.tensor([ids])).last_hidden_state


@pytest.mark.parametrize(
    "prompt",
    ["V* dog", "photo of a V* dog", "a V* dog and a V* dog on the beach", "the beach of V*"],
)
def test_the_row_replaces_exactly_its_positions(sd, prompt):
    (token,) = tokens_of(sd, "dog")
    rows = rows_of(sd, 1)
    found = text.tokenize(sd, bind(prompt, [token]), [token])
    slow = overwritten(sd, {(0, slot.position): rows[0][0] for slot in found.slots[0]}, found.ids[0])
    torch.testing.assert_close(encoded(sd, prompt, [token], rows).features, slow, atol=1e-6, rtol=1e-5)


def test_each_token_has_its_own_row_and_each_prompt_its_own_places(sd):
    tokens = tokens_of(sd, "dog", "cat")
    rows = rows_of(sd, 2)
    prompts = ["V2 cat in front of a V1 dog", "a dog", "photo of a V1 dog"]
    made = [text.tokenize(sd, bind(prompt, tokens), tokens) for prompt in prompts]
    with torch.no_grad():
        together = text.encode(sd, made, rows).features
    for place, found in enumerate(made):
        replaced = {(0, slot.position): rows[0][slot.token] for slot in found.slots[0]}
        slow = overwritten(sd, replaced, found.ids[0])
        torch.testing.assert_close(together[place : place + 1], slow, atol=1e-6, rtol=1e-5)


def test_a_row_equal_to_the_initializer_changes_nothing(sd):
    (token,) = tokens_of(sd, "dog")
    rows = initializers.initial_embeddings(sd, [token])
    prompt = text.tokenize(sd, bind("photo of a V* dog", [token]), [token])
    with torch.no_grad():
        bare = sd.text_encoders[0](torch.tensor([prompt.ids[0]])).last_hidden_state
    assert torch.equal(encoded(sd, "photo of a V* dog", [token], rows).features, bare)


def test_gradients_reach_the_rows_and_nothing_else(sdxl):
    tokens = tokens_of(sdxl, "dog", "cat")
    rows = [[torch.nn.Parameter(row) for row in encoder] for encoder in rows_of(sdxl, 2)]
    found = text.encode(sdxl, [text.tokenize(sdxl, bind("photo of a V1 dog", tokens), tokens)], rows)
    (found.features.square().sum() + found.pooled.square().sum()).backward()
    for encoder in rows:
        assert encoder[0].grad.abs().sum() > 0
        assert encoder[1].grad is None or not encoder[1].grad.any()  # the prompt does not name it
    for encoder in sdxl.text_encoders:
        assert all(parameter.grad is None for parameter in encoder.parameters())


def test_the_hook_is_taken_off_also_after_an_error(sd):
    table = sd.text_encoders[0].get_input_embeddings()
    (token,) = tokens_of(sd, "dog")
    encoded(sd, "a V* dog", [token], rows_of(sd, 1))
    assert not table._forward_hooks
    with (
        pytest.raises(RuntimeError, match="inside"),
        text.override_embeddings(sd.text_encoders[0], [[text.Slot(1, 0)]], rows_of(sd, 1)[0]),
    ):
        assert table._forward_hooks
        raise RuntimeError("inside")
    assert not table._forward_hooks


# ---------------------------------------------------------------- long prompts


def test_a_long_prompt_is_cut_and_says_so(sd):
    (token,) = tokens_of(sd, "dog")
    inside = text.tokenize(sd, bind("dog " * 74 + "V*", [token]), [token])
    beyond = text.tokenize(sd, bind("dog " * 75 + "V* dog", [token]), [token])
    assert (inside.truncated, beyond.truncated) == (False, True)
    assert [slot.position for slot in inside.slots[0]] == [75]
    assert beyond.slots[0] == ()
    for found in (inside, beyond):
        assert len(found.ids[0]) == 77
        assert found.ids[0][76] == sd.tokenizers[0].eos_token_id
    assert encoded(sd, "dog " * 75 + "V* dog", [token], rows_of(sd, 1)).features.shape == (1, 77, 16)


# ---------------------------------------------------------------- against the plain pipelines


@pytest.mark.parametrize("prompt", ["a dog on the beach", "", "moongate", "dog, cat!  the  beach", "dog " * 90])
def test_sd_features_equal_the_plain_pipelines(sd, sd_base, prompt):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(sd_base, safety_checker=None)
    wanted, negative = pipeline.encode_prompt(prompt, "cpu", 1, True, negative_prompt="")
    assert torch.equal(encoded(sd, prompt, [], ((),)).features, wanted)
    assert torch.equal(text.unconditional(sd, encoded(sd, "", [], ((),))).features, negative)


@pytest.mark.parametrize("prompt", ["a dog on the beach", "moongate in front of the cat", "dog " * 90])
def test_sdxl_features_equal_the_plain_pipelines(sdxl, sdxl_base, prompt):
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl_base, add_watermarker=False)
    wanted = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=True)
    features, negative, pooled, negative_pooled = wanted
    found = encoded(sdxl, prompt, [], ((), ()))
    torch.testing.assert_close(found.features, features, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.pooled, pooled, atol=1e-6, rtol=1e-5)
    empty = text.unconditional(sdxl, encoded(sdxl, "", [], ((), ())))
    assert torch.equal(empty.features, negative)
    assert torch.equal(empty.pooled, negative_pooled)
    assert not negative.any()  # as SDXL's index asks for


def test_joined_conditionings_keep_their_order(sdxl):
    parts = [encoded(sdxl, prompt, [], ((), ())) for prompt in ("a dog", "a cat")]
    both = text.join(parts)
    assert torch.equal(both.features[1:], parts[1].features)
    assert torch.equal(both.pooled[:1], parts[0].pooled)
    assert torch.equal(both[1:].pooled, parts[1].pooled)
    assert text.join([text.Conditioning(parts[0].features)]).pooled is None


def test_a_prompt_without_words_is_empty(sd):
    assert text.tokenize(sd, Prompt((), frozenset()), []) == text.tokenize(sd, bind("", []), [])


# ---------------------------------------------------------------- long and weighted prompts


def parts_of(base, prompt, tokens):
    return ["".join(str(piece) for piece in part.pieces) for part in text.split(base, bind(prompt, tokens), tokens)]


def test_a_prompt_is_split_at_words_and_commas(sd):
    assert parts_of(sd, "dog " * 75, []) == ["dog " * 75]
    assert parts_of(sd, "dog " * 76, []) == ["dog" + " dog" * 74, " dog"]
    assert parts_of(sd, "dog " * 69 + "dog, " + "cat " * 10, []) == ["dog" + " dog" * 69 + ",", " cat" * 10]
    assert parts_of(sd, "dog, " + "cat " * 80, []) == ["dog," + " cat" * 73, " cat" * 7]  # the comma is too far back
    assert parts_of(sd, "", []) == [""]


def test_a_modifier_keeps_the_word_behind_it(sd):
    (token,) = tokens_of(sd, "dog")
    first, second = parts_of(sd, "cat " * 74 + "V* dog on the beach", [token])
    assert (first, second) == ("cat" + " cat" * 73, "0 dog on the beach")


def test_weights_scale_their_words_and_keep_the_mean(sdxl):
    tokens = tokens_of(sdxl, "dog")
    embeddings = rows_of(sdxl, 1)
    plain = encoded(sdxl, "a V* dog on the beach", tokens, embeddings)
    prompt = bind_weighted("a (V* dog:1.5) on the beach", tokens)
    found = text.emphasised(sdxl, plain, [prompt])
    weights = torch.ones(77, 1)
    weights[2:4] = 1.5
    for part, new in zip(plain.features.split([16, 24], -1), found.features.split([16, 24], -1), strict=True):
        wanted = part * weights
        torch.testing.assert_close(new, wanted * part.mean() / wanted.mean())
    assert found.pooled is plain.pooled
    assert text.emphasised(sdxl, plain, [bind_weighted("a V* dog", tokens)]) is plain


@pytest.mark.parametrize("name", ["sd_base", "sdxl_base"])
def test_matrices_in_the_compute_precision_change_no_bit_under_autocast(request, name):
    base = pipelines.load(str(request.getfixturevalue(name)), precision="bf16", device="cpu", parts=("text",))
    ids = [text.tokenize(base, Prompt(("a dog on the beach",), frozenset()), ())]

    def encoded():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return text.encode(base, ids)

    plain = encoded()
    with text.in_compute_precision(base):
        cast = encoded()
        assert any(weight.dtype == torch.bfloat16 for weight in base.text_encoders[0].parameters())
    assert torch.equal(plain.features, cast.features)
    assert plain.pooled is None or torch.equal(plain.pooled, cast.pooled)
    again = encoded()
    assert torch.equal(plain.features, again.features)
    assert all(weight.dtype == torch.float32 for weight in base.text_encoders[0].parameters())
