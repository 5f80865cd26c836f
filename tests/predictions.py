"""What a base predicts for prompts, and snapshots that tell whether it was left as it was."""

from __future__ import annotations

import torch

from cdtool.models import diffusion, text
from cdtool.tokens import bind


def noisy(base, count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, 4, 8, 8), generator=generator), torch.tensor([10, 700][:count])


def conditioning(base, tokens, prompts, rows):
    made = [text.tokenize(base, bind(prompt, tokens), tokens) for prompt in prompts]
    return text.encode(base, made, rows)


def forward(base, condition, count=2):
    z, t = noisy(base, count)
    return diffusion.predict(base, z, t, condition, diffusion.size_condition(base, 16, 16, count))


def snapshot(base):
    modules = {"unet": base.unet, "vae": base.vae} | dict(enumerate(base.text_encoders))
    state = {(part, name): tensor.clone() for part, m in modules.items() for name, tensor in m.state_dict().items()}
    return state, [(name, type(module)) for name, module in base.unet.named_modules()]


def same(one, other):
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    return all(torch.equal(one[0][name], other[0][name]) for name in one[0])
