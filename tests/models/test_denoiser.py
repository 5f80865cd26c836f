"""A base's denoiser: its text-only K/V, also counted at full size on the meta device, and its stored weights."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_pipelines import SD1_UNET, SDXL_UNET
from torch import nn

from cdtool import settings
from cdtool.models import denoiser, pipelines


class Attention(nn.Module):
    def __init__(self, width, cross):
        super().__init__()
        self.to_k, self.to_v = nn.Linear(width, 4), nn.Linear(width, 4)
        self.is_cross_attention = cross


def test_kv_are_told_by_what_feeds_them_and_not_by_their_name():
    unet = nn.Module()
    unet.config = type("Config", (), {"cross_attention_dim": 6})
    unet.attn2 = Attention(6, cross=False)  # named like cross-attention, fed by the picture
    unet.fusion = Attention(6, cross=True)
    unet.image_prompt = Attention(5, cross=True)  # cross-attention to something that is not the text
    assert denoiser.text_kv(unet) == ["fusion.to_k", "fusion.to_v"]


def test_names_of_kv_are_kept_and_a_damaged_entry_is_made_again(sd_base, monkeypatch):
    config = json.loads((sd_base / "unet" / "config.json").read_text())
    names = denoiser.text_kv(denoiser.empty_unet(config))
    assert denoiser.kv_names(config) == names
    (kept,) = (settings.cache_dir() / "kv").iterdir()
    kept.write_text('["half')
    assert denoiser.kv_names(config) == names
    monkeypatch.setattr(denoiser, "empty_unet", None)  # nothing is built for what is known
    assert denoiser.kv_names(config) == names
    with pytest.raises(TypeError):
        denoiser.kv_names(config | {"sample_size": 16})


def test_only_cross_attention_blocks_have_text_in_both_attentions(sd_base):
    config = json.loads((sd_base / "unet" / "config.json").read_text())
    plain = denoiser.text_kv(denoiser.empty_unet(config))
    both = denoiser.text_kv(denoiser.empty_unet(config | {"only_cross_attention": True}))
    assert {name.split(".")[-2] for name in plain} == {"attn2"}
    assert {name.split(".")[-2] for name in both} == {"attn1", "attn2"}
    assert set(plain) < set(both)


@pytest.mark.parametrize(
    ("config", "matrices", "numbers", "rows"),
    [(SD1_UNET, 32, 19_169_280, (768,)), (SDXL_UNET, 140, 340_787_200, (768, 1280))],
    ids=["sd1", "sdxl"],
)
def test_the_public_shapes_train_what_the_paper_trains(config, matrices, numbers, rows):
    unet = denoiser.empty_unet(config)
    names = denoiser.text_kv(unet)
    weights = [unet.get_submodule(name).weight for name in names]
    assert len(set(names)) == matrices
    assert sum(weight.numel() for weight in weights) == numbers
    assert {weight.shape[1] for weight in weights} == {sum(rows)}
    assert all(unet.get_submodule(name).bias is None for name in names)


def test_read_kv_reads_what_the_denoiser_holds(sd_base):
    base = pipelines.load(str(sd_base), precision="fp32")
    for name, weight in base.kv.items():
        assert torch.equal(weight, base.unet.get_submodule(name).weight)


def test_the_fingerprint_follows_names_values_and_shapes():
    one = {"a": torch.ones(2, 3), "b": torch.zeros(2, 3)}
    swapped = {"b": torch.ones(2, 3), "a": torch.zeros(2, 3)}
    found = [denoiser.fingerprint(kv) for kv in (one, swapped, {"a": torch.ones(3, 2), "b": torch.zeros(2, 3)})]
    assert len(set(found)) == 3
    assert denoiser.fingerprint(dict(reversed(one.items()))) == found[0]


def test_the_full_weights_win_over_a_variant_beside_them(tmp_path):
    for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"):
        (tmp_path / name).touch()
    assert [path.name for path in denoiser.weight_files(tmp_path)] == ["diffusion_pytorch_model.safetensors"]
