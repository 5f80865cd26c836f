"""The model card: how the base is scored, and that every figure on the page was measured."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import cutouts as fakes
import numpy as np
import pytest
from PIL import Image

from cdtool.mini.factory import art, autoencoder, card, cardpage, clip, denoiser, drawings, naming, prompts
from cdtool.mini.factory.student import text_encoder
from cdtool.models.encoders import Encoder, EncoderSpec

NOUNS = ["dog", "cat", "car", "hat"]


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

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(prompts.FOLDER.parent / "base" / "tokenizer")
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pair, text, shape = clip.new(tokenizer).eval(), text_encoder(tokenizer, 32, 1, 2).eval(), denoiser.Shape(
        channels=4, widths=(32, 32), heads=(2, 2), transformers=(1, 1), text_width=32)  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=autoencoder.new(4, (8, 8, 16, 16)).eval(), text_encoder=text, tokenizer=tokenizer,
        unet=denoiser.unet(shape).eval(), scheduler=denoiser.scheduler(), **none,
    )  # fmt: skip
    shelf = drawings.shelf({ids[0]: fakes.shape(fakes.colour_of(noun)) for noun in art.NOUNS
                            if (ids := art.drawings(noun))})  # fmt: skip
    folder = tmp_path_factory.mktemp("card")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"STEPS": 2, "BATCH": 2, "CHOSEN_ON": 4}.items():
            patched.setattr(card, name, value)
        counts = card.Counts(plain=2, singles=3, pairs=2, rebuilt=3)
        told = list(card.of_pipeline(pipe, naming.encoder(pair, tokenizer), shelf, folder, {"student": 640}, counts))
        assert told[-1] == ("card", 7)
        again = card.sample(pipe, ["a dog"], card.SINGLES + 1)[0]
        both = card.sample(pipe, ["a cat", "a dog"], card.SINGLES)[1]
    return folder, pipe, again, both, len(shelf.nouns)


def test_the_card_is_written_and_its_figures_are_the_measured_ones(made):
    folder, pipe, *_, nouns = made
    scores = json.loads((folder / "scores.json").read_text())
    page = (folder / "README.md").read_text()
    assert (scores["singles"], scores["pairs"], scores["nouns"], scores["steps"]) == (3, 2, nouns, 2)
    assert scores["numbers"]["UNet"] == pipe.unet.num_parameters()
    assert scores["seen"] == {"student": 640}
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
    page = cardpage.page(scores)
    assert page == (folder / "README.md").read_text()
    for name, value in vars(scores).items():
        if isinstance(value, float | int):
            assert cardpage.page(replace(scores, **{name: value + 7})) != page, name


def test_a_sample_is_its_seeds_whatever_is_drawn_beside_it(made):
    _, _, alone, beside, _ = made
    assert np.abs(np.asarray(alone, int) - np.asarray(beside, int)).max() <= 2


def test_pictures_seen_are_read_from_the_trainings(tmp_path):
    import torch

    torch.save({"update": 10, "pictures": 640, "model": {}}, tmp_path / "student.pt")
    assert card.seen(tmp_path) == {"student": 640}
