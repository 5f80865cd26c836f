"""What learns to draw: the denoiser, the text encoder it listens to, and the namer that gives individuals their names.

A name is one word whose embedding is made from a view of the individual. So the denoiser meets as many proper names
as it sees individuals, and learns to tell from one word what no caption can; which is what a concept needs of it later.
The namer stays in the factory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import Tensor
    from transformers import CLIPTextModel, CLIPTokenizer

VIEW = 32  # side of the view a name is made from, px
SPREAD = 0.03  # root mean square of a name's embedding: what 250 steps at a concept's rate can reach
SHAKEN = 0.15  # noise on names while training, in shares of SPREAD


class Attention:
    """Plain attention in two matrix products: on CPUs its gradient is faster than the fused kernel's."""

    def __call__(self, attn: Any, x: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Tensor:
        """Attend from x [b, n, d] to itself or to the text [b, l, e]."""
        context = x if encoder_hidden_states is None else encoder_hidden_states
        b, n, _width = x.shape
        q, k, v = attn.to_q(x), attn.to_k(context), attn.to_v(context)
        side = q.shape[-1] // attn.heads

        def split(one: Tensor) -> Tensor:
            return one.view(b, -1, attn.heads, side).transpose(1, 2).reshape(b * attn.heads, -1, side)

        weights = torch.softmax(torch.bmm(split(q * side**-0.5), split(k).transpose(1, 2)), -1)
        out = torch.bmm(weights, split(v)).view(b, attn.heads, n, side).transpose(1, 2).reshape(b, n, -1)
        done: Tensor = attn.to_out[0](out)
        return done


class Namer(nn.Module):
    """Embeddings [n, d] from views [n, 3, VIEW, VIEW]; all of one length, as words' embeddings nearly are."""

    def __init__(self, width: int, channels: int = 48) -> None:
        """Build for embeddings of `width`."""
        super().__init__()
        steps = [(3, channels), (channels, 2 * channels), (2 * channels, 4 * channels)]
        self.look = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in steps)
        self.think = nn.Linear(4 * channels * (VIEW // 8) ** 2, 512)
        self.say = nn.Linear(512, width)

    def forward(self, views: Tensor) -> Tensor:
        """Name what is seen."""
        x = views
        for layer in self.look:
            x = F.silu(layer(x))
        name: Tensor = self.say(F.silu(self.think(x.flatten(1))))
        return name * torch.rsqrt(name.pow(2).mean(-1, keepdim=True) + 1e-6) * SPREAD


class Student(nn.Module):
    """Denoiser, text encoder and namer, trained together."""

    def __init__(self, unet: UNet2DConditionModel, text: CLIPTextModel, names: tuple[int, int]) -> None:
        """`names` are the ids of the words that stand for a picture's first and second individual."""
        super().__init__()
        self.unet, self.text, self.namer, self.names = unet, text, Namer(text.config.hidden_size), names
        unet.set_attn_processor(Attention())

    def forward(self, noisy: Tensor, t: Tensor, ids: Tensor, views: Tensor) -> Tensor:
        """The prediction [b, c, h, w] for noisy latents, times [b], token ids [b, l] and views [b, 2, 3, s, s]."""
        drawn: Tensor = self.unet(noisy, t, self.features(ids, views)).sample
        return drawn

    def features(self, ids: Tensor, views: Tensor | None = None) -> Tensor:
        """Text features [b, l, d], names' embeddings in their places where views are given."""
        words = self.text.embeddings.token_embedding(ids)
        if views is not None:
            named = self.namer(views.flatten(0, 1)).view(len(ids), 2, -1)
            if self.training:
                named = named + torch.randn_like(named) * SPREAD * SHAKEN
            for order, name in enumerate(self.names):
                words = torch.where((ids == name)[..., None], named[:, order, None], words)
        hidden = self.text.embeddings(inputs_embeds=words)
        length = ids.shape[1]
        mask = torch.full((length, length), float("-inf"), device=ids.device, dtype=hidden.dtype).triu(1)
        hidden = self.text.encoder(inputs_embeds=hidden, attention_mask=mask[None, None]).last_hidden_state
        done: Tensor = self.text.final_layer_norm(hidden)
        return done


def text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int, heads: int) -> CLIPTextModel:
    """An untrained text encoder for the tokenizer."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width, max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    config._attn_implementation = "eager"
    return CLIPTextModel(config)
