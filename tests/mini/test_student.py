"""Training: the loop and its optimizers, compiled gradients, names, banks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cdtool.mini.factory import ahead, bank, compiling, denoiser, keeping, muon
from cdtool.mini.factory.loop import Pace, fit
from cdtool.mini.factory.student import SPREAD, VIEW, Attention, Namer


def task(seed=0):
    """A small regression: a model, and its loss on the batch of an update."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 32))
    wanted = torch.randn(32, 32, generator=torch.Generator().manual_seed(9)) / 6

    def loss(update):
        x = torch.randn(16, 32, generator=torch.Generator().manual_seed(update))
        return (model(x.to(model[0].weight.dtype)).float() - x @ wanted).pow(2).mean()

    return model, loss


@pytest.mark.parametrize("with_muon", [False, True])
def test_a_training_learns_and_goes_on_where_it_stopped(tmp_path, with_muon):
    pace = Pace(pictures=16 * 120, batch=16, rate=1e-2, warm=1, cooling=0.0, muon=with_muon)
    for folder, halves in (("once", [120]), ("twice", [60, 120])):
        (tmp_path / folder).mkdir()
        for until in halves:
            model, loss = task()
            shorter = Pace(**{**vars(pace), "pictures": 16 * until})
            reports = list(fit("model", model, loss, tmp_path / folder, shorter))
    once, twice = (torch.load(tmp_path / folder / "model.pt") for folder in ("once", "twice"))
    assert once["update"] == twice["update"] == 120
    assert reports[-1].pictures == 16 * 120
    for name, weights in once["model"].items():
        assert weights.dtype == torch.float32
        assert torch.allclose(weights, twice["model"][name], atol=1e-5), name
    fresh, loss = task()
    before = float(loss(0).detach())
    fresh.load_state_dict(once["average"])
    assert float(loss(0).detach()) < 0.6 * before


def test_the_moving_average_follows_from_the_first_update_on(tmp_path):
    model, loss = task()
    list(fit("model", model, loss, tmp_path, Pace(16, 16, 1e-2, warm=1, cooling=0)))
    state = torch.load(tmp_path / "model.pt")
    start = dict(task()[0].named_parameters())
    for name, one in state["average"].items():
        decay = 2 / 21
        assert torch.allclose(one, decay * start[name] + (1 - decay) * state["model"][name], atol=1e-6)


def test_orthogonal_keeps_the_singular_vectors_and_evens_the_values():
    torch.manual_seed(0)
    matrix = torch.randn(40, 64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    made = muon.orthogonal(matrix[None])[0].float()
    assert torch.allclose(made, muon.orthogonal(matrix.T[None])[0].float().T, atol=0.02)
    diagonal = (u.T @ made @ v.T).diagonal()
    assert diagonal.min() > 0.5
    assert diagonal.max() < 1.4
    assert torch.nn.functional.cosine_similarity(made.flatten(), (u @ v).flatten(), 0) > 0.95


def test_twice_is_what_interpolate_does():
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(compiling.twice(x), torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))


def test_names_are_of_one_length_and_differ_with_what_is_seen():
    torch.manual_seed(0)
    namer = Namer(24)
    views = torch.rand(3, 3, VIEW, VIEW) * 2 - 1
    names = namer(views)
    assert torch.allclose(names.pow(2).mean(-1).sqrt(), torch.full((3,), SPREAD), rtol=0.01)
    assert not torch.allclose(names[0], names[1], atol=1e-3)


class Tokenizer:
    """As much of one as a student needs."""

    model_max_length, bos_token_id, eos_token_id, pad_token_id = 8, 58, 59, 59

    def __len__(self):
        return 60

    def __call__(self, texts, **_):
        return {"input_ids": torch.tensor([[58] + [59] * 7] * len(texts))}

    def get_vocab(self):
        return {"ktn</w>": 40, "zqv</w>": 41}


SMALL = denoiser.Shape(
    channels=4, widths=(32, 32), heads=(2, 2), transformers=(1, 1), text_width=32, text_layers=1,
    pace=Pace(pictures=24, batch=8, rate=1e-3, muon=True),
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    """A small student for a tokenizer that is none."""
    torch.manual_seed(0)
    return denoiser.student(SMALL, Tokenizer()).eval()


def test_a_name_changes_the_features_of_its_place_and_of_what_follows(small):
    ids = torch.tensor([[58, 3, 40, 7, 59, 59, 59, 59]])
    views = torch.rand(1, 2, 3, VIEW, VIEW) * 2 - 1
    plain, named = small.features(ids), small.features(ids, views)
    assert torch.equal(plain[:, :2], named[:, :2])
    assert not torch.allclose(plain[:, 2], named[:, 2], atol=1e-3)
    other = small.features(ids, torch.cat([views[:, :1], -views[:, 1:]], 1))
    assert torch.equal(named, other)  # the second name does not occur


def test_features_are_those_of_the_text_encoder_as_it_ships(small):
    ids = torch.tensor([[58, 3, 9, 7, 5, 59, 59, 59], [58, 59, 59, 59, 59, 59, 59, 59]])
    assert torch.allclose(small.features(ids), small.text(ids).last_hidden_state, atol=1e-5)


def test_plain_attention_is_that_of_diffusers(small):
    from diffusers.models.attention_processor import AttnProcessor2_0

    noisy, t, text = torch.randn(2, 4, 8, 8), torch.tensor([3, 500]), torch.randn(2, 8, 32)
    small.unet.set_attn_processor(Attention())
    plain = small.unet(noisy, t, text).sample
    small.unet.set_attn_processor(AttnProcessor2_0())
    assert torch.allclose(plain, small.unet(noisy, t, text).sample, atol=1e-4)
    small.unet.set_attn_processor(Attention())


def test_what_is_kept_begins_the_training_elsewhere(tmp_path):
    model, loss = task()
    list(fit("student", model, loss, tmp_path, Pace(16 * 20, 16, 1e-2, warm=1, cooling=0)))
    (tmp_path / "there" / "kept").mkdir(parents=True)
    for path in keeping.keep(tmp_path, "student"):
        path.rename(tmp_path / "there" / "kept" / path.name)
    keeping.restore(tmp_path / "there", "student")
    before, after = (torch.load(folder / "student.pt") for folder in (tmp_path, tmp_path / "there"))
    assert after["update"] == before["update"] == 20
    for name, weights in before["average"].items():
        assert torch.allclose(after["model"][name], weights, rtol=0.01, atol=1e-3)
    model, loss = task()
    reports = list(fit("student", model, loss, tmp_path / "there", Pace(16 * 21, 16, 1e-2, warm=1, cooling=0)))
    assert reports[-1].pictures == 16 * 21


def test_kept_files_are_small(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "MOST", 3000)
    weights = {str(at): torch.randn(10, 100) for at in range(5)}
    parts = list(keeping._parts(weights))
    assert [len(part) for part in parts] == [1, 1, 1, 1, 1]
    monkeypatch.setattr(keeping, "MOST", 4000)
    assert [sorted(part) for part in keeping._parts(weights)] == [["0", "1"], ["2", "3"], ["4"]]


def test_only_one_process_makes_a_shard(tmp_path):
    path = tmp_path / "00001.pt"
    with bank.claimed(path) as first, bank.claimed(path) as second:
        assert first
        assert not second
    with bank.claimed(path) as again:
        assert again


@pytest.mark.parametrize("count", [0, 2])
def test_batches_come_in_the_order_of_their_updates(count):
    drawn = ahead.batches(numbered, count)
    assert [int(drawn(update)[0]) for update in range(5, 12)] == list(range(5, 12))


def numbered(update):
    """The batch of an update that tells which it is."""
    return np.full(3, update)


def fake_bank(folder, numbers=(0, bank.CHECKED)):
    """Shards of noise."""
    (folder / "bank").mkdir()
    for number in numbers:
        rng = torch.Generator().manual_seed(number)
        ids = torch.cat([torch.full((1024, 1), 58), torch.randint(0, 57, (1024, 3), generator=rng),
                         torch.full((1024, 4), 59)], 1)  # fmt: skip
        views = torch.randint(0, 255, (1024, 2, 3, VIEW, VIEW), generator=rng, dtype=torch.uint8)
        torch.save((torch.randn(1024, 4, 8, 8, generator=rng).half(), ids.short(), views), bank.path_of(folder, number))


def test_a_student_learns_from_the_bank_and_is_checked_on_another(tmp_path, monkeypatch):
    monkeypatch.setattr(denoiser, "compiled", lambda function: function)
    fake_bank(tmp_path)
    reports = list(denoiser.train(SMALL, Tokenizer(), tmp_path, 1.0))
    assert [one.name for one in reports[-3:]] == ["student", "checked", "matched"]
    assert all(np.isfinite(one.loss) and one.pictures == 24 for one in reports[-3:])
    trained, fresh = (
        denoiser.averaged(SMALL, Tokenizer(), tmp_path / "student.pt"),
        denoiser.student(SMALL, Tokenizer()),
    )
    assert not trained.text.embeddings.position_embedding.weight.any()
    moved = [
        not torch.allclose(one, other) for one, other in zip(trained.parameters(), fresh.parameters(), strict=True)
    ]
    assert np.mean(moved) > 0.5


def test_matching_is_best_where_pictures_and_captions_are_each_other_s():
    logits = torch.eye(4) * 9
    nobody = torch.zeros(4, dtype=torch.bool)
    assert denoiser.matched(logits, nobody) < 0.01 < denoiser.matched(logits.roll(1, 0), nobody)
    dropped = torch.tensor([False, False, True, True])
    swapped = logits.clone()
    swapped[2:] = logits[2:].flip(0)
    assert torch.isclose(denoiser.matched(swapped, dropped), denoiser.matched(torch.eye(2) * 9, nobody[:2]))


def test_a_word_means_the_same_without_what_stands_before_it(small):
    alone, later = torch.tensor([[7, 59, 59]]), torch.tensor([[7, 7, 59]])
    assert torch.allclose(small.features(alone)[0, 0], small.features(later)[0, 1], atol=1e-5)
