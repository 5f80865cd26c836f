"""Single-file checkpoints as model sites have them, written from small random pipelines by a mapping made by hand.

The mapping walks the blocks by number; the one in `cdtool.store.ldm` reads the names.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

RESNET = (("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"),
          ("norm2", "out_layers.0"), ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection"))  # fmt: skip
OPEN_CLIP = (("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("mlp.fc1", "mlp.c_fc"),
             ("layer_norm2", "ln_2"), ("mlp.fc2", "mlp.c_proj"))  # fmt: skip
RESOLUTION = {"modelspec.resolution": "64x64"}  # what the small ones draw
CHANNELS = (32, 64)
SMALL = 512  # entries of the vocabulary where nothing is encoded; CLIP has 49408


def moved(weights, pairs):
    """Weights whose owners begin with the first name of a pair, under the second."""
    made = {}
    for name, value in weights.items():
        pair = next((pair for pair in pairs if name.startswith(pair[0] + ".")), None)
        made[pair[1] + name[len(pair[0]) :] if pair else name] = value
    return made


def unet_pairs(unet):
    pairs = [("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"),
             ("add_embedding.linear_1", "label_emb.0.0"), ("add_embedding.linear_2", "label_emb.0.2"),
             ("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"),
             ("mid_block.attentions.0", "middle_block.1")]  # fmt: skip
    resnets = [("mid_block.resnets.0", "middle_block.0"), ("mid_block.resnets.1", "middle_block.2")]
    number = 1
    for level, block in enumerate(unet.down_blocks):
        for layer in range(len(block.resnets)):
            resnets.append((f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{number}.0"))
            pairs.append((f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{number}.1"))
            number += 1
        if block.downsamplers:
            pairs.append((f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{number}.0.op"))
            number += 1
    number = 0
    for level, block in enumerate(unet.up_blocks):
        attends = hasattr(block, "attentions")
        for layer in range(len(block.resnets)):
            resnets.append((f"up_blocks.{level}.resnets.{layer}", f"output_blocks.{number}.0"))
            pairs.append((f"up_blocks.{level}.attentions.{layer}", f"output_blocks.{number}.1"))
            number += 1
        pairs.append((f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{number - 1}.{1 + attends}.conv"))
    return pairs + [(f"{new}.{a}", f"{old}.{b}") for new, old in resnets for a, b in RESNET]


def vae_weights(vae):
    levels = len(vae.config.block_out_channels)
    pairs = []
    for half, way in (("encoder", "down"), ("decoder", "up")):
        blocks = getattr(getattr(vae, half), f"{way}_blocks")
        for level, block in enumerate(blocks):
            place = level if way == "down" else levels - 1 - level
            for layer in range(len(block.resnets)):
                new, old = f"{half}.{way}_blocks.{level}.resnets.{layer}", f"{half}.{way}.{place}.block.{layer}"
                pairs += [(f"{new}.conv_shortcut", f"{old}.nin_shortcut"), (new, old)]
            pairs.append(
                (f"{half}.{way}_blocks.{level}.{way}samplers.0.conv", f"{half}.{way}.{place}.{way}sample.conv")
            )
        middle = f"{half}.mid_block.attentions.0"
        for new, old in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            pairs.append((f"{middle}.{new}", f"{half}.mid.attn_1.{old}"))
        for index in (0, 1):
            pairs.append((f"{half}.mid_block.resnets.{index}", f"{half}.mid.block_{index + 1}"))
        pairs.append((f"{half}.conv_norm_out", f"{half}.norm_out"))
    made = moved(vae.state_dict(), pairs)
    return {name: value[..., None, None] if ".attn_1." in name and value.dim() == 2 else value
            for name, value in made.items()}  # fmt: skip


def open_clip(weights, layers, extra_layer=False):
    """A CLIP text encoder's weights as OpenCLIP stacks and names them."""
    made = {
        "positional_embedding": weights["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": weights["text_model.embeddings.token_embedding.weight"],
        "logit_scale": torch.ones(()),
    }
    for kind in ("weight", "bias"):
        made[f"ln_final.{kind}"] = weights[f"text_model.final_layer_norm.{kind}"]
    for layer in range(layers):
        new, old = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            stacked = [weights[f"{new}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            made[f"{old}.attn.in_proj_{kind}"] = torch.cat(stacked)
            for ours, theirs in OPEN_CLIP:
                made[f"{old}.{theirs}.{kind}"] = weights[f"{new}.{ours}.{kind}"]
    if extra_layer:  # SD 2.x files hold the last layer that its encoder does not use
        last = f"transformer.resblocks.{layers - 1}."
        made |= {name.replace(last, f"transformer.resblocks.{layers}."): torch.randn_like(value)
                 for name, value in made.items() if name.startswith(last)}  # fmt: skip
    projection = weights.get("text_projection.weight", torch.eye(made["ln_final.weight"].shape[0]))
    return made | {"text_projection": projection.T.contiguous()}


def text_weights(encoder):
    """A text encoder's weights under the names of its public files, whatever this transformers calls them."""
    weights = encoder.state_dict()
    return {name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}": value
            for name, value in weights.items()}  # fmt: skip


# ---------------------------------------------------------------- the small ones


def _text(act, projected=False, *, vocabulary, width=64, layers=2):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, max_position_embeddings=77, projection_dim=width, hidden_act=act,
        bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=0 if projected else vocabulary - 1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=CHANNELS, latent_channels=4, layers_per_block=1, sample_size=64,
    ).eval()  # fmt: skip


def _unet(width, heads, **more):
    from diffusers import UNet2DConditionModel

    settings = {
        "sample_size": 32, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "layers_per_block": 2,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "block_out_channels": CHANNELS,
        "cross_attention_dim": width, "attention_head_dim": heads,
    }  # fmt: skip
    return UNet2DConditionModel(**settings | more).eval()


def parts(kind, vocabulary=SMALL, **unet):
    """The random components of a small checkpoint: unet, vae and text encoders."""
    torch.manual_seed(3)
    if kind == "sd1":
        return _unet(64, 8, **unet), _vae(), (_text("quick_gelu", vocabulary=vocabulary),)
    if kind == "sd2":
        return _unet(64, [1, 1], use_linear_projection=True, **unet), _vae(), (_text("gelu", vocabulary=vocabulary),)
    more = {
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64 + 6 * 8, "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": [1, 2],
    }  # fmt: skip
    texts = (_text("quick_gelu", vocabulary=vocabulary), _text("gelu", projected=True, vocabulary=vocabulary))
    return _unet(128, [1, 1], **more | unet), _vae(), texts


def weights(kind, unet, vae, texts):
    """The components in one table, under CompVis names."""
    made = {
        f"model.diffusion_model.{name}": value for name, value in moved(unet.state_dict(), unet_pairs(unet)).items()
    }
    made |= {f"first_stage_model.{name}": value for name, value in vae_weights(vae).items()}
    first = text_weights(texts[0])
    layers = [encoder.config.num_hidden_layers for encoder in texts]
    if kind == "sd1":
        made |= {f"cond_stage_model.transformer.{name}": value for name, value in first.items()}
        made["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
        made |= {"alphas_cumprod": torch.ones(1000), "model_ema.decay": torch.ones(())}
    elif kind == "sd2":
        stacked = open_clip(first, layers[0], extra_layer=True)
        made |= {f"cond_stage_model.model.{name}": value for name, value in stacked.items()}
    else:
        made |= {f"conditioner.embedders.0.transformer.{name}": value for name, value in first.items()}
        stacked = open_clip(text_weights(texts[1]), layers[1])
        made |= {f"conditioner.embedders.1.model.{name}": value for name, value in stacked.items()}
    return made


def write(path: Path, kind="sd1", *, marks=(), metadata=None, dtype=torch.float16, vocabulary=SMALL, **unet) -> Path:
    """A small random checkpoint of kind "sd1", "sd2" or "sdxl"; `marks` are names of empty tensors, such as v_pred."""
    table = weights(kind, *parts(kind, vocabulary, **unet)) | {mark: torch.zeros(0) for mark in marks}
    table = {name: value.to(dtype) if value.is_floating_point() else value for name, value in table.items()}
    save_file({name: value.contiguous() for name, value in table.items()}, path, metadata=RESOLUTION | (metadata or {}))
    return path
