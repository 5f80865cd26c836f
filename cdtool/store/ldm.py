"""CompVis (LDM) checkpoints in diffusers' terms: parameter names, and the configurations that tensor shapes imply."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cdtool.errors import BaseError

Shapes = Mapping[str, tuple[int, ...]]  # by parameter name, without the component's prefix

RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
UNET = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip
_UNET_BLOCK = re.compile(r"(?:(input|output)_blocks\.(\d+)|middle_block)\.(\d)\.(.+)")
_VAE_BLOCK = re.compile(r"(encoder|decoder)\.(?:down|up)\.(\d+)\.(?:block\.(\d+)|(?:down|up)sample)\.(.+)")
_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid\.(block|attn)_(\d)\.(.+)")
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_OPEN_CLIP = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj", "attn.in_proj": "self_attn.{}_proj",
}  # fmt: skip


# ---------------------------------------------------------------- names


def unet_name(name: str, layers: int) -> str:
    """diffusers' name of a denoiser parameter; `layers` is the number of layers per block."""
    owner, _, leaf = name.rpartition(".")
    if owner in UNET:
        return f"{UNET[owner]}.{leaf}"
    found = _UNET_BLOCK.fullmatch(name)
    if found is None:
        return name
    way, number, member, rest = found[1], int(found[2] or 0), int(found[3]), found[4]
    if way is None:
        kind, index = ("attentions", 0) if member == 1 else ("resnets", member // 2)
        return f"mid_block.{kind}.{index}.{_resnet(rest) if kind == 'resnets' else rest}"
    # Each block of the way down is `layers` layers and a downsampler, each of the way up one layer more.
    block, layer = divmod(number - (way == "input"), layers + 1)
    place = f"{'down' if way == 'input' else 'up'}_blocks.{block}"
    if rest.startswith("op."):
        return f"{place}.downsamplers.0.conv.{leaf}"
    if rest.startswith("conv."):
        return f"{place}.upsamplers.0.conv.{leaf}"
    return f"{place}.attentions.{layer}.{rest}" if member == 1 else f"{place}.resnets.{layer}.{_resnet(rest)}"


def vae_name(name: str, levels: int) -> str:
    """diffusers' name of an autoencoder parameter; `levels` is the number of resolutions."""
    name = name.replace("norm_out.", "conv_norm_out.")
    if found := _VAE_MIDDLE.fullmatch(name):
        half, kind, number, rest = found.groups()
        inner, dot, leaf = rest.rpartition(".")
        if kind == "attn":
            return f"{half}.mid_block.attentions.0.{_VAE_ATTENTION.get(inner, inner)}{dot}{leaf}"
        return f"{half}.mid_block.resnets.{int(number) - 1}.{_shortcut(rest)}"
    if found := _VAE_BLOCK.fullmatch(name):
        half, number, layer, rest = found.groups()
        down = half == "encoder"
        place = f"{half}.{'down' if down else 'up'}_blocks.{int(number) if down else levels - 1 - int(number)}"
        if layer is None:
            return f"{place}.{'down' if down else 'up'}samplers.0.{rest}"
        return f"{place}.resnets.{layer}.{_shortcut(rest)}"
    return name


def open_clip_name(name: str) -> str:
    """transformers' name of an OpenCLIP text parameter; "{}" in it stands for q, k and v, stacked in one tensor."""
    if name in _OPEN_CLIP:
        return _OPEN_CLIP[name]
    found = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", name)
    if found is None or found[2] not in _OPEN_CLIP_LAYER:
        return name
    return f"text_model.encoder.layers.{found[1]}.{_OPEN_CLIP_LAYER[found[2]]}.{found[3]}"


def clip_name(name: str) -> str:
    """transformers' name of a CLIP text parameter; the oldest files leave its first part out."""
    return name if name.startswith("text_model.") else f"text_model.{name}"


def _resnet(rest: str) -> str:
    owner, _, leaf = rest.rpartition(".")
    return f"{RESNET.get(owner, owner)}.{leaf}"


def _shortcut(rest: str) -> str:
    return rest.replace("nin_shortcut", "conv_shortcut")


# ---------------------------------------------------------------- configurations


def layers_per_block(shapes: Shapes) -> int:
    """Layers per block of a denoiser: what stands before its first downsampler."""
    downsamplers = _numbers(shapes, r"input_blocks\.(\d+)\.0\.op\.weight")
    if not downsamplers:
        raise BaseError("Its denoiser has no downsampler, so it is not a Stable Diffusion UNet.")
    return downsamplers[0] - 1


def unet_config(shapes: Shapes, *, heads: int | None, pooled: int | None) -> dict[str, Any]:
    """The configuration of a denoiser by its shapes; raises BaseError for blocks of uneven depth.

    `heads` is the number of attention heads, None where a head is 64 wide; `pooled` the width of the pooled text that
    enters the time embedding, None where none does.
    """
    layers = layers_per_block(shapes)
    levels = len(_numbers(shapes, r"input_blocks\.(\d+)\.0\.op\.weight")) + 1
    firsts = [1 + level * (layers + 1) for level in range(levels)]
    channels = [shapes[f"input_blocks.{first}.0.out_layers.3.weight"][0] for first in firsts]
    depths = [_depth(shapes, f"input_blocks.{first}.1") for first in firsts]
    middle = _depth(shapes, "middle_block.1")
    downs = [_depth(shapes, f"input_blocks.{first + layer}.1") for first in firsts for layer in range(layers)]
    ups = [_depth(shapes, f"output_blocks.{index}.1") for index in range(levels * (layers + 1))]
    even = [depth for depth in depths for _ in range(layers)] == downs
    if not even or [depth for depth in depths[::-1] for _ in range(layers + 1)] != ups or depths[-1] not in (0, middle):
        raise BaseError("The transformer depths of its denoiser are uneven, as in distilled models.",
                        "Use its diffusers folder instead of the single file.")  # fmt: skip
    down_types = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    config: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": down_types,
        "up_block_types": [name.replace("Down", "Up") for name in down_types[::-1]],
        "transformer_layers_per_block": [depth or middle for depth in depths],
        "cross_attention_dim": shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        "attention_head_dim": heads
        or [max(1, width // 64) for width in channels],  # diffusers' name for the number of heads
        "use_linear_projection": len(shapes["middle_block.1.proj_in.weight"]) == 2,
    }
    if pooled is not None:
        taken = shapes["label_emb.0.0.weight"][1]
        config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": (taken - pooled) // 6,
                   "projection_class_embeddings_input_dim": taken}  # fmt: skip
    return config


def vae_levels(shapes: Shapes) -> int:
    """Resolutions of an autoencoder."""
    return len(_numbers(shapes, r"encoder\.down\.(\d+)\.block\.0\.conv1\.weight"))


def vae_config(shapes: Shapes, *, scaling: float) -> dict[str, Any]:
    """The configuration of an autoencoder by its shapes; `scaling` is what its latents are multiplied by."""
    levels = vae_levels(shapes)
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": len(_numbers(shapes, r"encoder\.down\.0\.block\.(\d+)\.conv1\.weight")),
        "latent_channels": shapes["post_quant_conv.weight"][1],
        "scaling_factor": scaling,
    }


def text_config(shapes: Shapes, *, act: str, projected: bool, pad: int) -> dict[str, Any]:
    """The configuration of a CLIP text encoder by its shapes under transformers' names; heads are 64 wide."""
    vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
    projection = shapes.get("text_projection.weight", (width,))[0]
    return {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": len(_numbers(shapes, r"text_model\.encoder\.layers\.(\d+)\.mlp\.fc1\.weight")),
        "num_attention_heads": max(1, width // 64),
        "max_position_embeddings": shapes["text_model.embeddings.position_embedding.weight"][0],
        "projection_dim": projection,
        "hidden_act": act,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": pad,
    }


def _numbers(shapes: Shapes, pattern: str) -> list[int]:
    return sorted(int(found[1]) for name in shapes if (found := re.fullmatch(pattern, name)))


def _depth(shapes: Shapes, place: str) -> int:
    return len(_numbers(shapes, rf"{re.escape(place)}\.transformer_blocks\.(\d+)\.attn2\.to_k\.weight"))
