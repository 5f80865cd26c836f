"""Keys and values of joined concepts against a slow loop that builds each position's matrix by hand."""

from __future__ import annotations

import pytest
import torch

from cdtool.models import adapter, initializers, pipelines, text
from cdtool.models.adapter import ConceptWeights
from cdtool.models.deltas import Factors
from cdtool.sampling import routing
from cdtool.tokens import Token, bind

DOG, CAT, GATE, BEAR = (Token("dog"), Token("cat"), Token("moongate", modifier=False), Token("teddy bear"))


@pytest.fixture(scope="module", params=["sd_base", "sdxl_base"])
def base(request):
    return pipelines.load(str(request.getfixturevalue(request.param)), precision="fp32", device="cpu")


def learned(base, tokens, seed, low_rank=False):
    """A concept of random numbers."""
    generator = torch.Generator().manual_seed(seed)

    def change(weight):
        if not low_rank:
            return torch.randn(weight.shape, generator=generator)
        return Factors(
            torch.randn(len(weight), 3, generator=generator), torch.randn(3, weight.shape[1], generator=generator)
        )

    rows = [[torch.randn(encoder.config.hidden_size, generator=generator) for _ in tokens]
            for encoder in base.text_encoders]  # fmt: skip
    return ConceptWeights({name: change(weight) for name, weight in base.kv.items()}, tuple(map(tuple, rows)))


def labelled(base, *words):
    """A prompt as (word, its token or None) pairs: the prompt, and the tokens of its positions."""
    own = [None]
    for word, owner in words:
        own += [owner] * (1 if word[0] == "V" else len(base.tokenizers[0](word, add_special_tokens=False)["input_ids"]))
    return " ".join(word for word, _ in words), own


PROMPTS = [
    ((DOG, CAT), [("V1", 0), ("dog", 0), ("in", None), ("front", None), ("of", None), ("V2", 1), ("cat", 1)]),
    ((DOG, CAT), [("V2", 1), ("cat", 1), ("on", None), ("V2", 1), ("beach", None), ("a", None), ("cat", None)]),
    ((DOG, CAT), [("V1", 0), ("cat", None), ("V2", 1), ("dogs", None), ("the", None), ("dog", None)]),
    ((DOG, CAT, GATE), [("V1", 0), ("dog", 0), ("moongate", 2), ("V2", 1), ("V1", 0), ("dog", 0), ("MoonGate", 2)]),
    ((BEAR, DOG), [("V1", 0), ("teddy", 0), ("bear", 0), ("teddy", None), ("bear", None), (",", None), ("V2", 1)]),
    ((Token("gate", modifier=False), Token("moongate", modifier=False), Token("front gate", modifier=False)),
     [("front", 2), ("gate", 2), ("moongate", 1), ("gate", 0), ("front", None)]),
]  # fmt: skip


@pytest.mark.parametrize(("tokens", "words"), PROMPTS)
def test_every_position_has_its_owner(base, tokens, words):
    tokens = initializers.assign(base.tokenizers, tokens)
    prompt, wanted = labelled(base, *words)
    found, end = text.owners(base, bind(prompt, tokens), tokens)
    length = base.tokenizers[0].model_max_length
    assert end == len(wanted)
    assert found == [*wanted, *[None] * (length - len(wanted))]
    ids = text.tokenize(base, bind(prompt, tokens), tokens).ids[0]
    assert ids[end] == base.tokenizers[0].eos_token_id
    assert base.tokenizers[0].eos_token_id not in ids[:end]


def test_a_prompt_that_is_too_long_ends_where_the_text_does(base):
    tokens = initializers.assign(base.tokenizers, (DOG, CAT))
    length = base.tokenizers[0].model_max_length
    found, end = text.owners(base, bind("V1 dog " + "a " * 100 + "V2 cat", tokens), tokens)
    assert (len(found), end) == (length, length - 1)
    assert found == [None, 0, 0, *[None] * (length - 3)]
    share = routing.shares(base, bind("V1 dog " + "a " * 100 + "V2 cat", tokens), tokens, [0, 1], ["prompt"] * 2)
    assert share[end].tolist() == [1.0, 0.0]  # what was cut off is not there


def by_hand(base, concepts, weights, own, end, features):
    """Position by position: (W0 + sum of the shares of w dW) c."""
    named = sorted({owner for owner in own if owner is not None})
    made = {}
    for module, weight in base.kv.items():
        rows = []
        for position, c in enumerate(features):
            matrix = weight.double().clone()
            inside = own[position] if position < len(own) else None
            told = named if position >= end else [] if inside is None else [inside]
            for owner in told:
                change = concepts[owner].kv[module]
                change = change if torch.is_tensor(change) else change[0].double() @ change[1].double()
                matrix += weights[owner] * change.double() / (len(named) if position >= end else 1)
            rows.append(matrix @ c.double())
        made[module] = torch.stack(rows)
    return made


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.8, 1.5, 0.0)])
def test_keys_and_values_are_those_of_a_matrix_per_token(base, weights):
    tokens = initializers.assign(base.tokenizers, (DOG, CAT, GATE))
    concepts = [learned(base, [token], seed, low_rank=seed == 1) for seed, token in enumerate(tokens)]
    acting = [routing.weighted(concept, weight) for concept, weight in zip(concepts, weights, strict=True)]
    prompts = [PROMPTS[0][1], PROMPTS[3][1], [("the", None), ("beach", None)]]
    labels = [labelled(base, *words) for words in prompts]
    told = [bind(prompt, tokens) for prompt, _ in labels]
    share = torch.stack([routing.shares(base, prompt, tokens, [0, 1, 2], ["prompt"] * 3) for prompt in told])
    features = adapter.encode(base, ConceptWeights(embeddings=routing.embeddings(acting)),
                              [text.tokenize(base, prompt, tokens) for prompt in told]).features  # fmt: skip
    found = routing.keys_and_values(base, acting, share, features)
    for row, (_, own) in enumerate(labels):
        wanted = by_hand(base, concepts, weights, own, len(own), features[row])
        for module, value in wanted.items():
            torch.testing.assert_close(found[module][row].double(), value, rtol=1e-4, atol=1e-4)


def test_tokens_of_one_part_share_its_change(base):
    """dog+pair: V2 and the plain word both belong to the second concept."""
    tokens = initializers.assign(base.tokenizers, (DOG, CAT, GATE))
    share = routing.shares(base, bind("V1 dog V2 cat moongate beach", tokens), tokens, [0, 1, 1], ["prompt"] * 2)
    assert share[:7].tolist() == [[0, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [0, 0]]
    assert share[7:].unique(dim=0).tolist() == [[0.5, 0.5]]


def test_a_prompt_that_names_nobody_goes_through_the_base(base):
    tokens = initializers.assign(base.tokenizers, (DOG, CAT))
    assert not routing.shares(base, bind("a dog on the beach", tokens), tokens, [0, 1], ["prompt"] * 2).any()
    assert not routing.shares(base, bind("", tokens), tokens, [0, 1], ["prompt"] * 2).any()


def test_a_weight_scales_changes_and_leaves_rows(base):
    concept = learned(base, [DOG], 3)
    other = learned(base, [DOG], 3, low_rank=True)
    concept = ConceptWeights(concept.kv, concept.embeddings, {"mid.bias": torch.ones(2)})
    half, low = routing.weighted(concept, 0.5), routing.weighted(other, 0.5)
    for module in base.kv:
        assert torch.equal(half.kv[module], concept.kv[module] / 2)
        up, down = low.kv[module]
        torch.testing.assert_close(up @ down, other.kv[module][0] @ other.kv[module][1] / 2)
    assert half.embeddings == concept.embeddings
    assert half.others["mid.bias"].tolist() == [0.5, 0.5]
    assert routing.weighted(concept, 1) is concept


def test_a_word_alone_acts_by_its_row(base):
    """A textual inversion beside a concept: its own positions keep the base's keys and values of its row."""
    tokens = initializers.assign(base.tokenizers, (DOG, CAT))
    dog = learned(base, [DOG], 1)
    word = ConceptWeights({}, learned(base, [CAT], 2).embeddings)
    prompt = bind("V1 dog V2 cat", tokens)
    features = adapter.encode(
        base, ConceptWeights(embeddings=routing.embeddings([dog, word])), [text.tokenize(base, prompt, tokens)]
    ).features
    share = routing.shares(base, prompt, tokens, [0, 1], ["prompt"] * 2)[None]
    found = routing.keys_and_values(base, [dog, word], share, features)
    plain = adapter.keys_and_values(base, ConceptWeights(), features)
    for module in base.kv:
        assert torch.equal(found[module][:, 3:5], plain[module][:, 3:5])
        assert not torch.allclose(found[module][:, 1:3], plain[module][:, 1:3])


def test_rows_follow_one_another(base):
    one, two = learned(base, [DOG, CAT], 1), learned(base, [GATE], 2)
    for encoder, rows in enumerate(routing.embeddings([one, two])):
        assert [row.data_ptr() for row in rows] == [
            row.data_ptr() for part in (one, two) for row in part.embeddings[encoder]
        ]


def test_of_many_concepts_only_the_named_ones_are_loaded_and_nothing_changes(base, monkeypatch):
    from cdtool.sampling import sample
    from cdtool.settings import SampleSettings
    from cdtool.store import concept, registry
    from cdtool.store.concept import BaseRef, Manifest

    entries = []
    for seed, noun in enumerate(("dog", "cat", "beach")):
        tokens = initializers.assign(base.tokenizers, (Token(noun),))
        own = learned(base, tokens, seed)
        tensors = {f"unet.{name}.weight": 0.1 * change for name, change in own.kv.items()}
        tensors |= {f"token.1.{part}": rows[0] for part, rows in zip(base.family.encoders, own.embeddings, strict=True)}
        entries.append(registry.save(Manifest(noun, BaseRef("a", base.family.name, base.fingerprint), tokens), tensors))
    read, plain = [], concept.read_tensors
    monkeypatch.setattr(concept, "read_tensors", lambda path: read.append(path.stem) or plain(path))
    drawing = SampleSettings(count=1, steps=1, precision="fp32")
    prompts = ["V1 dog in front of V3 beach"]
    some = [one.image for one in sample.generate(base, entries, prompts, drawing)]
    assert read == ["dog", "beach"]
    every = sample.sampler(base, entries)
    assert len(read) == 5
    encoded = [(every.encode(bind(prompts[0], every.tokens)), drawing.seed)]
    *_, last = sample._steps(every, encoded, drawing)
    assert [one.image.tobytes() for one in last.images] == [image.tobytes() for image in some]
    read.clear()
    list(sample.generate(base, entries, prompts, SampleSettings(count=1, steps=1, negative="V2 cat")))
    assert read == ["dog", "cat", "beach"]
