"""What learns to draw: the denoiser, the text encoder it listens to, and the namer that gives individuals their names.

The text encoder's position embeddings are zero and stay so: a word means the same wherever it stands, and what came
before it is known from the causal mask.

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
SHARP = 14.0  # what cosines of pictures and captions are multiplied by
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


class Matcher(nn.Module):
    """A small CLIP on latents, trained along: which caption belongs to which picture. It stays in the factory.

    Denoising alone is slow to teach text encoder and namer what sets words and individuals apart.
    """

    def __init__(self, channels: int, side: int, width: int) -> None:
        """Build for latents [n, channels, side, side] and text features of `width`."""
        super().__init__()
        self.near, self.far = nn.Conv2d(channels, 128, 3, padding=1), nn.Conv2d(128, 256, 3, stride=2, padding=1)
        self.seen, self.told = nn.Linear(256 * (side // 2) ** 2, width), nn.Linear(width, width)

    def forward(self, latents: Tensor, features: Tensor) -> Tensor:
        """How well each picture [n, c, h, w] goes with each caption's end [n, d]: logits [n, n]."""
        image = self.seen(F.silu(self.far(F.silu(self.near(latents)))).flatten(1))
        logits: Tensor = F.normalize(image, dim=-1) @ F.normalize(self.told(features), dim=-1).T * SHARP
        return logits


class Student(nn.Module):
    """Denoiser, text encoder and namer, trained together."""

    def __init__(self, unet: UNet2DConditionModel, text: CLIPTextModel, names: tuple[int, int]) -> None:
        """`names` are the ids of the words that stand for a picture's first and second individual."""
        super().__init__()
        width, latent = text.config.hidden_size, unet.config
        self.unet, self.text, self.namer, self.names = unet, text, Namer(width), names
        self.matcher = Matcher(latent["in_channels"], latent["sample_size"], width)
        text.embeddings.position_embedding.weight.requires_grad_(False).zero_()
        unet.set_attn_processor(Attention())

    def forward(self, noisy: Tensor, t: Tensor, ids: Tensor, views: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction [b, c, h, w] for noisy latents, and logits [b, b] of clean ones against captions.

        t are the times [b], ids token ids [b, l], views [b, 2, 3, s, s].
        """
        features = self.features(ids, views)
        ends = (ids == self.text.config.eos_token_id).int().argmax(1)
        match: Tensor = self.matcher(clean, features[torch.arange(len(ids), device=ids.device), ends])
        drawn: Tensor = self.unet(noisy, t, features).sample
        return drawn, match

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
