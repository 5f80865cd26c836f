"""Small random pipelines in the real format, one per family, for tests that need a base but no meaning."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = ("photo", "of", "a", "dog", "cat", "on", "the", "beach", "ktn", "pll", "ucd", "moongate", "in", "front")
POSITIONS = 77

# The denoisers of the public bases, as their config.json has them.
SD1_UNET = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 768, "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip
SDXL_UNET = {
    "sample_size": 128, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True,
    "block_out_channels": [320, 640, 1280], "layers_per_block": 2, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip


def merges():
    """Merges that make every word of WORDS one symbol."""
    made = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in made:
                made.append(pair)
            parts = ["".join(pair), *parts[2:]]
    return made


def tokenizer(folder: Path, pad: str = "<|endoftext|>"):
    from transformers import CLIPTokenizer

    from cdtool.mini.factory import words

    words.write(merges(), folder)
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=POSITIONS, pad_token=pad
    )


def _text_config(tokens, width, layers=2, projection=16):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=2, max_position_embeddings=POSITIONS, projection_dim=projection,
        bos_token_id=tokens.bos_token_id, eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id,
    )  # fmt: skip


def _vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, layers_per_block=1, sample_size=16,
    )  # fmt: skip


def _unet(width, **more):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, attention_head_dim=2, cross_attention_dim=width, **more,
    )  # fmt: skip


def sd(folder: Path, *, width: int = 16, prediction: str = "epsilon", seed: int = 0, **unet) -> Path:
    """An SD 1.x/2.x pipeline: 16 px pictures from 8x8 latents, with the PNDM scheduler SD 1.x ships."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    torch.manual_seed(seed)
    tokens = tokenizer(folder / "tokenizer")
    schedule = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True,
        prediction_type=prediction, steps_offset=1,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_text_config(tokens, width)), tokenizer=tokens,
        unet=_unet(width, **unet), scheduler=schedule, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def sdxl(folder: Path, *, seed: int = 0) -> Path:
    """An SDXL pipeline: two text encoders of widths 16 and 24, pooled text and sizes in the time embedding."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    first, second = tokenizer(folder / "tokenizer"), tokenizer(folder / "tokenizer_2", pad="!")
    unet = _unet(
        40, addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=16 + 6 * 4
    )
    StableDiffusionXLPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(_text_config(first, 16)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(second, 24)), tokenizer=first, tokenizer_2=second,
        unet=unet, scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def photos(folder: Path, count: int = 3, side: int = 40) -> Path:
    """A folder of random photos."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder
