"""Regularization captions: what is shipped, and R against a plain sum over every position of every caption."""

from __future__ import annotations

import collections
import io
import json
import tarfile

import pytest
import torch

from cdtool import settings
from cdtool.errors import InputError, NotFoundError
from cdtool.models import pipelines, text
from cdtool.priors import captions as reg_captions
from cdtool.tokens import Prompt

CAPTIONS = ["photo of a dog", "a cat on the beach", "the beach", "photo of the cat in front of a dog", "in"]


@pytest.fixture(scope="module", params=["sd_base", "sdxl_base"])
def base(request):
    return pipelines.load(str(request.getfixturevalue(request.param)), precision="fp32", device="cpu", parts=("text",))


def plain(base, captions):
    """The features [l, d] of each caption, padded, and the position of its end."""
    for caption in captions:
        prompt = text.tokenize(base, Prompt((caption,), frozenset()), ())
        with torch.no_grad():
            row = text.encode(base, [prompt]).features[0].double()
        yield row, prompt.ids[0].index(base.tokenizers[0].eos_token_id, 1)


# ---------------------------------------------------------------- captions


def test_the_shipped_captions_are_many_different_and_of_a_natural_length():
    captions = reg_captions.read(reg_captions.SHIPPED)
    lines = reg_captions.SHIPPED.read_text(encoding="utf-8").splitlines()
    assert 950 <= len(captions) <= reg_captions.MOST
    assert len(set(lines)) == len(lines)
    assert all(5 <= len(line.split()) <= 16 for line in lines)
    assert all(line.isascii() for line in lines)
    words = collections.Counter(word.strip(".").lower() for line in lines for word in line.split())
    assert len(words) > 900
    for kind in ("dog", "woman", "soup", "harbour", "guitar", "painting", "snow", "running", "bus", "kitchen"):
        assert words[kind], kind


def test_captions_are_the_users_else_the_bases_else_the_shipped(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("a dog\n\n  a   cat \na dog\n", encoding="utf-8")
    base = tmp_path / "base"
    base.mkdir()
    assert reg_captions.find(None, base) == reg_captions.SHIPPED
    (base / "cdtool.toml").write_text('[merge]\ncaptions = "own.txt"\n', encoding="utf-8")
    with pytest.raises(NotFoundError, match=r"own\.txt"):
        reg_captions.find(None, base)
    (base / "own.txt").write_text("a beach\n", encoding="utf-8")
    assert reg_captions.find(None, base) == base / "own.txt"
    assert reg_captions.find(mine, base) == mine
    assert reg_captions.read(mine) == ["a dog", "a cat"]


def test_a_corpus_gives_its_captions(tmp_path):
    path = tmp_path / "corpus.tar"
    lines = "".join(json.dumps({"file_name": f"{at}.webp", "text": f"thing {at}"}) + "\n" for at in range(3))
    with tarfile.open(path, "w") as tar:
        for name, content in [(f"{at}.webp", b"x") for at in range(3)] + [("captions.jsonl", lines.encode())]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert reg_captions.read(path) == ["thing 0", "thing 1", "thing 2"]


def test_more_than_enough_are_evenly_chosen(tmp_path):
    path = tmp_path / "many.txt"
    path.write_text("\n".join(f"thing {at}" for at in range(2500)), encoding="utf-8")
    found = reg_captions.read(path)
    assert len(found) == reg_captions.MOST
    assert found[0] == "thing 0"
    assert found[-1] == "thing 2497"


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00bad"])
def test_what_holds_no_caption_is_refused(tmp_path, content):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(InputError):
        reg_captions.read(path)


# ---------------------------------------------------------------- R


def test_r_is_the_mean_over_every_position(base):
    found = reg_captions.known(base, CAPTIONS)
    rows = torch.cat([row for row, _ in plain(base, CAPTIONS)])
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    assert torch.allclose(found.moment, rows.T @ rows / len(rows), atol=1e-5)
    assert (found.positions, found.captions) == (len(rows), len(CAPTIONS))
    assert found.width == rows.shape[1] - 1


def test_padding_of_some_captions_stands_for_that_of_all(base, monkeypatch):
    monkeypatch.setattr(reg_captions, "PADDED", 2)
    monkeypatch.setattr(reg_captions, "BATCH", 2)
    assert sorted(reg_captions.encode(base, CAPTIONS, "key")) == [0, 1, 2, 3, 4]
    found = reg_captions.stored("key")
    every, padding = [], []
    for at, (row, end) in enumerate(plain(base, CAPTIONS)):
        every.append(row[: end + 1])
        if at in (0, 2):
            padding.append(row[end + 1 :])
    one = [torch.cat([rows, torch.ones(len(rows), 1)], dim=1) for rows in (torch.cat(every), torch.cat(padding))]
    moment = one[0].T @ one[0] + 2.5 * one[1].T @ one[1]
    assert torch.allclose(found.moment, moment / moment[-1, -1], atol=1e-5)


def test_the_words_kept_are_words_without_start_and_padding(base):
    found = reg_captions.known(base, CAPTIONS)
    wanted = torch.cat([row[1 : end + 1] for row, end in plain(base, CAPTIONS)])
    assert torch.allclose(found.words, wanted, atol=1e-5)


# ---------------------------------------------------------------- the cache


def files():
    return list((settings.cache_dir() / "merge").iterdir())


def test_the_cache_knows_captions_and_encoders_apart(base):
    assert reg_captions.stored(reg_captions.key_of(base, CAPTIONS)) is None
    reg_captions.known(base, CAPTIONS)
    assert reg_captions.stored(reg_captions.key_of(base, CAPTIONS[:-1])) is None
    (entry,) = files()
    weight = base.text_encoders[-1].get_input_embeddings().weight.data
    kept = weight[0, 0].item()
    weight[0, 0] = kept + 1
    try:
        assert reg_captions.stored(reg_captions.key_of(base, CAPTIONS)) is None
    finally:
        weight[0, 0] = kept
    assert reg_captions.stored(reg_captions.key_of(base, CAPTIONS)) is not None
    assert entry.name == reg_captions.key_of(base, CAPTIONS)


@pytest.mark.parametrize("damage", [b"", b"not safetensors", None])
def test_a_damaged_entry_is_made_again(base, damage):
    reg_captions.known(base, CAPTIONS)
    (entry,) = files()
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert reg_captions.stored(reg_captions.key_of(base, CAPTIONS)) is None
    reg_captions.known(base, CAPTIONS)
    assert reg_captions.stored(reg_captions.key_of(base, CAPTIONS)) is not None
    assert files() == [entry]
