"""Merging: Eq. 5 against a generic constrained least-squares solve, and tiny random concepts against their merge."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cdtool.errors import BaseError, ConceptError, UsageError
from cdtool.merging import diagnostics, inputs, merge, run, targets
from cdtool.merging.targets import Targets
from cdtool.models import adapter, deltas, initializers, pipelines, text
from cdtool.priors import captions
from cdtool.settings import MergeRule
from cdtool.store import concept, registry
from cdtool.store import subject as composition
from cdtool.store.concept import BaseRef, Manifest
from cdtool.tokens import Token, bind

CAPTIONS = [f"photo of a {noun} {where}" for noun in ("dog", "cat", "beach") for where in ("", "on the beach", "in a")]


@pytest.fixture
def make():
    """Save a concept of random numbers: `make(base, "dog", Token("dog"), seed=1)`; a base is loaded with its text."""

    def save(base, name, *tokens, seed=1, scale=0.3, rank=None, bias=False, settings=None):
        generator = torch.Generator().manual_seed(seed)
        tokens = initializers.assign(base.tokenizers, tokens or (Token("dog"),))
        tensors = {}
        for module, weight in base.kv.items():
            name_of, (o, d) = f"unet.{module}.weight", weight.shape
            if rank:
                tensors[f"{name_of}.up"] = scale * torch.randn((o, rank), generator=generator)
                tensors[f"{name_of}.down"] = torch.randn((rank, d), generator=generator)
            else:
                tensors[name_of] = scale * torch.randn((o, d), generator=generator)
            if bias:
                tensors[f"unet.{module}.bias"] = scale * torch.randn(o, generator=generator)
        for part, encoder in zip(base.family.encoders, base.text_encoders, strict=True):
            for place, token in enumerate(tokens):
                if token.modifier:
                    row = torch.randn(encoder.config.hidden_size, generator=generator)
                    tensors[f"token.{place + 1}.{part}"] = row
        where = BaseRef(base.name, base.family.name, base.fingerprint)
        return registry.save(Manifest(name, where, tokens, settings=settings or {}), tensors)

    return save


@pytest.fixture(scope="module")
def sd(wide_base):
    return pipelines.load(str(wide_base), precision="fp32", device="cpu", parts=("text",))


@pytest.fixture(scope="module")
def sdxl(sdxl_base):
    return pipelines.load(str(sdxl_base), precision="fp32", device="cpu", parts=("text",))


EQUAL = MergeRule(exact=1.0)  # targets as equalities however many there are: the tiny bases have few directions


def merged(base, subject, name="pair", rule=EQUAL):
    parents = inputs.load(base, composition.find(subject))
    return merge.merge(base, parents, name, captions.known(base, CAPTIONS), rule)


def features(base, prompt, tokens, learned):
    return adapter.encode(base, learned, [text.tokenize(base, bind(prompt, tokens), tokens)]).features


# ---------------------------------------------------------------- Eq. 5


def kkt(moment, rows, targets):
    """The change dW [o, d] of least tr(dW R dW') with dW c = t for every row, by the whole KKT system."""
    d, s = len(moment), len(rows)
    system = torch.zeros(d + s, d + s, dtype=torch.float64)
    system[:d, :d], system[:d, d:], system[d:, :d] = moment, rows.T, rows
    right = torch.cat([torch.zeros(d, targets.shape[1], dtype=torch.float64), targets])
    return torch.linalg.lstsq(system, right, driver="gelsd").solution[:d].T


def positive(d, generator, spread=1.0):
    """A positive definite matrix whose eigenvalues span `spread` orders of magnitude."""
    axes, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return axes @ torch.diag(torch.logspace(0, -spread, d, dtype=torch.float64)) @ axes.T


@pytest.mark.parametrize(("d", "s", "o"), [(4, 1, 3), (7, 7, 2), (24, 9, 11), (40, 16, 5)])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_the_solution_is_that_of_the_kkt_system(d, s, o, seed, spread):
    generator = torch.Generator().manual_seed(seed)
    moment = positive(d, generator, spread)
    rows, targets = (torch.randn(s, n, generator=generator, dtype=torch.float64) for n in (d, o))
    down, condition = merge.dual_basis(rows, torch.linalg.cholesky(moment))
    change = targets.T @ down
    assert torch.allclose(change, kkt(moment, rows, targets), rtol=1e-6, atol=1e-7)
    assert torch.allclose(change @ rows.T, targets.T, atol=1e-9)
    gram = rows @ torch.linalg.solve(moment, rows.T)
    assert condition == pytest.approx(float(torch.linalg.cond(gram)), rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_depend_on_others_change_nothing_where_their_targets_agree(seed):
    generator = torch.Generator().manual_seed(seed)
    moment = positive(12, generator, 2.0)
    rows, targets = (torch.randn(4, n, generator=generator, dtype=torch.float64) for n in (12, 5))
    mix = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    factor = torch.linalg.cholesky(moment)
    plain = targets.T @ merge.dual_basis(rows, factor)[0]
    more = torch.cat([targets, mix @ targets]).T @ merge.dual_basis(torch.cat([rows, mix @ rows]), factor)[0]
    assert torch.allclose(plain, more, atol=1e-8)


@pytest.mark.parametrize("apart", [0.0, 1e-9])
def test_equal_rows_with_different_targets_meet_in_the_middle(apart):
    generator = torch.Generator().manual_seed(1)
    row, other = (torch.randn(1, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    targets = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    factor = torch.linalg.cholesky(positive(9, generator))
    rows = torch.cat([row, row * (1 + apart), other])
    change = targets.T @ merge.dual_basis(rows, factor)[0]
    middle = targets[:2].mean(dim=0)
    assert torch.allclose(change @ row[0], middle, atol=1e-6)
    assert torch.allclose(change @ other[0], targets[2], atol=1e-6)
    assert float(change.norm()) < 100 * float(targets.norm())


def test_the_ridge_is_small_beside_r_and_makes_it_whole():
    thin = torch.zeros(5, 5, dtype=torch.float64)
    thin[0, 0] = 10.0
    factor = merge.cholesky(thin)
    assert torch.allclose(factor @ factor.T, thin + merge.RIDGE * 2.0 * torch.eye(5, dtype=torch.float64))


# ---------------------------------------------------------------- storage


def test_a_solution_survives_fp16_whatever_its_scale():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([1e-7, 1.0, 1e6, 0.0], dtype=torch.float64)  # of the rows; one asks for nothing
    ups = {module: torch.randn(6, 4, generator=generator, dtype=torch.float64) * sizes for module in "ab"}
    down = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    stored = merge.pack(ups, down, 9)
    for module, up in ups.items():
        half = stored[f"unet.{module}.weight.up"]
        assert half.dtype == torch.float16
        assert half.isfinite().all()
        for row in range(4):
            was, now = up[:, row, None] * down[row], half.double()[:, row, None] * stored["down"][row].double()
            assert torch.allclose(was, now, rtol=1e-3, atol=1e-6 * float(sizes[row]))
    assert stored["down"].dtype == torch.float32


def test_a_merge_is_one_down_and_an_up_per_matrix(sd, make):
    make(sd, "dog", Token("dog"))
    make(sd, "gate", Token("moongate", modifier=False), seed=2)
    made = merged(sd, "dog+gate")
    entry = registry.save(made.manifest, made.tensors)
    manifest, shapes = concept.read_header(entry.path)
    assert shapes["down"].shape == (made.report.rows, 160)
    assert shapes["down"].dtype == "F32"
    assert {name for name in shapes if name.startswith("unet.")} == {f"unet.{m}.weight.up" for m in sd.kv}
    assert {shapes[f"unet.{m}.weight.up"].dtype for m in sd.kv} == {"F16"}
    assert {name for name in shapes if name.startswith("token.")} == {"token.1.text_encoder"}
    assert manifest.method == "merge"
    assert [token.words(at) for at, token in enumerate(manifest.tokens, 1)] == ["V1 dog", "moongate"]
    assert [parent["name"] for parent in manifest.parents] == ["dog", "gate"]
    assert manifest.parents[0]["fingerprint"] == sd.fingerprint
    assert manifest.parents[0]["tokens"] == ["V* dog"]
    assert len(manifest.parents[0]["sha256"]) == 64
    assert manifest.report == made.report.data()
    assert registry.dependents("gate") == ["pair"]


# ---------------------------------------------------------------- whose keys and values


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("rank", [None, 2])
def test_each_owner_has_its_keys_and_values_at_its_words(family, rank, make, request):
    base = request.getfixturevalue(family)
    make(base, "one", Token("dog"), rank=rank)
    make(base, "two", Token("cat"), seed=2)
    made = merged(base, "one+two")
    assert made.report.error < 1e-8
    assert made.report.saved_error < 1e-3
    both = adapter.load_weights(base, made.manifest.tokens, made.tensors)
    for name, prompt, positions in [("one", "photo of a V1 dog", (4, 5, 6)), ("two", "V2 cat", (1, 2, 3))]:
        entry = registry.find(name)
        own = adapter.load_weights(base, entry.manifest.tokens, concept.read_tensors(entry.path))
        c = features(base, prompt, made.manifest.tokens, both)
        # The owner knows the same features under its own number.
        assert torch.equal(c, features(base, prompt.replace("V2", "V1"), entry.manifest.tokens, own))
        for module, value in adapter.keys_and_values(base, own, c).items():
            wanted, found = value[0, list(positions)], adapter.keys_and_values(base, both, c)[module][0, positions]
            assert float((found - wanted).norm() / wanted.norm()) < 1e-3, (module, name)


def test_in_a_prompt_of_both_each_has_its_own_words_alone(sd, make):
    make(sd, "one", Token("dog"))
    make(sd, "two", Token("cat"), seed=2)
    made = merged(sd, "one+two")
    both = adapter.load_weights(sd, made.manifest.tokens, made.tensors)
    c = features(sd, "photo of a V2 cat and a V1 dog", made.manifest.tokens, both)
    tokenized = text.tokenize(sd, bind("photo of a V2 cat and a V1 dog", made.manifest.tokens), made.manifest.tokens)
    assert [slot.token for slot in tokenized.slots[0]] == [1, 0]
    found = adapter.keys_and_values(sd, both, c)
    for slot in tokenized.slots[0]:
        entry = registry.find(("one", "two")[slot.token])
        own = adapter.load_weights(sd, entry.manifest.tokens, concept.read_tensors(entry.path))
        for at in (slot.position, slot.position + 1):  # the modifier and its noun
            for module, value in adapter.keys_and_values(sd, own, c).items():
                gap = found[module][0, at] - value[0, at]
                assert float(gap.norm() / value[0, at].norm()) < 2e-3, (at, module)


def test_a_merge_and_a_joint_concept_merge_again(sd, make):
    make(sd, "joint", Token("dog"), Token("cat"))
    make(sd, "gate", Token("moongate", modifier=False), seed=2)
    make(sd, "beach", Token("beach"), seed=3)
    made = merged(sd, "joint+gate")
    registry.save(made.manifest, made.tensors)
    again = merged(sd, "pair+beach", "all")
    assert [token.words(at) for at, token in enumerate(again.manifest.tokens, 1)] == [
        "V1 dog", "V2 cat", "moongate", "V4 beach",
    ]  # fmt: skip
    assert {name for name in again.tensors if name.startswith("token.")} == {
        f"token.{place}.text_encoder" for place in (1, 2, 4)
    }
    assert torch.equal(again.tensors["token.2.text_encoder"], made.tensors["token.2.text_encoder"])
    assert again.report.error < 1e-8


def test_a_weight_scales_what_a_concept_asks_for(sd, make):
    make(sd, "one", Token("dog"))
    make(sd, "two", Token("cat"), seed=2)
    plain, half = merged(sd, "one+two"), merged(sd, "one:0.5+two")
    module = next(iter(sd.kv))
    both = [adapter.load_weights(sd, made.manifest.tokens, made.tensors) for made in (plain, half)]
    c = features(sd, "V1 dog", plain.manifest.tokens, both[0])[:, 1:3]
    whole, less = (deltas.apply(what.kv[module], c) for what in both)
    assert torch.allclose(less, 0.5 * whole, rtol=5e-3, atol=1e-3)
    assert half.manifest.parents[0]["weight"] == 0.5


def test_a_bias_is_merged_through_a_constant_feature(sd, make):
    make(sd, "one", Token("dog"), bias=True)
    make(sd, "two", Token("cat"), seed=2)
    made = merged(sd, "one+two")
    assert made.report.error < 1e-8
    assert made.report.saved_error < 2e-3
    entry, module = registry.find("one"), next(iter(sd.kv))
    tensors = concept.read_tensors(entry.path)
    learned = adapter.ConceptWeights(embeddings=tuple((tensors[f"token.1.{part}"],) for part in sd.family.encoders))
    c = features(sd, "photo of a V* dog", entry.manifest.tokens, learned)[0, 4:7]
    wanted = c @ tensors[f"unet.{module}.weight"].T + tensors[f"unet.{module}.bias"]
    factors = deltas.read(made.tensors, f"unet.{module}.weight")
    found = c @ factors.down.T @ factors.up.float().T + made.tensors[f"unet.{module}.bias"]
    assert float((found - wanted).norm() / wanted.norm()) < 2e-3


def test_a_concept_of_rows_alone_asks_for_no_change(sd, make):
    entry = make(sd, "one", Token("dog"))
    tensors = {name: row for name, row in concept.read_tensors(entry.path).items() if name.startswith("token.")}
    registry.save(entry.manifest, tensors, force=True)
    make(sd, "two", Token("cat"), seed=2)
    made = merged(sd, "one+two")
    both = adapter.load_weights(sd, made.manifest.tokens, made.tensors)
    c = features(sd, "V1 dog", made.manifest.tokens, both)[:, 1:3]
    module = next(iter(sd.kv))
    assert float(deltas.apply(both.kv[module], c).norm()) < 1e-2
    assert made.report.fidelity["one"] == 1.0


def test_styles_are_told_from_the_settings_and_handed_on(sd, make):
    make(sd, "one", Token("dog"))
    make(sd, "ink", Token("photo"), seed=2, settings={"style": True})
    made = merged(sd, "one+ink")
    assert made.manifest.settings["style"] == [False, True]
    assert inputs.styles(made.manifest) == [False, True]
    assert inputs.styles(registry.find("one").manifest) == [False]


# ---------------------------------------------------------------- what is refused


def test_one_concept_is_no_merge(sd, make):
    make(sd, "one", Token("dog"))
    with pytest.raises(UsageError, match="two concepts"):
        run.plan("one")


def test_another_base_is_refused(sd, sdxl, make):
    make(sd, "one", Token("dog"))
    make(sd, "two", Token("cat"), seed=2)
    other, known = replace(sd, fingerprint="f00d"), captions.known(sd, CAPTIONS)
    with pytest.raises(BaseError, match="was trained on"):
        merged(other, "one+two")
    assert (
        merge.merge(other, inputs.load(other, composition.find("one+two"), force=True), "pair", known).report.error
        < 1e-8
    )
    with pytest.raises(BaseError, match="other text encoders"):
        inputs.load(sdxl, composition.find("one+two"), force=True)


def test_a_concept_that_changes_more_is_refused(sd, make):
    entry = make(sd, "one", Token("dog"))
    make(sd, "two", Token("cat"), seed=2)
    module = next(iter(sd.kv)).replace("to_k", "to_q")
    more = concept.read_tensors(entry.path) | {f"unet.{module}.weight": torch.zeros(4, 4)}
    registry.save(entry.manifest, more, force=True)
    with pytest.raises(ConceptError, match="more than keys and values"):
        merged(sd, "one+two")


def test_a_concept_without_its_row_is_refused(sd, make):
    entry = make(sd, "one", Token("dog"))
    make(sd, "two", Token("cat"), seed=2)
    less = {name: tensor for name, tensor in concept.read_tensors(entry.path).items() if not name.startswith("token.")}
    registry.save(entry.manifest, less, force=True)
    with pytest.raises(ConceptError, match="no embedding"):
        merged(sd, "one+two")


# ---------------------------------------------------------------- how well it is kept


def test_the_report_is_what_a_slower_count_gives(sd, make):
    """Fidelity against dense matrices, row by row."""
    make(sd, "one", Token("dog"))
    make(sd, "two", Token("cat"), seed=2)
    made = merged(sd, "one+two")
    tokens = made.manifest.tokens
    both = adapter.load_weights(sd, tokens, made.tensors)
    known = [Targets(*part) for part in (
        targets.collect(sd, targets.prompts(tokens, [False] * 2), tokens, both.embeddings, whole={0, 1}),
        targets.collect(sd, targets.held_out_prompts(tokens, [False] * 2), tokens, both.embeddings, whole=()),
    )]  # fmt: skip
    apart, whole = [0.0, 0.0], [0.0, 0.0]
    for c, (place,) in zip(known[1].features, known[1].owners, strict=True):
        if float((known[0].features - c).norm(dim=1).min()) < targets.SAME * float(c.norm()):
            continue
        entry = registry.find(("one", "two")[place])
        tensors = concept.read_tensors(entry.path)
        for module in sd.kv:
            own = tensors[f"unet.{module}.weight"].double() @ c
            factors = both.kv[module]
            apart[place] += float((factors[0].double() @ (factors[1].double() @ c) - own).square().sum())
            whole[place] += float(own.square().sum())
    for place, name in enumerate(("one", "two")):
        assert made.report.fidelity[name] == pytest.approx(1 - (apart[place] / whole[place]) ** 0.5, rel=1e-4)
    assert made.report.lost == [name for name, kept in made.report.fidelity.items() if kept < diagnostics.LOST]


def test_the_second_merge_encodes_no_caption(sd, make, monkeypatch):
    make(sd, "one", Token("dog"))
    make(sd, "two", Token("cat"), seed=2)
    first = merged(sd, "one+two")
    assert first.manifest.settings["captions"] == len(CAPTIONS)
    monkeypatch.setattr(captions, "encode", None)
    again = merged(sd, "one+two")
    assert all(torch.equal(first.tensors[name], tensor) for name, tensor in again.tensors.items())


# ---------------------------------------------------------------- many, soft, held, focused


def test_soft_targets_are_ridge_regression_in_the_metric_of_r():
    generator = torch.Generator().manual_seed(3)
    moment = positive(9, generator, 2.0)
    rows, values = (torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (9, 4))
    factor = torch.linalg.cholesky(moment)
    mean = torch.linalg.svdvals(torch.linalg.solve_triangular(factor, rows.T, upper=False)).square().mean()
    change = values.T @ merge.dual_basis(rows, factor, 0.3)[0]
    expected = values.T @ rows @ torch.linalg.inv(rows.T @ rows + 0.3 * mean * moment)
    assert torch.allclose(change, expected, atol=1e-9)


def test_a_softer_merge_disturbs_less_and_keeps_less(sd, make):
    make(sd, "one", Token("dog"))
    make(sd, "two", Token("cat"), seed=2)
    parents = inputs.load(sd, composition.find("one+two"))
    stats = captions.known(sd, CAPTIONS)
    hard, soft = (merge.merge(sd, parents, "pair", stats, MergeRule(exact=0.0, softness=mu)).report
                  for mu in (0.0, 1.0))  # fmt: skip
    assert soft.drift < hard.drift
    assert soft.error > 0.01 > hard.error


def test_few_targets_are_met_exactly_and_many_by_least_squares(sd, make):
    """On this base two concepts ask for 20 of 160 directions, three for more than a fifth."""
    for seed, noun in enumerate(("dog", "cat", "beach")):
        make(sd, noun, Token(noun), seed=seed + 1)
    two, three = (merged(sd, subject, rule=None).report for subject in ("dog+cat", "dog+cat+beach"))
    assert two.rows < 0.2 * 160 < three.rows
    assert two.error < 1e-8
    assert three.error > 1e-3


def test_held_directions_are_those_of_the_empty_prompt(sd, make):
    make(sd, "one", Token("dog"))
    make(sd, "two", Token("cat"), seed=2)
    parents = inputs.load(sd, composition.find("one+two"))
    made = merge.merge(sd, parents, "pair", captions.known(sd, CAPTIONS), MergeRule(exact=1.0, held=0.05))
    held = text.empty_directions(sd, 0.05)
    start = features(sd, "", (), adapter.ConceptWeights())[0, :1]
    for module in sd.kv:
        whole = deltas.dense(deltas.read(made.tensors, f"unet.{module}.weight"))
        assert float((whole @ held).norm()) < 2e-3 * float(whole.norm())
        assert float((whole @ start.T).norm()) < 0.1 * float(whole.norm() * start.norm())
    assert made.report.error < 1e-8


def test_beyond_capacity_pairs_are_left_out_and_joining_is_recommended(sd, make):
    for seed, noun in enumerate(("dog", "cat")):
        make(sd, noun, Token(noun), seed=seed + 1)
    parents = inputs.load(sd, composition.find("dog+cat"))
    stats = captions.known(sd, CAPTIONS)
    few, many = (merge.merge(sd, parents, "pair", stats, MergeRule(pairs=share)).report for share in (0.0, 0.9))
    assert few.rows < many.rows
    assert diagnostics.recommended({"a": 0.5, "b": 0.8}) == ()
    told = diagnostics.recommended({"a": 0.5, "b": 0.6, "c": 0.4, "d": 0.5})
    assert "4 concepts" in told[0]
    assert "kept to 50%" in told[0]
    assert "a+b+c+..." in told[0]
    mean = sum(few.fidelity.values()) / 2
    assert any("Joined as you sample" in warning for warning in few.warnings) == (mean < diagnostics.KNEE)


def test_more_targets_than_directions_are_stored_in_as_many_numbers_as_directions(sd, make):
    for seed, noun in enumerate(("dog", "cat", "beach", "photo")):
        make(sd, noun, Token(noun), seed=seed + 1)
    parents = inputs.load(sd, composition.find("dog+cat+beach+photo"))
    report, tensors = (merge.merge(sd, parents, "all", captions.known(sd, CAPTIONS), MergeRule(pairs=1e9))[at]
                       for at in (2, 1))  # fmt: skip
    assert len(tensors["down"]) <= 160
    assert report.rows >= len(tensors["down"])
    assert report.saved_error == pytest.approx(report.error, abs=2e-3)  # what is stored is what was solved


def test_focused_concepts_make_a_focused_merge(sd, make):
    make(sd, "one", Token("dog"), settings={"focus": True})
    make(sd, "two", Token("cat"), seed=2, settings={"focus": True})
    make(sd, "three", Token("beach"), seed=3)
    both, mixed, plain = merged(sd, "one+two"), merged(sd, "one+three"), merged(sd, "three+two")
    assert concept.reach(both.manifest) == "own words"
    assert concept.reach(mixed.manifest) == concept.reach(plain.manifest) == "prompt"
    assert both.report.rows < mixed.report.rows


def test_many_warnings_are_shortened():
    tokens = [Token("dog")] * 6
    told = diagnostics.clashes(tokens, [[torch.empty(0)] * 6])
    assert len(told) == diagnostics.SHOWN + 1
    assert told[-1] == "And 7 more such pairs."
