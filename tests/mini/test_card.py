"""The model card: how the base is scored, and that every figure on the page was measured."""

from __future__ import annotations

import json
import re

import cutouts as fakes
import numpy as np
import pytest
from PIL import Image

from cdtool.mini.factory import card, cardpage, naming, prompts
from cdtool.mini.factory.recipe import Recipe
from cdtool.models.encoders import Encoder, EncoderSpec

NOUNS = ["dog", "cat", "car", "hat"]
TINY = Recipe(
    text_width=32, text_layers=1, vision_width=32, vision_layers=1, projection=16, heads=2, latent_channels=4,
    vae_widths=(8, 8, 16, 16), unet_widths=(32, 32), unet_heads=2,
)  # fmt: skip


@pytest.fixture
def judge():
    """A pair that reads the noun out of a text and a picture's mean grey, one axis per noun."""

    def axis(place):
        return np.eye(len(NOUNS), dtype=np.float32)[place]

    def text(texts):
        return np.stack([axis([noun in asked.split() for noun in NOUNS].index(True)) for asked in texts])

    def image(images):
        greys = [np.asarray(image).mean() for image in images]
        return np.stack([axis(int(grey) // 10) + 0.1 * axis((int(grey) // 10 + 1) % 4) for grey in greys])

    return Encoder(EncoderSpec("fake", "", 0.0), text, image)


def grey(place):
    return Image.new("RGB", (8, 8), (10 * place + 5,) * 3)


def test_naming_ranks_the_nouns_of_each_picture(judge):
    known = naming.noun_features(judge, NOUNS, naming.FORMS["photo"])
    named = naming.name(judge, [grey(0), grey(2), grey(3)], NOUNS, known, [("dog",), ("hat",), ("cat",)])
    assert named.first == ["dog", "car", "hat"]
    assert named.places[:2].tolist() == [[0], [1]]
    assert named.places[2, 0] >= 2
    assert named.among(1) == pytest.approx(1 / 3)
    assert named.among(2) == pytest.approx(2 / 3)
    assert named.among(4) == 1


def test_of_two_nouns_both_must_be_found(judge):
    known = naming.noun_features(judge, NOUNS, naming.FORMS["noun"])
    named = naming.name(judge, [grey(0), grey(0)], NOUNS, known, [("dog", "cat"), ("dog", "hat")])
    assert named.among(2) == 0.5
    assert named.among(1) == 0


def test_the_best_way_to_ask_comes_first(judge, monkeypatch):
    asked_badly = ("a car and {}",)  # this pair hears the first noun of NOUNS in a text; here often not the one meant
    monkeypatch.setattr(naming, "FORMS", {"bad": asked_badly, "photo": ("photo of {}",)})
    ways = naming.compare_forms(judge, [grey(3), grey(2)], NOUNS, [("hat",), ("car",)])
    assert list(ways.items()) == [("photo", 1.0), ("bad", 0.5)]


def test_confusions_are_counted_noun_by_noun():
    shares, wrong = naming.confusions(["cat", "cat", "dog", "cat", "hat"], ["dog", "dog", "dog", "cat", "dog"])
    assert shares == {"dog": 0.25, "cat": 1.0}
    assert list(shares) == ["dog", "cat"]
    assert wrong == {"dog": "cat"}


def test_a_sheet_shows_each_picture_over_its_caption():
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    sheet = card.captioned(images, ["one", "two " * 30, "three"], columns=2, side=40)
    assert sheet.getpixel((10, 10)) == (255, 0, 0)
    assert sheet.getpixel((60, 10)) == (0, 128, 0)
    assert sheet.getpixel((10, 40 + 39 + 16 + 10)) == (0, 0, 255)
    assert sheet.size == (2 * 48 + 8, 2 * (40 + 39 + 8) + 8)
    below = np.asarray(sheet)[50:85, 8:48]
    assert (below < 128).any(), "the first caption"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The card of a random pipeline with random weights, every step of it real."""
    import torch
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

    from cdtool.mini.factory import clip, unet, vae

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(prompts.FOLDER.parent / "base" / "tokenizer")
    pair = clip.new(TINY, tokenizer).eval()
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = StableDiffusionPipeline(
        vae=vae.new(TINY).eval(), text_encoder=clip.new(TINY, tokenizer).text_model.eval(), tokenizer=tokenizer,
        unet=unet.new(TINY).eval(), scheduler=unet.scheduler(), **none,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("card")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"STEPS": 2, "BATCH": 2, "REBUILT": 3, "CHOSEN_ON": 4}.items():
            patched.setattr(card, name, value)
        told = list(
            card.make(
                pipe, naming.encoder(pair, tokenizer), TINY, fakes.fake_cutouts(), folder, singles=3, pairs=2,
                seen={"unet": 640},
            )
        )  # fmt: skip
        assert told[-1] == ("card", 5)
        again = card.sample(pipe, ["a dog"], card.SINGLES + 1)[0]
        both = card.sample(pipe, ["a cat", "a dog"], card.SINGLES)[1]
    return folder, pipe, again, both


def test_the_card_is_written_and_its_figures_are_the_measured_ones(made):
    folder, pipe, *_ = made
    scores = json.loads((folder / "scores.json").read_text())
    page = (folder / "README.md").read_text()
    assert (scores["singles"], scores["pairs"], scores["nouns"], scores["steps"]) == (3, 2, 40, 2)
    assert scores["numbers"]["UNet"] == pipe.unet.num_parameters()
    assert scores["seen"] == {"unet": 640}
    assert scores["forms"] == next(iter(scores["ways"]))
    assert scores["ways"][scores["forms"]] == max(scores["ways"].values())
    assert f"{scores['psnr']:.1f} dB" in page
    assert f"| {scores['named']:.1%} | {scores['named_ceiling']:.1%} |" in page
    for picture in re.findall(r"\]\((\w+\.png)\)", page):
        with Image.open(folder / picture) as image:
            assert image.width > 100
    for licence in ("SIL Open Font License 1.1", "CC-BY 4.0", "Twitter", "MIT", "Apache-2.0"):
        assert licence in page


def test_the_page_changes_with_every_figure(made):
    folder = made[0]
    scores = cardpage.Scores(**json.loads((folder / "scores.json").read_text()))
    page = cardpage.page(scores, TINY)
    assert page == (folder / "README.md").read_text()
    for name, value in vars(scores).items():
        if isinstance(value, float | int):
            changed = cardpage.Scores(**(vars(scores) | {name: value + 7}))
            assert cardpage.page(changed, TINY) != page, name


def test_a_sample_is_its_seeds_whatever_is_drawn_beside_it(made):
    *_, alone, beside = made
    assert np.abs(np.asarray(alone, int) - np.asarray(beside, int)).max() <= 2


def test_pictures_seen_are_read_from_the_trainings(tmp_path):
    import torch

    from cdtool.mini.factory import unet

    torch.save({"update": 10, "model": {}}, tmp_path / "unet.pt")
    assert card.seen(tmp_path) == {"unet": 10 * unet.BATCH}
