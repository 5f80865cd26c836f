"""cdtool forget from words to a concept that lists, merges, joins, and is measured the other way round."""

from __future__ import annotations

import pytest
import torch

import cdtool as api
from cdtool.erasure import run
from cdtool.errors import ConceptError, InputError, UsageError
from cdtool.merging import inputs, merge
from cdtool.models import deltas, initializers, pipelines
from cdtool.priors import captions
from cdtool.sampling import routing
from cdtool.sampling import run as sampling
from cdtool.store import concept, registry
from cdtool.store import subject as composition
from cdtool.store.concept import BaseRef, Manifest
from cdtool.tokens import Token, bind


@pytest.fixture
def folder(wide_base, tmp_path, monkeypatch):
    """The tiny base, with a few captions and nouns in the place of the shipped ones."""
    (tmp_path / "few.txt").write_text("photo of a dog\na cat on the beach\nin front of the beach\na dog\n")
    (tmp_path / "nouns.txt").write_text("dog\ncat\nbeach\n")
    monkeypatch.setattr(captions, "SHIPPED", tmp_path / "few.txt")
    return wide_base


def dense(base, name, *tokens, seed=1):
    generator = torch.Generator().manual_seed(seed)
    tokens = initializers.assign(base.tokenizers, tokens)
    tensors = {f"unet.{module}.weight": 0.3 * torch.randn(weight.shape, generator=generator)
               for module, weight in base.kv.items()}  # fmt: skip
    tensors |= {f"token.{place}.text_encoder": torch.randn(160, generator=generator)
                for place, token in enumerate(tokens, 1) if token.modifier}  # fmt: skip
    return registry.save(Manifest(name, BaseRef(base.name, base.family.name, base.fingerprint), tokens), tensors)


def whole(tensors, module):
    return deltas.dense(deltas.read(tensors, f"unet.{module}.weight"))


def test_it_saves_a_small_concept_that_names_what_it_erases(folder, cdtool):
    said = cdtool("forget", "cat", "--base", folder, "--as", "dog", "-q")
    assert (said.code, said.out) == (0, "no-cat\n")
    manifest, shapes = concept.read_header(registry.find("no-cat").path)
    assert manifest.method == "forget"
    assert manifest.tokens == (Token("cat", modifier=False, erased=True),)
    assert manifest.settings == {"as": "dog"}
    assert concept.is_low_rank(shapes)
    assert concept.reach(manifest) == "everywhere"
    assert "no-cat" in cdtool("list").out
    assert cdtool("forget", "cat", "--base", folder).code == 4  # the name is taken
    assert cdtool("forget", "cat", "--base", folder, "--if-missing", "-q").out == "no-cat\n"


def test_what_it_erases_is_not_among_what_stays(folder):
    plan = run.plan("cat", base=str(folder))
    assert run._without(["a cat", "two cats", "a dog"], plan.phrases) == ["a dog"]
    with pytest.raises(InputError, match="Nothing is left"):
        run._without(["a cat"], plan.phrases)


@pytest.mark.parametrize(("phrases", "keep", "error"), [((), (), UsageError), (("a {}",), (), UsageError),
                                                        (("cat",), ["Cat "], InputError)])  # fmt: skip
def test_it_refuses_nothing_and_contradictions(phrases, keep, error):
    with pytest.raises(error):
        run.plan(*phrases, keep=keep, base="mini")


def test_joined_it_acts_everywhere_and_leaves_the_others_their_words(folder):
    base = pipelines.load(str(folder), precision="fp32", device="cpu", parts=("text",))
    tokens = (Token("dog", ids=(5,)), Token("cat", modifier=False, erased=True))
    share = routing.shares(base, bind("a V1 dog on the beach", tokens), tokens, [0, 1], ["prompt", "everywhere"])
    assert bool((share[:, 1] == 1).all())
    own, end = share[:, 0].nonzero().flatten().tolist(), len(share) - 1
    assert 0 < own[0] < own[-1] == end
    assert float(share[end, 0]) == 1.0  # not a half: what erases is no thing of the picture


def test_a_prompt_need_not_name_what_is_erased(folder):
    base = pipelines.load(str(folder), precision="fp32", device="cpu", parts=("text",))
    dense(base, "dog", Token("dog"))
    api.forget("cat", base=str(folder))
    assert sampling.plan("no-cat", "a dog on the beach").warnings() == []
    assert sampling.plan("dog+no-cat", "a V1 dog").warnings() == []
    assert len(sampling.plan("dog+no-cat", "a cat").warnings()) == 1


def test_a_merge_adds_it_to_the_rest_as_it_is(folder):
    base = pipelines.load(str(folder), precision="fp32", device="cpu", parts=("text",))
    dense(base, "one", Token("dog"))
    dense(base, "two", Token("beach"), seed=2)
    entry = api.forget("cat", base=str(folder))
    stats = captions.known(base, ["photo of a dog", "a cat on the beach"])

    def merged(subject):
        return merge.merge(base, inputs.load(base, composition.find(subject)), "both", stats)

    erasing = concept.read_tensors(entry.path)
    for subject in ("one+two", "one"):
        plain = merged(subject).tensors if "+" in subject else concept.read_tensors(registry.find("one").path)
        made = merged(f"{subject}+no-cat")
        for module in base.kv:
            expected = whole(plain, module) + whole(erasing, module)
            assert torch.allclose(whole(made.tensors, module), expected, atol=2e-3 * float(expected.abs().max()))
    both = merged("one+two+no-cat")
    assert "down" in both.tensors  # one for all layers still
    assert [token.erased for token in both.manifest.tokens] == [False, False, True]
    assert set(both.report.fidelity) == {"one", "two"}
    saved = registry.save(both.manifest, both.tensors)
    with pytest.raises(ConceptError, match="teaches and erases"):
        inputs.load(base, composition.find(f"{saved.name}+one"))


def test_an_evaluation_reads_forgetting_the_other_way_round(monkeypatch):
    api.forget("dog")  # on mini
    scores = api.evaluate("no-dog", count=1, steps=2, prompts=["photo of a {}"], forgetting=True)
    assert list(scores.concept) == ["text"]
    assert set(scores.forgetting) == {"named", "erased", "kept", "neighbours", "unrelated"}
    assert 0 <= scores.forgetting["named"].mean <= 1
    assert scores.forgetting["erased"].mean > scores.forgetting["unrelated"].mean
