"""What is counted of memory against hand-made cases and against what a base really holds."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cdtool.errors import SettingsError
from cdtool.models import memory

CPU = torch.device("cpu")


@pytest.mark.parametrize(("text", "bytes_"), [("8GB", 8e9), ("8 gb", 8e9), ("7.5G", 7.5e9), ("900MB", 9e8)])
def test_sizes(text, bytes_):
    assert memory.limit(text, CPU) == bytes_


@pytest.mark.parametrize("text", ["", "8", "GB", "0GB", "-1GB", "much"])
def test_what_is_no_size(text):
    with pytest.raises(SettingsError, match="memory"):
        memory.limit(text, CPU)


def test_auto_is_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "_free", lambda _: 1000.0)
    assert memory.limit("auto", CPU) == 950


def test_the_peak_of_a_chain_is_two_neighbours():
    with torch.device("meta"):
        x = torch.empty(1000)

    def chain():
        made = x
        for _ in range(5):
            made = made + 1
        return made

    assert memory.peak(chain) == 2 * 4000  # the given one counts not, the one made from and the one made do


def test_views_are_counted_once_and_what_is_kept_is_counted_on():
    with torch.device("meta"):
        x = torch.empty(10, 100)

    def kept():
        made = [x * 2 for _ in range(3)]
        views = [one.view(-1)[:5] for one in made]
        del made
        return x + 1, views

    assert memory.peak(kept) == 4 * 4000


def test_attention_is_counted_without_all_pairs_of_cells():
    with torch.device("meta"):
        q = torch.empty(1, 1, 1000, 8)
    assert memory.peak(lambda: F.scaled_dot_product_attention(q, q, q)) == q.numel() * 4


def test_a_base_small_beside_the_memory_is_not_counted(sd_base):
    size = sum(path.stat().st_size for path in sd_base.rglob("*.safetensors"))
    assert memory.plenty(sd_base, memory.LIBRARY + 10 * size + 1)
    assert not memory.plenty(sd_base, memory.LIBRARY + 10 * size)


def test_more_and_larger_images_take_more(sd_base, sdxl_base):
    from cdtool.store import families

    for folder in (sd_base, sdxl_base):
        config = families.read(folder).unet
        one, two, large = (memory.denoising(config, side, side, count, torch.float32)
                           for side, count in ((8, 1), (8, 2), (16, 1)))  # fmt: skip
        assert one < two < large
        assert memory.denoising(config, 8, 8, 1, torch.bfloat16) == one // 2
        coded = [memory.coding(folder / "vae", 16, 16, count, torch.float32, decode=way)
                 for way in (True, False) for count in (1, 2)]  # fmt: skip
        assert coded[0] < coded[1]
        assert coded[2] < coded[3]
