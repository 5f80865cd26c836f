"""Kept latents: the bits that were put in, or nothing; by VAE, precision and resolution; never more than the limit."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from cdtool.models import pipelines
from cdtool.training import latents


@pytest.fixture(scope="module")
def base(sd_base):
    return pipelines.load(str(sd_base), precision="fp32", device="cpu", parts=("vae",))


def test_what_is_written_is_read_bit_by_bit(base):
    cache = latents.cache_of(base, 16)
    moments = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * 1e-30
    assert cache.read("a" * 64, False) is None
    cache.write("a" * 64, False, moments)
    assert torch.equal(cache.read("a" * 64, False), moments)
    assert cache.read("a" * 64, True) is None
    assert cache.read("b" * 64, False) is None


@pytest.mark.parametrize(
    "spoil", [lambda b: b[:-1], lambda b: b"", lambda b: b[:50] + b"x" + b[51:], lambda b: b"x" * 99]
)
def test_a_damaged_entry_is_none_and_goes(base, spoil):
    cache = latents.cache_of(base, 16)
    cache.write("a" * 64, False, torch.ones(2, 4, 8, 8))
    (path,) = cache.folder.iterdir()
    path.write_bytes(spoil(path.read_bytes()))
    assert cache.read("a" * 64, False) is None
    assert not path.exists()


def test_another_vae_precision_or_resolution_has_a_shelf_of_its_own(base, sd_base, tmp_path):
    copy = shutil.copytree(sd_base, tmp_path / "copy")
    same = pipelines.load(str(copy), precision="fp32", device="cpu", parts=("vae",))
    assert latents.cache_of(same, 16) == latents.cache_of(base, 16)
    assert latents.cache_of(base, 32) != latents.cache_of(base, 16)
    half = pipelines.load(str(sd_base), precision="bf16", device="cpu", parts=("vae",))
    assert latents.cache_of(half, 16) != latents.cache_of(base, 16)
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert latents.cache_of(same, 16) != latents.cache_of(base, 16)


def test_a_full_disk_only_means_encoding_again(base, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    cache = latents.cache_of(base, 16)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        cache.write("a" * 64, False, torch.ones(2, 4, 8, 8))
    assert cache.read("a" * 64, False) is None
    assert list(cache.folder.iterdir()) == []


def test_those_used_longest_ago_go_first(base):
    cache = latents.cache_of(base, 16)
    for number in range(4):
        cache.write(str(number) * 64, False, torch.ones(2, 4, 8, 8))
        os.utime(cache.folder / f"{str(number) * 64}.latents", (1000 + number,) * 2)
    cache.read("0" * 64, False)  # used just now
    size = next(cache.folder.iterdir()).stat().st_size
    assert latents.trim(2 * size) == 2
    assert [number for number in range(4) if cache.read(str(number) * 64, False) is not None] == [0, 3]
    assert latents.trim(2 * size) == 0
    assert latents.trim() == 0
