"""Cards: what they say, what they show, and what stays on this machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

from PIL import Image
from sampled import sampled

from cdtool.sharing import pictures
from cdtool.store import registry
from cdtool.store.concept import BaseRef
from cdtool.tokens import Token

SCORES = {
    "concept": {"text": 0.71, "image": 0.62}, "base": {"text": 0.75}, "encoder": "clip-vit-b32", "samples": 40,
    "difference": {"text": {"mean": -0.04, "low": -0.06, "high": -0.02}}, "anything": 1,
}  # fmt: skip


def header(card):
    lines = card.split("---\n")[1].splitlines()
    return {line.partition(": ")[0]: json.loads(line.partition(": ")[2]) for line in lines}


def test_a_card_says_what_the_concept_is(cdtool, saved):
    saved("dog", base=BaseRef("sd15", "sd1", "f00d" * 8), photos=("a", "b"), settings={"steps": 250, "lr": 1e-5})
    registry.add_note("dog", evaluation=SCORES)
    sampled(Path("samples/dog"), "dog", "V* dog | on the beach")
    sampled(Path("samples/dog"), "cat", "V* cat")
    done = cdtool("card", "dog", "--licence", "cc-by-4.0")
    assert (done.code, done.out) == (0, "dog-card/README.md\n")
    card = Path("dog-card/README.md").read_text()
    table = header(card)
    assert table["license"] == "cc-by-4.0"
    assert table["base_model"] == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert table["instance_prompt"] == "V* dog"
    assert table["widget"] == [{"text": "V* dog | on the beach", "output": {"url": "images/1.png"}}]
    assert r"| ![](images/1.png) | V&#42; dog \| on the beach | 0 |" in card
    assert "| text | 0.710 | 0.750 | −0.040 [−0.060, −0.020] |" in card
    assert "| image | 0.620 |  |  |" in card
    assert "**V&#42; dog**: a concept for `stable-diffusion-v1-5/stable-diffusion-v1-5`" in card
    assert "40 pictures, measured with clip-vit-b32." in card
    assert "* photos: 2 photos" in card
    assert "* settings: steps 250, lr 1e-05" in card
    assert [path.name for path in Path("dog-card/images").iterdir()] == ["1.png"]


def test_a_picture_takes_nothing_but_its_pixels_along(cdtool, saved):
    saved("dog")
    path = sampled(Path("samples/dog"), "dog", "V* dog", colour=(1, 2, 3))
    assert b"/home/ada" in path.read_bytes()
    cdtool("card", "dog")
    copy = Path("dog-card/images/1.png")
    assert b"ada" not in copy.read_bytes()
    with Image.open(path) as ours, Image.open(copy) as theirs:
        assert ours.convert("RGB").tobytes() == theirs.convert("RGB").tobytes()


def test_words_of_a_stranger_are_text(cdtool, saved):
    saved("dog", tokens=(Token("dog\n---\nlicense: mit <img> `x`", ids=(7,)),), base=BaseRef("mine", "sd1", "0" * 32))
    cdtool("card", "dog")
    card = Path("dog-card/README.md").read_text()
    assert "license" not in header(card)
    assert "base_model" not in header(card)
    body = card.split("---\n", 2)[2]
    assert "<img>" not in re.sub(r"```.*?```", "", body, flags=re.DOTALL)
    assert "No licence was named" in card


def test_a_damaged_note_leaves_the_scores_out(cdtool, saved):
    saved("dog")
    registry.add_note("dog", evaluation={"concept": {"text": "much"}})
    assert cdtool("card", "dog").code == 0
    assert "## Scores" not in Path("dog-card/README.md").read_text()


def test_a_card_is_not_replaced_unasked(cdtool, saved):
    saved("dog")
    assert cdtool("card", "dog").code == 0
    assert cdtool("card", "dog").code == 4
    assert cdtool("card", "dog", "--force").code == 0
    assert cdtool("card", "dog", "-o", "other", "--images", "nowhere").code == 3


def test_each_prompt_is_shown_before_a_second_of_one(tmp_path):
    for seed in (1, 0):
        for prompt in ("one", "two"):
            sampled(tmp_path, "dog", prompt, seed)
    shown = pictures.of("dog", pictures.find([tmp_path]), 3)
    assert sorted(one.prompt for one in shown[:2]) == ["one", "two"]
    assert [one.seed for one in shown] == [0, 0, 1]


def test_other_files_are_no_samples(tmp_path):
    (tmp_path / "note.png").write_text("no picture")
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    assert pictures.find([tmp_path]) == []


def test_an_export_brings_its_card(cdtool, sd_base):
    import handmade

    handmade.concept(sd_base, "V* dog", rank=2)
    assert cdtool("export", "dog", "--to", "kohya", "--card").code == 0
    assert header(Path("dog-kohya/README.md").read_text())["instance_prompt"] == "V* dog"
    again = cdtool("export", "dog", "--to", "diffusers", "--card", "-o", "dog-kohya")
    assert (again.code, "README.md is there already" in again.err) == (4, True)
