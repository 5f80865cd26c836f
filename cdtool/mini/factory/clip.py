"""A CLIP-like pair of the size `eval` measures the embedded base with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPModel, CLIPTokenizer

NAMING = ("{}", "photo of {}", "a photo of {}")
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)
SIZE, PATCH = 64, 8  # px
WIDTH, HEADS, PROJECTION = 192, 4, 128
TEXT_LAYERS, VISION_LAYERS = 4, 5


def new(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained pair for the tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    both = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": 4 * WIDTH,
            "projection_dim": PROJECTION}  # fmt: skip
    text = {"vocab_size": len(tokenizer), "num_hidden_layers": TEXT_LAYERS,
            "max_position_embeddings": tokenizer.model_max_length, **both, **ends}  # fmt: skip
    vision = {"num_hidden_layers": VISION_LAYERS, "image_size": SIZE, "patch_size": PATCH, **both}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=PROJECTION)
    config._attn_implementation = "eager"  # the fused kernel's backward is slow on CPUs at these sizes
    return CLIPModel(config)


def ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids [b, l], padded and cut to the tokenizer's positions."""
    made = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    tokens: Tensor = made["input_ids"]
    return tokens


def contrast(logits: Tensor) -> Tensor:
    """CLIP's loss of logits [b, b] whose diagonal belongs together."""
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
