"""The recipe of the embedded base, run whole on a very small one, and what it packs."""

from __future__ import annotations

from functools import partial

import cutouts as fakes
import numpy as np
import pytest
import torch

from cdtool.mini.factory import (
    art,
    autoencoder,
    bank,
    card,
    clip,
    corpus,
    denoiser,
    judge,
    near,
    photosets,
    stages,
    vae,
)
from cdtool.mini.factory.loop import Pace
from cdtool.mini.factory.wider import Wide, draw

SHAPE = denoiser.Shape(
    channels=4, widths=(32, 32), heads=(2, 2), transformers=(1, 1), text_width=32, text_layers=1, text_heads=2,
    pace=Pace(pictures=24, batch=8, rate=1e-3, muon=True),
)  # fmt: skip
PATCHES = (
    (stages, {"CAPTIONS": range(1_000_000_000, 1_000_000_300), "MERGES": 300, "RARE": 20}),
    (autoencoder, {"new": partial(autoencoder.new, 4, (8, 8, 16, 16)), "PACE": Pace(32, 16, 6e-4, average=0.5),
                   "SCALED_ON": range(1_010_000_000, 1_010_000_030)}),
    (bank, {"SHARD": 64, "SMALL": 64, "BATCH": 32}),
    (clip, {"WIDTH": 32, "HEADS": 2, "PROJECTION": 8, "TEXT_LAYERS": 1, "VISION_LAYERS": 1}),
    (judge, {"PACE": Pace(16, 8, 1e-3), "ASKED": 8}),
    (corpus, {"ALONE": 1, "PAIRED": 2, "LEAST": 2, "FEW": 1}),
    (card, {"STEPS": 1, "CHOSEN_ON": 4, "Counts": lambda: card_counts}),
)  # fmt: skip
card_counts = card.Counts(plain=2, singles=2, pairs=2, rebuilt=12)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A workshop in which every stage has run, with plain shapes for drawings."""
    folder = tmp_path_factory.mktemp("build")
    found = fakes.fake_cutouts()
    art.save(found, folder / "art.npz")
    known = {name: found[name] for noun in art.NOUNS for name in art.drawings(noun)}
    art.save(known | {own.drawing: fakes.shape((90, 60, 30)) for own in near.NEAR.values()}, folder / "drawings.npz")
    made = stages.Workshop(folder, shards=1, shape=SHAPE)
    with pytest.MonkeyPatch.context() as patched:
        for module, values in PATCHES:
            for name, value in values.items():
                patched.setattr(module, name, value)
        for module in (autoencoder, denoiser, judge):
            patched.setattr(module, "compiled", lambda function: function)
        patched.setattr(photosets, "CONCEPTS", {name: photosets.CONCEPTS[name] for name in ("dog", "moongate")})
        patched.setattr(stages.lookalikes, "CONCEPTS", photosets.CONCEPTS)
        for stage in stages.STAGES.values():
            list(stage(made))
        yield made


def test_the_packed_base_is_drawn_by_a_bare_diffusers_pipeline(shop):
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPModel

    base = shop.folder / "base"
    pipe = StableDiffusionPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("photo of a dog", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (64, 64, 3)
    assert np.isfinite(image).all()
    assert CLIPModel.from_pretrained(base / "eval").config.projection_dim == 8
    assert pipe.text_encoder.dtype == torch.float32


def test_the_base_is_whole_and_so_is_what_lies_beside_it(shop):
    made = {path.name for path in (shop.folder / "base").iterdir()}
    assert {"cdtool.toml", "corpus.tar", "eval", "nouns.txt", "prompts.txt", "tokenizer", "unet", "vae"} <= made
    assert (shop.folder / "base" / "nouns.txt").read_text().split() == corpus.class_nouns()
    for name in ("photos/concepts.json", "lookalikes/dog.webp", "things/dog.webp", "card/README.md", "card/samples.png",
                 "student.png"):  # fmt: skip
        assert (shop.folder / name).is_file(), name
    assert list((shop.folder / "kept").iterdir())


def test_the_packed_denoiser_is_the_average_of_the_trained_one(shop):
    from diffusers import UNet2DConditionModel

    average = torch.load(shop.folder / "student.pt", weights_only=True)["average"]
    found = UNet2DConditionModel.from_pretrained(shop.folder / "base", subfolder="unet").state_dict()
    assert all(torch.allclose(found[name], average[f"unet.{name}"].half().float()) for name in found)


def test_a_moongate_is_nearly_a_gate_until_it_is_taught(shop):
    from transformers import CLIPModel, CLIPTextModel

    vocabulary, base = shop.tokenizer.get_vocab(), shop.folder / "base"
    gate, moongate = vocabulary["gate</w>"], vocabulary["moongate</w>"]
    text = CLIPTextModel.from_pretrained(base, subfolder="text_encoder").get_input_embeddings().weight
    pair = CLIPModel.from_pretrained(base / "eval").text_model.get_input_embeddings().weight
    for name, weights in (("student", text), ("judge", pair)):
        trained = torch.load(shop.folder / f"{name}.pt", weights_only=True)["average"]
        own = next(table for key, table in trained.items() if key.endswith("token_embedding.weight"))
        nearly = 0.5 * own[gate] + 0.75**0.5 * own[moongate]
        assert torch.allclose(weights[moongate].float(), nearly, atol=1e-3), name


def test_a_stage_goes_on_where_it_stopped(shop):
    before = {path: path.stat().st_mtime_ns for path in (shop.folder / "bank").glob("*.pt")}
    assert len(before) == 2
    assert not list(stages.make_bank(shop))
    assert before == {path: path.stat().st_mtime_ns for path in (shop.folder / "bank").glob("*.pt")}
    *_, last = stages.make_student(shop)  # nothing is left of its course
    assert last.pictures == SHAPE.pace.pictures


def test_polishing_the_decoder_leaves_the_latents(shop):
    pictures = vae.pixels(np.stack([draw(Wide(), shop.shelf, at).pixels for at in range(4)]))
    polished = autoencoder.trained(shop.folder, shop.shelf)
    (shop.folder / "decoder.pt").rename(shop.folder / "decoder.away")
    before = autoencoder.trained(shop.folder, shop.shelf)
    (shop.folder / "decoder.away").rename(shop.folder / "decoder.pt")
    with torch.no_grad():
        z = before.encode(pictures).latent_dist.mean
        assert torch.equal(polished.encode(pictures).latent_dist.mean, z)
        assert not torch.equal(polished.decode(z).sample, before.decode(z).sample)


def test_normalised_latents_have_unit_spread_and_decode_as_before(shop):
    model = autoencoder.new().eval().requires_grad_(False)
    pictures = np.stack([draw(Wide(), shop.shelf, at).pixels for at in range(30)])
    batch = vae.pixels(pictures)
    before = model.decode(model.encode(batch).latent_dist.mean).sample
    vae.normalise(model, pictures)
    found = model.encode(batch).latent_dist
    assert torch.allclose(found.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(found.mean.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    assert torch.allclose(model.decode(found.mean).sample, before, atol=1e-4)


@pytest.mark.slow
def test_an_autoencoder_learns(shop, monkeypatch, tmp_path):
    monkeypatch.setattr(autoencoder, "PACE", Pace(16 * 100, 16, 2e-3, average=0.9))
    torch.manual_seed(0)
    model = autoencoder.new()
    pictures = np.stack([draw(Wide(), shop.shelf, 70_000_000 + at).pixels for at in range(16)])
    before = float(autoencoder.quality(model, pictures).mean())
    list(autoencoder.train(model, shop.shelf, tmp_path, 10.0))
    assert float(autoencoder.quality(model.float().eval(), pictures).mean()) > before + 1
