"""What tests of commands that draw have: concepts of random numbers on the tiny base."""

from __future__ import annotations

import pytest
import torch

from cdtool.models import initializers, pipelines
from cdtool.store import registry
from cdtool.store.concept import BaseRef, Manifest
from cdtool.tokens import Token


@pytest.fixture
def concept(sd_base):
    """Save a concept of random numbers for the tiny base: `concept("dog", "dog")`."""

    def save(name="dog", *nouns):
        base = pipelines.load(str(sd_base), precision="fp32", device="cpu", parts=("text",))
        tokens = initializers.assign(base.tokenizers, [Token(noun) for noun in nouns or ("dog",)])
        generator = torch.Generator().manual_seed(4)
        tensors = {f"unet.{module}.weight": 0.5 * torch.randn(weight.shape, generator=generator)
                   for module, weight in base.kv.items()}  # fmt: skip
        for place in range(len(tokens)):
            tensors[f"token.{place + 1}.text_encoder"] = torch.randn(16, generator=generator)
        where = BaseRef(str(sd_base), base.family.name, base.fingerprint)
        return registry.save(Manifest(name=name, base=where, tokens=tokens), tensors)

    return save
