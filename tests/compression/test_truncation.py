"""Compressed concepts: which ranks are chosen, the file that comes out, and that it draws what the dense one would."""

from __future__ import annotations

import hashlib
import itertools

import pytest
import torch

from cdtool.compression import truncation
from cdtool.compression.goals import Goal
from cdtool.errors import ConceptError, InputError, NameTakenError, UsageError
from cdtool.models import adapter, deltas, initializers, pipelines, spectra
from cdtool.store import concept, registry
from cdtool.tokens import Token

K, V = "unet.mid.attn2.to_k.weight", "unet.mid.attn2.to_v.weight"
ROW = torch.arange(16.0)


def falling(shape, seed=0, power=1.0):
    """A matrix whose singular values fall like 1 / rank."""
    generator = torch.Generator().manual_seed(seed)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    return (u / torch.arange(1, min(shape) + 1) ** power @ v).half()


def with_values(values, shape=(40, 30)):
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(1)), full_matrices=False)
    return u[:, : len(values)] * torch.tensor(values) @ v[: len(values)]


@pytest.fixture
def opened(manifest):
    """Save tensors as a concept and take it apart: (source, parts)."""

    def make(tensors, name="dog", **values):
        entry = registry.save(manifest(name, **values), tensors, force=True)
        source = truncation.read(entry)
        return source, list(spectra.decompose(source.tensors))

    return make


@pytest.fixture
def dog(opened):
    return opened({K: falling((40, 30)), V: falling((64, 30), seed=1, power=0.6), "token.1.text_encoder": ROW})


@pytest.fixture
def pair(opened):
    """Three matrices with one `down`, as a merge stores them."""
    generator = torch.Generator().manual_seed(2)
    ups = {f"unet.{n}.to_k.weight.up": torch.randn((60, 12), generator=generator).half() for n in range(3)}
    fall = 0.5 ** torch.arange(12.0)
    ups = {name: (up * fall).half() for name, up in ups.items()}
    down = torch.linalg.qr(torch.randn((30, 12), generator=generator))[0].T.contiguous()
    tensors = {**ups, "down": down, "token.1.text_encoder": ROW}
    return opened(tensors, "pair", method="merge", parents=({"name": "dog"},), report={"drift": 0.5})


def products(tensors):
    """Every change multiplied out."""
    names = dict.fromkeys(
        name.removesuffix(".up").removesuffix(".down") for name in tensors if name.startswith("unet.")
    )
    made = {}
    for name in names:
        down = tensors.get(f"{name}.down", tensors.get("down"))
        made[name] = tensors[name].float() if name in tensors else tensors[f"{name}.up"].float() @ down.float()
    return made


def truncated(dense, rank):
    u, s, v = torch.linalg.svd(dense.double(), full_matrices=False)
    return (u[:, :rank] * s[:rank] @ v[:rank]).float()


@pytest.mark.parametrize(
    ("values", "share", "rank"),
    [
        ([6.01, 4.0], 0.6, 1),  # the first reaches it
        ([5.0, 4.0, 1.0], 0.6, 2),  # the second crosses it and is kept
        ([9.0, 1.0], 0.6, 1),  # the first alone is more: never fewer than one
        ([4.0, 3.0, 2.0, 1.0], 0.69, 2),
        ([4.0, 3.0, 2.0, 1.0], 0.71, 3),
        ([4.0, 3.0, 2.0, 1.0], 0.001, 1),
        ([4.0, 3.0, 2.0, 1.0], 0.999, 4),
    ],
)
def test_the_share_of_the_sum_decides(opened, values, share, rank):
    source, parts = opened({K: with_values(values)})
    small = truncation.truncate(source, parts, Goal(energy=share), "small")
    assert small.ranks == {K: rank}
    assert small.kept == pytest.approx(sum(values[:rank]) / sum(values), rel=1e-3)
    squares = [value * value for value in values]
    assert small.error == pytest.approx((sum(squares[rank:]) / sum(squares)) ** 0.5, abs=1e-3)


def test_a_rank_for_all(dog):
    source, parts = dog
    small = truncation.truncate(source, parts, Goal(rank=5), "small")
    assert small.ranks == {K: 5, V: 5}
    for name, product in products(small.tensors).items():
        torch.testing.assert_close(product, truncated(source.tensors[name], 5), atol=2e-3, rtol=0)


def test_what_would_not_get_smaller_stays_as_it_was(dog):
    source, parts = dog
    small = truncation.truncate(source, parts, Goal(energy=1.0), "small")
    assert small.ranks == {K: 0, V: 0}
    assert (small.error, small.kept) == (0, 1)
    assert all(torch.equal(tensor, small.tensors[name]) for name, tensor in source.tensors.items())
    # 18 ranks of K cost more than it does, 18 of V do not
    mixed = truncation.truncate(source, parts, Goal(rank=18), "small")
    assert mixed.ranks == {K: 0, V: 18}
    assert torch.equal(mixed.tensors[K], source.tensors[K])


def test_the_size_is_foretold_and_kept_to(dog):
    source, parts = dog
    errors = []
    for most in range(3000, 9000, 250):
        small = truncation.truncate(source, parts, Goal(bytes=most), "small")
        entry = truncation.save(source, small, force=True)
        assert entry.bytes <= small.bytes <= most
        assert small.bytes - entry.bytes < 40  # a share in the manifest has fewer digits
        errors.append(small.error)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3
    assert errors[-1] == 0


def test_a_size_is_filled_with_the_ranks_that_matter_most(dog):
    """Against all pairs of ranks: none in the same file size has a clearly smaller error."""
    source, parts = dog
    most = 4500
    small = truncation.truncate(source, parts, Goal(bytes=most), "small")
    best = min(
        spectra.error(parts, {K: k, V: v})
        for k, v in itertools.product(range(1, parts[0].most + 1), range(1, parts[1].most + 1))
        if k * parts[0].rank_bytes + v * parts[1].rank_bytes
        <= sum(small.ranks[part.name] * part.rank_bytes for part in parts)
    )
    assert small.error == pytest.approx(best, rel=1e-9)


def test_too_small_a_size_names_the_least(dog):
    source, parts = dog
    with pytest.raises(UsageError, match="one rank of each of its 2 matrices") as caught:
        truncation.truncate(source, parts, Goal(bytes=700), "small")
    least = int(str(caught.value).removesuffix(".").split()[-1])
    assert truncation.truncate(source, parts, Goal(bytes=least), "small").ranks == {K: 1, V: 1}
    with pytest.raises(UsageError):
        truncation.truncate(source, parts, Goal(bytes=least - 1), "small")


def test_rows_tokens_and_origin_are_kept(dog):
    source, parts = dog
    registry.add_note("dog", photos=["here"], base="there", scores={"image": 0.5})
    small = truncation.truncate(source, parts, Goal(energy=0.6), "dog-small")
    entry = truncation.save(source, small)
    made, shapes = concept.read_header(entry.path)
    assert torch.equal(concept.read_tensors(entry.path)["token.1.text_encoder"], ROW)
    assert (made.tokens, made.base, made.method) == (source.manifest.tokens, source.manifest.base, "kv")
    (parent,) = made.parents
    assert parent["by"] == "compress"
    assert parent["name"] == "dog"
    assert parent["how"] == "energy 0.6"
    assert parent["sha256"] == hashlib.sha256(source.entry.path.read_bytes()).hexdigest()
    assert parent["error"] == pytest.approx(small.error, abs=1e-6)
    assert concept.is_low_rank(shapes)
    assert registry.note("dog-small") == {"photos": ["here"], "base": "there"}
    assert registry.dependents("dog") == ["dog-small"]


def test_a_compressed_one_is_compressed_from_its_factors(dog, opened):
    source, parts = dog
    ten = truncation.truncate(source, parts, Goal(rank=10), "ten")
    again = opened(dict(ten.tensors), "ten", parents=ten.manifest.parents)
    assert {part.name: len(part.values) for part in again[1]} == {K: 10, V: 10}
    four = truncation.truncate(*again, Goal(rank=4), "four")
    assert [parent["name"] for parent in four.manifest.parents] == ["dog", "ten"]
    for name, product in products(four.tensors).items():
        torch.testing.assert_close(product, truncated(source.tensors[name], 4), atol=3e-3, rtol=0)
    same = truncation.truncate(*again, Goal(rank=10), "same")
    assert same.ranks == {K: 0, V: 0}  # nothing would get smaller, so nothing is rounded again


def test_a_merge_is_compressed_as_its_dense_product_would_be(pair, opened):
    source, parts = pair
    dense = products(source.tensors)
    for goal in (Goal(energy=0.7), Goal(rank=2)):
        small = truncation.truncate(source, parts, goal, "small")
        other = truncation.truncate(*opened(dense, "dense"), goal, "small")
        assert small.ranks == other.ranks
        assert small.error == pytest.approx(other.error, abs=1e-4)
        assert "down" not in small.tensors
        assert small.manifest.report == {}  # its figures were the whole merge's
        assert [parent["name"] for parent in small.manifest.parents] == ["dog", "pair"]
        torch.testing.assert_close(products(small.tensors), products(other.tensors), atol=3e-3, rtol=0)


def test_a_merge_never_grows_and_keeps_its_shared_factor_while_it_is_used(pair):
    source, parts = pair
    sizes = []
    for rank in range(1, 13):
        small = truncation.truncate(source, parts, Goal(rank=rank), "small")
        sizes.append(small.bytes)
        left = [name for name, found in small.ranks.items() if not found]
        assert ("down" in small.tensors) == bool(left)
        for name, product in products(small.tensors).items():
            wanted = products(source.tensors)[name]
            torch.testing.assert_close(product, wanted if name in left else truncated(wanted, rank), atol=3e-3, rtol=0)
    assert sizes == sorted(sizes)
    errors = []
    for most in range(sizes[0] + 100, sizes[-1] + 400, 200):
        small = truncation.truncate(source, parts, Goal(bytes=most), "small")
        entry = truncation.save(source, small, force=True)
        assert entry.bytes <= most
        errors.append(small.error)
        assert products(concept.read_tensors(entry.path)).keys() == products(source.tensors).keys()
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0


def test_the_curve(dog):
    source, parts = dog
    points = truncation.curve(source, parts)
    assert [point.share for point in points] == list(truncation.SHARES)
    for one, other in itertools.pairwise(points):
        assert one.bytes >= other.bytes
        assert one.error <= other.error
        assert one.rank >= other.rank
    assert points[0].error == 0
    middle = truncation.truncate(source, parts, Goal(energy=0.6), "dog")
    assert (points[2].bytes, points[2].error) == (middle.bytes, middle.error)


def test_what_cannot_be_compressed(opened, saved, dog):
    with pytest.raises(InputError, match="changes no matrix"):
        opened({"token.1.text_encoder": ROW}, "word")
    source, parts = dog
    with pytest.raises(NameTakenError):
        truncation.save(source, truncation.truncate(source, parts, Goal(rank=1), "dog"))
    path = source.entry.path
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(ConceptError, match="cut short"):
        registry.find("dog")
    with pytest.raises(ConceptError):
        truncation.read(source.entry)


# ---------------------------------------------------------------- on a base


@pytest.fixture(scope="module", params=["sd_base", "sdxl_base"])
def base(request):
    return pipelines.load(str(request.getfixturevalue(request.param)), precision="fp32", device="cpu")


def test_a_compressed_concept_acts_as_its_truncated_matrices(base, opened):
    tokens = initializers.assign(base.tokenizers, [Token("dog")])
    tensors = {
        f"unet.{module}.weight": falling(weight.shape, seed) for seed, (module, weight) in enumerate(base.kv.items())
    }
    for name, encoder in zip(base.family.encoders, base.text_encoders, strict=True):
        tensors[concept.row_name(0, name)] = torch.randn(encoder.config.hidden_size)
    source, parts = opened(tensors, tokens=tokens)
    small = truncation.truncate(source, parts, Goal(rank=2), "small")
    entry = truncation.save(source, small)
    what = adapter.load_weights(base, tokens, concept.read_tensors(entry.path))
    features = torch.randn(2, 7, next(iter(base.kv.values())).shape[1], generator=torch.Generator().manual_seed(0))
    made = adapter.keys_and_values(base, what, features)
    for module, weight in base.kv.items():
        wanted = features @ (weight.float() + truncated(tensors[f"unet.{module}.weight"], 2)).T
        torch.testing.assert_close(made[module], wanted, atol=5e-3, rtol=1e-3)
    whole = adapter.keys_and_values(base, adapter.load_weights(base, tokens, tensors), features)
    assert all((made[module] - whole[module]).abs().max() > 0.05 for module in base.kv)


def test_methods_beyond_kv_compress_convolutions_and_leave_vectors(base, opened):
    parameters = {name: p for name, p in base.unet.named_parameters() if name.startswith("mid_block.resnets.0.")}
    generator = torch.Generator().manual_seed(4)
    tensors = {f"unet.{name}": torch.randn(p.shape, generator=generator).half() for name, p in parameters.items()}
    source, parts = opened(tensors, method="full")
    small = truncation.truncate(source, parts, Goal(rank=3), "small")
    assert small.ranks["unet.mid_block.resnets.0.conv1.weight"] == 3
    made = adapter.read_deltas(base, small.tensors)
    assert made.keys() == parameters.keys()
    for name, parameter in parameters.items():
        given = tensors[f"unet.{name}"].float()
        wanted = truncated(given.flatten(1), 3).reshape(given.shape) if given.dim() > 1 else given
        torch.testing.assert_close(deltas.dense(made[name], parameter.shape), wanted, atol=3e-2, rtol=0)
