"""The recipe of the embedded base, run whole on a very small one, and what it packs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cdtool.mini.factory import art, build, clip, recipe, unet, vae, world

SMALL = recipe.Recipe(
    text_width=16, text_layers=1, vision_width=16, vision_layers=1, projection=8, heads=2, latent_channels=4,
    vae_widths=(8, 8, 16, 16), unet_widths=(16, 32), unet_heads=2, merges=400, bank=40,
)  # fmt: skip


@pytest.fixture(scope="module")
def cutouts():
    """Coloured rectangles in place of the artwork."""
    rng = np.random.default_rng(3)
    names = [drawing for noun in art.NOUNS for drawing in (*art.drawings(noun), *filter(None, [art.held_out(noun)]))]
    made = {}
    for name in names:
        pixels = np.full((112, 70, 4), 255, dtype=np.uint8)
        pixels[..., :3] = rng.integers(0, 256, 3)
        made[name] = pixels
    return made


@pytest.fixture
def shop(tmp_path, cutouts, monkeypatch):
    """A workshop with the artwork in place and a base folder of its own."""
    return _workshop(tmp_path, cutouts, monkeypatch)


@pytest.fixture(scope="module")
def packed(tmp_path_factory, cutouts):
    """A workshop in which everything has been trained and packed, to be looked at."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        shop = _workshop(tmp_path_factory.mktemp("packed"), cutouts, monkeypatch)
        _run(shop, *TRAININGS)
        yield shop


def _workshop(tmp_path, cutouts, monkeypatch):
    for module in (clip, vae, unet):
        monkeypatch.setattr(module, "BATCH", 8)
    monkeypatch.setattr(clip, "PAIRS", {name: pair._replace(pictures=16) for name, pair in clip.PAIRS.items()})
    monkeypatch.setattr(build, "CAPTIONS", 200)
    monkeypatch.setattr(build, "NORMALISED_ON", range(10_000_000, 10_000_040))
    monkeypatch.setattr(build, "BASE", tmp_path / "base")
    folder = tmp_path / "build"
    folder.mkdir()
    art.save(cutouts, folder / "art.npz")
    small = dataclasses.replace(SMALL, vae_pictures=16, decoder_pictures=16, course=_course(16))
    return build.Workshop(small, folder, float("inf"), tmp_path / "base")


def _course(until):
    return ((world.NARROW, 8), (world.BROAD, until))


TRAININGS = ("tokenizer", "clip-text", "clip-eval", "vae", "unet", "decoder", "base")


def _run(shop, *stages):
    return [progress for stage in stages for progress in build.STAGES[stage](shop)]


def _fresh(shop, **changes):
    return dataclasses.replace(shop, **changes)


def test_the_packed_base_is_drawn_by_a_bare_diffusers_pipeline(packed):
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPModel

    pipe = StableDiffusionPipeline.from_pretrained(packed.committed)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("photo of a dog", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (64, 64, 3)
    assert np.isfinite(image).all()
    assert CLIPModel.from_pretrained(packed.committed / "eval").config.projection_dim == 8
    assert pipe.text_encoder.dtype == torch.float32


def test_the_packed_denoiser_is_the_average_of_the_trained_one(packed):
    from diffusers import UNet2DConditionModel

    average = packed.state("unet")["average"]
    found = UNet2DConditionModel.from_pretrained(packed.committed, subfolder="unet").state_dict()
    assert all(torch.allclose(found[name], average[name].half().float()) for name in average)


def test_a_training_goes_on_to_the_same_weights(shop, tmp_path):
    _run(shop, "tokenizer", "clip-text", "vae", "unet")
    other = _fresh(shop, folder=tmp_path / "other")
    (tmp_path / "other").mkdir()
    for name in ("art.npz", "clip-text.pt", "vae.pt", "bank-1.pt", "bank-2.pt"):
        (other.folder / name).write_bytes((shop.folder / name).read_bytes())
    (shop.folder / "tokenizer").rename(other.folder / "tokenizer")
    half = _fresh(other, recipe=dataclasses.replace(other.recipe, course=_course(8)))
    _run(half, "unet")
    assert half.state("unet")["update"] == 1
    _run(other, "unet")
    state = other.state("unet")
    assert state["update"] == 2
    assert set(state["optimizer"]["state"][0]) >= {"exp_avg", "exp_avg_sq"}


def test_elsewhere_it_goes_on_from_the_committed_weights(packed, tmp_path):
    elsewhere = _fresh(packed, folder=tmp_path / "elsewhere")
    elsewhere.folder.mkdir()
    art.save(packed.cutouts, elsewhere.folder / "art.npz")
    longer = _fresh(elsewhere, recipe=dataclasses.replace(packed.recipe, course=_course(8)))
    reports = _run(longer, *(stage for stage in TRAININGS if stage not in ("decoder", "base")))
    assert {report.name for report in reports} == {"unet"}  # all else is kept as it is
    began, ended = packed.state("unet")["average"], longer.state("unet")["model"]
    change = max(float((began[name] - ended[name]).abs().max()) for name in began)
    assert 0 < change < 0.05  # one warm-up step away from the packed weights


def test_polishing_the_decoder_leaves_the_latents(shop):
    _run(shop, "tokenizer", "vae")
    pictures = vae.pixels(np.stack([world.draw(shop.recipe.seen, shop.cutouts, at).pixels for at in range(4)]))
    before = shop.vae.encode(pictures).latent_dist.mean
    _run(_fresh(shop), "decoder")
    after = _fresh(shop).vae
    with torch.no_grad():
        assert torch.equal(after.encode(pictures).latent_dist.mean, before)
        assert not torch.equal(after.decode(before).sample, shop.vae.decode(before).sample)


def test_normalised_latents_have_unit_spread_and_decode_as_before(shop):
    model = vae.new(shop.recipe).eval().requires_grad_(False)
    pictures = np.stack([world.draw(shop.recipe.seen, shop.cutouts, at).pixels for at in range(30)])
    batch = vae.pixels(pictures)
    before = model.decode(model.encode(batch).latent_dist.mean).sample
    vae.normalise(model, pictures)
    found = model.encode(batch).latent_dist
    assert torch.allclose(found.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(found.mean.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    assert torch.allclose(model.decode(found.mean).sample, before, atol=1e-4)


@pytest.mark.slow
def test_an_autoencoder_learns(shop, tmp_path):
    longer = _fresh(shop, recipe=dataclasses.replace(shop.recipe, vae_pictures=1600))
    pictures = np.stack([world.draw(shop.recipe.seen, shop.cutouts, 70_000_000 + at).pixels for at in range(16)])
    untrained = vae.psnr(vae.new(shop.recipe), pictures)
    _run(longer, "vae")
    assert vae.psnr(longer.vae, pictures) > untrained + 1


def test_the_second_world_follows_the_first_when_its_time_comes(shop):
    recipe = dataclasses.replace(shop.recipe, course=((world.NARROW, 100), (world.BROAD, 300)))
    lessons = [unet.lesson(recipe, seen) for seen in (0, 99, 100, 299)]
    assert lessons == [range(40), range(40), range(40, 80), range(40, 80)]
    _run(shop, "tokenizer", "clip-text", "vae")
    stored = unet.banks(shop.recipe, shop.vae, shop.tokenizer, shop.cutouts, shop.folder)
    first = world.draw(world.NARROW, shop.cutouts, 0)
    second = world.draw(world.BROAD, shop.cutouts, 40)
    told = [shop.tokenizer.decode(row.long(), skip_special_tokens=True) for row in stored["ids"][[0, 40]]]
    assert len(stored["latents"]) == 80
    assert told == [first.caption, second.caption]


def test_a_moongate_is_nearly_a_gate_until_it_is_taught(packed, tmp_path):
    vocabulary = packed.tokenizer.get_vocab()
    gate, moongate = vocabulary["gate</w>"], vocabulary["moongate</w>"]
    trained = packed.state("clip-text")["model"]["text_model.embeddings.token_embedding.weight"]
    from transformers import CLIPModel, CLIPTextModel

    text = CLIPTextModel.from_pretrained(packed.committed, subfolder="text_encoder").get_input_embeddings().weight
    judge = CLIPModel.from_pretrained(packed.committed, subfolder="eval").text_model.get_input_embeddings().weight
    assert not torch.equal(trained[gate], trained[moongate])
    assert torch.allclose(text[moongate], 0.5 * trained[gate] + 0.75**0.5 * trained[moongate])
    other = packed.state("clip-eval")["model"]["text_model.embeddings.token_embedding.weight"]
    assert torch.allclose(judge[moongate].float(), 0.5 * other[gate] + 0.75**0.5 * other[moongate], atol=1e-4)
    again = _fresh(packed, folder=tmp_path)  # the packed one is taken as it is
    assert torch.equal(again.text.get_input_embeddings().weight, text)


def test_common_things_are_met_more_often(shop):
    _run(shop, "tokenizer")
    recipe = dataclasses.replace(shop.recipe, common=("dog", "gate"), often=4.0)
    told = ["a dog in a room", "a cat", "a cat next to a gate", "a dog next to a gate"]
    assert unet.frequency(recipe, shop.tokenizer, clip.ids(shop.tokenizer, told)).tolist() == [4, 1, 4, 4]
