"""Attention while training: the kernel that suits the device, with the same result."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_pipelines
import torch
from torch.backends import cuda
from torch.nn.functional import scaled_dot_product_attention

from cdtool.errors import SettingsError, UsageError
from cdtool.models import diffusion, pipelines, text
from cdtool.models.text import Conditioning
from cdtool.settings import SampleSettings
from cdtool.tokens import bind


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


# ---------------------------------------------------------------- bases that differ


@pytest.fixture
def changed(sd_base, tmp_path):
    """A copy of a base with other entries in its configurations."""

    def make(**changes):
        folder = tmp_path / "changed"
        shutil.copytree(sd_base, folder)
        for part, values in changes.items():
            path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
            path.write_text(json.dumps(json.loads(path.read_text()) | values))
        return folder

    return make


ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


def test_with_zero_terminal_snr_the_last_target_is_the_image_taken_away(changed):
    """Training at the last timestep: the input is pure noise, and the velocity is the negated image."""
    base = pipelines.load(str(changed(scheduler=ZERO_SNR)), device="cpu", parts=())
    schedule = diffusion.scheduler(base, "ddpm")
    z, noise, last = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2), torch.tensor([999])
    torch.testing.assert_close(schedule.add_noise(z, noise, last), noise)
    torch.testing.assert_close(diffusion.target(base, schedule, z, noise, last), -z)


def test_with_zero_terminal_snr_every_scheduler_begins_at_the_last_timestep(changed):
    base = pipelines.load(str(changed(scheduler=ZERO_SNR | {"timestep_spacing": "leading"})), device="cpu", parts=())
    for name, row in diffusion.SCHEDULERS.items():
        if not row.zero_snr:
            with pytest.raises(UsageError, match="zero terminal SNR"):
                diffusion.scheduler(base, name)
            continue
        schedule = diffusion.scheduler(base, name)
        schedule.set_timesteps(4)
        assert int(schedule.timesteps[0]) == 999, name
        assert float(schedule.alphas_cumprod[-1]) < 1e-6, name


def test_rescaling_draws_the_spread_to_that_of_the_prompted_prediction():
    guided, with_text = torch.randn(2, 4, 8, 8) * 5 + 1, torch.randn(2, 4, 8, 8)
    for index, result in enumerate(diffusion.rescaled(guided, with_text, 1.0)):
        torch.testing.assert_close(result.std(), with_text[index].std())
    assert torch.equal(diffusion.rescaled(guided, with_text, 0.0), guided)


def test_latents_are_normalised_by_the_autoencoders_own_mean_and_deviation(sd_base, changed):
    stats = {"latents_mean": [1.0, -1.0, 0.5, 0.0], "latents_std": [2.0, 1.0, 4.0, 0.5]}
    plain = pipelines.load(str(sd_base), precision="fp32", device="cpu", parts=("vae",))
    own = pipelines.load(str(changed(vae=stats)), precision="fp32", device="cpu", parts=("vae",))
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    before, after = diffusion.moments(plain, image)[0], diffusion.moments(own, image)[0]
    factor = plain.vae.config.scaling_factor
    for channel, (mean, std) in enumerate(zip(*stats.values(), strict=True)):
        expected = (before[0, channel] / factor - mean) / std * factor
        torch.testing.assert_close(after[0, channel], expected)
        torch.testing.assert_close(after[1, channel], before[1, channel] / std)
    z = diffusion.moments(own, image)[:, 0]
    assert np.array_equal(diffusion.decode(own, z), diffusion.decode(plain, diffusion.moments(plain, image)[:, 0]))


def test_an_inpainting_base_samples_with_everything_masked(tmp_path):
    folder = tiny_pipelines.sd(tmp_path / "inpainting", in_channels=9)
    base = pipelines.load(str(folder), precision="fp32", device="cpu")
    given = []
    base.unet.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
    grey = base.vae.encode(torch.zeros(1, 3, 16, 16)).latent_dist.mean * base.vae.config.scaling_factor
    condition = Conditioning(torch.randn(1, 77, 16), None)
    settings = SampleSettings(steps=1, guidance=2.0, eta=0.0)
    (z,) = diffusion.denoise(base, condition, condition, settings, seeds=[0], size=(16, 16))
    assert z.shape == (1, 4, 8, 8)
    assert given[0].shape == (2, 9, 8, 8)
    assert torch.equal(given[0][:, 4], torch.ones(2, 8, 8))
    torch.testing.assert_close(given[0][:1, 5:], grey)


@pytest.mark.parametrize(("side", "count"), [(64, 8), (512, 4), (768, 1), (1024, 1), (2048, 1)])
def test_large_images_go_through_the_autoencoder_a_few_at_a_time(side, count):
    assert diffusion.latent_batch(side, side) == count


def test_latents_do_not_depend_on_how_many_go_through_at_once(sd_base, monkeypatch):
    base = pipelines.load(str(sd_base), precision="fp32", device="cpu", parts=("vae",))
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    together = diffusion.moments(base, images)
    monkeypatch.setattr(diffusion, "LATENT_PIXELS", 2 * 16 * 16)
    torch.testing.assert_close(diffusion.moments(base, images), together)
    assert (
        np.abs(diffusion.decode(base, together[:, 0]).astype(int)[0] - diffusion.decode(base, together[:1, 0])).max()
        <= 1
    )


# ---------------------------------------------------------------- guidance


def by_hand(base, condition, guidance, seed):
    """DDIM, the prediction of each picture and each side in a pass of its own; guidance None is the prompt alone."""
    schedule = diffusion.scheduler(base, "ddim")
    schedule.set_timesteps(3)
    z = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(seed))
    for t in schedule.timesteps:
        found = base.unet(z, t, encoder_hidden_states=condition[1]).sample
        if guidance is not None:
            without = base.unet(z, t, encoder_hidden_states=condition[0]).sample
            found = (1 - guidance) * without + guidance * found
        z = schedule.step(found, t, z, eta=0.0).prev_sample
    return z


@pytest.mark.parametrize("guidance", [-2.0, 0.0, 0.5, 1.0, 1.5, 6.0])
def test_at_a_guidance_of_one_or_less_the_prompt_stands_alone_in_one_pass(sd_base, guidance):
    base = pipelines.load(str(sd_base), precision="fp32", device="cpu", parts=("unet",))
    negative, prompt = torch.randn(2, 1, 77, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = by_hand(base, (negative, prompt), guidance if guidance > 1 else None, seed=3)
    passed = []
    base.unet.register_forward_pre_hook(lambda module, arguments: passed.append(len(arguments[0])))
    settings = SampleSettings(steps=3, guidance=guidance, eta=0.0)
    *_, found = diffusion.denoise(
        base, Conditioning(prompt, None), Conditioning(negative, None), settings, seeds=[3], size=(16, 16)
    )
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert passed == [2 if guidance > 1 else 1] * 3


@pytest.mark.parametrize(("strength", "taken"), [(1.0, 5), (0.6, 3), (0.01, 1)])
def test_an_image_to_begin_with_is_noised_as_far_as_its_strength_says(sd_base, strength, taken):
    base = pipelines.load(str(sd_base), precision="fp32", device="cpu", parts=("unet",))
    negative, prompt = torch.randn(2, 1, 77, 16, generator=torch.Generator().manual_seed(0))
    image = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    schedule = diffusion.scheduler(base, "ddim")
    schedule.set_timesteps(5)
    steps = schedule.timesteps[5 - taken :]
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    kept = schedule.alphas_cumprod[steps[0]]
    z = kept**0.5 * image + (1 - kept) ** 0.5 * noise
    with torch.no_grad():
        for t in steps:
            z = schedule.step(base.unet(z, t, encoder_hidden_states=prompt).sample, t, z, eta=0.0).prev_sample
    settings = SampleSettings(steps=5, guidance=1.0, eta=0.0)
    found = list(diffusion.denoise(base, Conditioning(prompt, None), Conditioning(negative, None), settings, seeds=[3],
                                   size=(16, 16), init=diffusion.Init(image, strength)))  # fmt: skip
    assert len(found) == taken
    torch.testing.assert_close(found[-1], z, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in diffusion.SCHEDULERS if name not in ("lcm", "tcd")])
def test_every_scheduler_begins_with_an_image(sd_base, name):
    """Of little noise little of it is changed, however the scheduler counts its noise levels."""
    base = pipelines.load(str(sd_base), precision="fp32", device="cpu", parts=("unet",))
    prompt = Conditioning(torch.zeros(1, 77, 16), None)
    image = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    settings = SampleSettings(steps=20, guidance=1.0, eta=0.0, scheduler=name)
    far, near = (
        [*diffusion.denoise(base, prompt, prompt, settings, seeds=[3], size=(16, 16),
                            init=diffusion.Init(image, strength))][-1]
        for strength in (1.0, 0.05)
    )  # fmt: skip
    assert (near - image).std() < 0.5 * (far - image).std()


# ---------------------------------------------------------------- compiled

COMPILER = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch's own imports


@COMPILER
def test_blocks_are_compiled_while_open_only(sd_base):
    base = pipelines.load(str(sd_base), parts=("unet",))
    blocks = [module for module in base.unet.modules() if type(module).__name__ == "BasicTransformerBlock"]
    with diffusion.compiled(base, False):
        assert not any(block._compiled_call_impl for block in blocks)
    with diffusion.compiled(base, True):
        assert blocks
        assert all(block._compiled_call_impl for block in blocks)
    assert not any(module._compiled_call_impl for module in base.unet.modules())


@COMPILER
def test_what_cannot_be_compiled_is_one_sentence_and_the_base_is_as_it_was(sd_base):
    from torch._dynamo.exc import TorchDynamoException

    base = pipelines.load(str(sd_base), parts=("unet",))
    said = r"cannot be compiled here: No working C\+\+ compiler."
    with pytest.raises(SettingsError, match=said) as caught, diffusion.compiled(base, True):
        raise TorchDynamoException("No working C++ compiler\nTried many")
    assert "--compile" in caught.value.hint
    assert not any(module._compiled_call_impl for module in base.unet.modules())


@COMPILER
@pytest.mark.slow
def test_a_compiled_denoiser_predicts_what_the_plain_one_does(sd_base):
    base = pipelines.load(str(sd_base), precision="fp32")
    condition = text.encode(base, [text.tokenize(base, bind("a dog", ()), ())], ((),))
    noisy, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    with torch.no_grad():
        plain = diffusion.predict(base, noisy, t, condition, None)
        with diffusion.compiled(base, True):
            compiled = diffusion.predict(base, noisy, t, condition, None)
    torch.testing.assert_close(compiled, plain, atol=1e-4, rtol=1e-4)
