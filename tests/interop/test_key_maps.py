"""How other programs spell modules: against the tables of docs/differences.md 1.1 and 6."""

from __future__ import annotations

import pytest

from cdtool.interop import key_maps

REST = "transformer_blocks.0.attn2.to_k"
SD1 = {f"down_blocks.{i}.attentions.{j}": f"input_blocks.{n}.1"
       for n, (i, j) in zip((1, 2, 4, 5, 7, 8), ((i, j) for i in range(3) for j in range(2)), strict=True)}  # fmt: skip
SD1 |= {"mid_block.attentions.0": "middle_block.1"}
SD1 |= {f"up_blocks.{1 + n // 3}.attentions.{n % 3}": f"output_blocks.{3 + n}.1" for n in range(9)}
SDXL = {
    "down_blocks.1.attentions.0": "input_blocks.4.1",
    "down_blocks.2.attentions.1": "input_blocks.8.1",
    "mid_block.attentions.0": "middle_block.1",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.attentions.2": "output_blocks.2.1",
    "up_blocks.1.attentions.2": "output_blocks.5.1",
}


@pytest.mark.parametrize(("ours", "theirs"), [*SD1.items(), *SDXL.items()])
def test_compvis_counts_blocks_through(ours, theirs):
    assert key_maps.to_ldm(f"{ours}.{REST}", 2) == f"{theirs}.{REST}"
    assert key_maps.from_ldm(f"model.diffusion_model.{theirs}.{REST}.weight", 2) == f"{ours}.{REST}.weight"


def test_what_is_no_attention_block_stays():
    assert key_maps.to_ldm("conv_in", 2) is None
    for name in ("model.diffusion_model.input_blocks.3.0.op.weight", "model.diffusion_model.out.2.weight"):
        assert key_maps.from_ldm(name, 2) == name


def test_flat_names():
    module = f"down_blocks.1.attentions.0.{REST}"
    plain = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    compvis = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    assert key_maps.to_flat(module) == plain
    assert key_maps.to_flat(module, 2) == compvis
    assert key_maps.flat_names([module], 2) == {plain: module, compvis: module}


def test_processor_names():
    owner = "mid_block.attentions.0.transformer_blocks.0.attn2"
    pairs = {
        "to_k.weight": "to_k_custom_diffusion.weight",
        "to_q.weight": "to_q_custom_diffusion.weight",
        "to_out.0.weight": "to_out_custom_diffusion.0.weight",
        "to_out.0.bias": "to_out_custom_diffusion.0.bias",
    }
    for ours, theirs in pairs.items():
        assert key_maps.to_processor(f"{owner}.{ours}") == f"{owner}.processor.{theirs}"
        assert key_maps.from_processor(f"{owner}.processor.{theirs}") == f"{owner}.{ours}"
    for other in ("conv_in.weight", f"{owner}.to_k.bias", f"{owner}.norm.weight"):
        assert key_maps.to_processor(other) is None
        assert key_maps.from_processor(other) is None
