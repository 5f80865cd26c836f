"""Attention while training: the kernel that suits the device, with the same result."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.backends import cuda
from torch.nn.functional import scaled_dot_product_attention

from cdtool.models import diffusion


@pytest.mark.parametrize(
    ("device", "dtype", "cells", "fused"),
    [
        ("cpu", torch.bfloat16, 64, False),
        ("cpu", torch.bfloat16, 4096, True),
        ("cpu", torch.float32, 64, True),
        ("cuda", torch.bfloat16, 64, True),
    ],
)
def test_the_fused_kernel_is_left_out_for_small_latents_in_bf16_on_a_cpu(device, dtype, cells, fused):
    base = SimpleNamespace(device=torch.device(device), dtype=dtype)
    with diffusion.attention(base, cells):
        assert cuda.flash_sdp_enabled() is fused
    assert cuda.flash_sdp_enabled()


def test_both_ways_of_attention_agree():
    q, k, v = torch.randn((3, 1, 2, 9, 8), generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    base = SimpleNamespace(device=torch.device("cpu"), dtype=torch.bfloat16)
    with diffusion.attention(base, 64):
        plain = scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(plain, scaled_dot_product_attention(q, k, v), atol=2e-2, rtol=2e-2)
