"""CLIP's text encoder in plain PyTorch, on the files transformers writes.

Its modelling package takes longer to import than a small base takes to load; what is used of it is this.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LEGACY_END = 2  # an end-of-text id that old configurations give wrongly: the largest id of a prompt is meant
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": F.gelu,
}


@dataclass(frozen=True)
class TextConfig:
    """The fields of a text encoder's config.json that matter here, with the defaults of its format."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407


class TextFeatures(NamedTuple):
    """What an encoder makes of ids [b, l]; the layer's output that was not asked for is None."""

    last_hidden_state: Tensor | None  # [b, l, d], behind the last norm
    penultimate: Tensor | None  # [b, l, d], of the last layer but one
    text_embeds: Tensor | None  # [b, p], projected at the end of the text


class _Attention(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, length, _ = x.shape
        q, k, v = (project(x).view(b, length, self.heads, -1).transpose(1, 2)
                   for project in (self.q_proj, self.k_proj, self.v_proj))  # fmt: skip
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return cast("Tensor", self.out_proj(mixed.transpose(1, 2).reshape(b, length, -1)))


class _MLP(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.fc2(self.activation(self.fc1(x))))


class _Layer(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attn, self.mlp = _Attention(config), _MLP(config)
        self.layer_norm1, self.layer_norm2 = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return cast("Tensor", x + self.mlp(self.layer_norm2(x)))


class TextEncoder(nn.Module):
    """A causal transformer over token ids; with `projected` it also gives pooled, projected text."""

    def __init__(self, config: TextConfig, *, projected: bool = False) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embeddings = nn.ModuleDict({
            "token_embedding": _table(config.vocab_size, width),
            "position_embedding": _table(config.max_position_embeddings, width),
        })  # fmt: skip
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))})
        self.final_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.text_projection = nn.Linear(width, config.projection_dim, bias=False) if projected else None

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding table, a hook on which can put learned embeddings in place."""
        return self.embeddings["token_embedding"]

    def forward(self, ids: Tensor, *, penultimate: bool = False) -> TextFeatures:
        """Features of token ids [b, l]; `penultimate` asks for the last layer but one in place of the last.

        The last layer is left out where nothing asked for depends on it. Raises ValueError for prompts that are too
        long.
        """
        table = cast("nn.Embedding", self.embeddings["position_embedding"]).weight
        if ids.shape[1] > len(table):
            raise ValueError(f"{ids.shape[1]} tokens are more than the {len(table)} positions of this encoder")
        x = self.get_input_embeddings()(ids) + table[: ids.shape[1]]
        *layers, last = cast("nn.ModuleList", self.encoder["layers"])
        for layer in layers:
            x = layer(x)
        before = x if penultimate else None
        if penultimate and self.text_projection is None:
            return TextFeatures(None, before, None)
        final = self.final_layer_norm(last(x))
        pooled = None if self.text_projection is None else self.text_projection(final[_ends(ids, self.config)])
        return TextFeatures(final, before, pooled)


def _table(count: int, width: int) -> nn.Embedding:
    """An embedding table without first values: to make them on a device without memory imports PyTorch's compiler."""
    return nn.Embedding(count, width, _weight=torch.empty(count, width))


def _ends(ids: Tensor, config: TextConfig) -> tuple[Tensor, Tensor]:
    """Where each prompt's end-of-text stands: the first one, for padding may be the same token."""
    ends = ids if config.eos_token_id == LEGACY_END else (ids == config.eos_token_id).int()
    return torch.arange(len(ids), device=ids.device), ends.argmax(dim=-1)


def empty(folder: Path) -> TextEncoder:
    """The text encoder of a component folder without memory for its weights. Raises OSError, ValueError, KeyError."""
    table: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = TextConfig(**{one.name: table[one.name] for one in fields(TextConfig) if one.name in table})
    projected = "CLIPTextModelWithProjection" in (table.get("architectures") or [])
    with torch.device("meta"):
        return TextEncoder(config, projected=projected)


def load(folder: Path) -> TextEncoder:
    """The text encoder of a base's component folder, in float32.

    Raises OSError, ValueError, KeyError, RuntimeError or SafetensorError for what cannot be read.
    """
    from safetensors.torch import load_file

    encoder = empty(folder)
    found = {name.removeprefix("text_model."): value for path in weight_files(folder)
             for name, value in load_file(path).items()}  # fmt: skip
    known = encoder.state_dict().keys()
    encoder.load_state_dict({name: value.float() for name, value in found.items() if name in known}, assign=True)
    return encoder


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a text encoder: the full ones, else those of the fp16 variant. Raises OSError."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise OSError(f"there are no safetensors weights in {folder}")
    return [path for path in files if ".fp16" not in path.name] or files
