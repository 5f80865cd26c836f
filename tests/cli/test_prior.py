"""cdtool prior list, make, add, show and remove, and train with what they made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny_pipelines
from corpora_made import encoder, noise, tar
from PIL import Image

from cdtool.models import encoders
from cdtool.priors import sets as priorsets


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A corpus of ten dogs, nearer and farther, and the encoder of the circle in place of CLIP."""
    monkeypatch.setattr(encoders, "load", lambda *_: encoder())
    members = [(f"{n}.{kind}", content) for n in range(10)
               for kind, content in (("png", noise(n)), ("txt", f"dog {8 * n}".encode()))]  # fmt: skip
    return tar(tmp_path / "corpus.tar", members)


@pytest.fixture
def photos(tmp_path):
    return tiny_pipelines.photos(tmp_path / "photos")


def draw(base, *more):
    return ["prior", "make", "dog", "--generate", 3, "--steps", 1, "--base", base, "--precision", "fp32", "--device",
            "cpu", *more]  # fmt: skip


def sets(cdtool):
    return json.loads(cdtool("prior", "list", "--json").out)


# ---------------------------------------------------------------- list, make, add, show, remove


def test_nothing_yet(cdtool):
    said = cdtool("prior", "list")
    assert (said.code, said.out) == (0, "")
    assert "cdtool prior make" in said.err
    assert sets(cdtool) == {"schema": 1, "sets": [], "unfinished": []}


def test_a_set_retrieved_shown_listed_and_removed(cdtool, corpus, sd_base, tmp_path):
    said = cdtool("prior", "make", "dog", "--from", corpus, "--base", sd_base, "--count", 3)
    assert (said.code, said.out) == (0, "dog\n")
    assert "captions 1/1" in said.err
    assert "3 images" in said.err
    assert "--prior dog" in said.err
    assert cdtool("prior", "list").out.splitlines()[1].split()[:4] == ["dog", "dog", "3", "retrieved"]
    assert cdtool("prior", "list", "-q").out == "dog\n"
    sheet = tmp_path / "sheet.png"
    said = cdtool("prior", "show", "dog", "--grid", sheet)
    facts = dict(line.split(maxsplit=1) for line in said.out.splitlines())
    assert facts["floor"] == "0.85"
    assert facts["similarity"] == "0.96 to 1.00"
    assert facts["captions"] == "dog 0; dog 8; dog 16"
    with Image.open(sheet) as image:
        assert image.width > 3 * 128
    data = json.loads(cdtool("prior", "show", "dog", "--json").out)
    assert [image["caption"] for image in data["images"]] == ["dog 0", "dog 8", "dog 16"]
    assert (data["count"], data["bytes"], data["origin"]["corpus"]) == (
        3,
        sum(len(noise(n)) for n in range(3)),
        str(corpus),
    )
    said = cdtool("prior", "remove", "dog")
    assert (said.code, priorsets.names()) == (2, ["dog"])
    assert "--yes" in said.err
    assert json.loads(cdtool("prior", "remove", "dog", "--yes", "--json").out) == {"schema": 1, "removed": ["dog"]}
    assert sets(cdtool)["sets"] == []
    assert cdtool("prior", "remove", "dog", "--yes").code == 3


def test_floor_name_style_and_the_word_before_the_noun(cdtool, corpus, sd_base):
    assert cdtool("prior", "make", "V* Teddy bear", "--from", corpus, "--base", sd_base, "--floor", 0.99).code == 0
    entry = priorsets.find("teddy-bear")
    assert (entry.manifest.noun, len(entry.manifest.images)) == ("Teddy bear", 2)
    said = cdtool(
        "prior", "make", "art", "--from", corpus, "--base", sd_base, "--style", "--name", "paintings", "--json"
    )
    assert json.loads(said.out)["name"] == "paintings"
    assert priorsets.find("paintings").manifest.style


def test_a_name_in_use_force_and_if_missing(cdtool, corpus, sd_base):
    command = ["prior", "make", "dog", "--from", corpus, "--base", sd_base]
    cdtool(*command, "--count", 1)
    said = cdtool(*command)
    assert said.code == 4
    assert "--force" in said.err
    said = cdtool(*command, "--if-missing", "-q")
    assert (said.code, said.out, said.err) == (0, "dog\n", "")
    assert len(priorsets.find("dog").manifest.images) == 1
    assert cdtool(*command, "--force").code == 0
    assert len(priorsets.find("dog").manifest.images) > 1


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        ([], 2, "--generate"),
        (["--from", "x", "--generate", 3], 2, "--from"),
        (["--from", "x", "--steps", 3], 2, "--steps has no meaning with --from"),
        (["--generate", 3, "--floor", 0.5], 2, "--floor has no meaning with --generate"),
        (["--from", "x", "--floor", 2], 2, "floor is a cosine"),
        (["--from", "x", "--count", 0], 2, "count must be above zero"),
        (["--generate", 0], 2, "--generate"),
        (["--from", "nowhere"], 3, "no corpus nowhere"),
        (["--from", "x", "--name", "auto"], 4, "meaning of its own"),
        (["--generate", 3, "--base", "nowhere/at-all"], 3, "not on this machine"),
    ],
)
def test_what_cannot_be_made_is_told(cdtool, monkeypatch, more, code, told):
    monkeypatch.setattr(encoders, "load", lambda *_: encoder())
    said = cdtool("prior", "make", "dog", *more)
    assert said.code == code, said.err
    assert told in said.err


def test_no_class_is_no_set(cdtool):
    assert cdtool("prior", "make", "V*", "--generate", 3).code == 4


def test_drawn_by_the_base(cdtool, sd_base):
    said = cdtool(*draw(sd_base, "--json"))
    assert said.code == 0, said.err
    assert json.loads(said.out)["count"] == 3
    assert "image 3/3" in said.err
    assert priorsets.find("dog").manifest.origin["steps"] == 1


def test_ones_own_folder(cdtool, photos):
    (photos / "1.txt").write_text("a brown dog")
    (photos / "notes.pdf").write_bytes(b"x")
    said = cdtool("prior", "add", photos, "--class", "dog")
    assert (said.code, said.out) == (0, "dog\n")
    assert "Skipped notes.pdf" in said.err
    said = cdtool("prior", "add", photos, "--json")
    assert (json.loads(said.out)["noun"], json.loads(said.out)["name"]) == ("photos", "photos")
    assert "--class says another" in said.err
    assert cdtool("prior", "add", photos).code == 4
    assert cdtool("prior", "add", photos, "--if-missing", "-q").out == "photos\n"
    assert cdtool("prior", "add", photos / "gone").code == 3
    assert "(the class's template) (2)" in cdtool("prior", "show", "photos").out


def test_show_refuses_what_it_cannot_write(cdtool, photos, tmp_path):
    cdtool("prior", "add", photos, "--class", "dog")
    assert cdtool("prior", "show", "dog", "--grid", tmp_path / "sheet.docx").code == 2
    assert cdtool("prior", "show", "dog", "--grid", tmp_path / "gone" / "sheet.png").code == 3
    assert cdtool("prior", "show", "dgo").code == 3


def test_damaged_sets_are_listed_and_can_go(cdtool, home, photos):
    cdtool("prior", "add", photos, "--class", "dog")
    (home / "priors" / "dog.json").write_text("{")
    assert "damaged" in cdtool("prior", "list").out
    assert sets(cdtool)["sets"][0]["damaged"]
    assert cdtool("prior", "show", "dog").code == 4
    assert cdtool("prior", "remove", "dog", "-y").code == 0


def killed(arguments, after, number):
    """Run a command in a process of its own and end it with a signal once `after` holds; what it printed, its code."""
    code = "import sys; from cdtool.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stderr=subprocess.PIPE, text=True
    ) as child:
        while not after() and child.poll() is None:
            time.sleep(0.02)
        child.send_signal(number)
        _, err = child.communicate()
        return child.returncode, err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_a_killed_making_leaves_no_set_and_is_gone_on_with(cdtool, sd_base, home, number):
    command = ["prior", "make", "dog", "--generate", 24, "--steps", 20, "--batch", 1, "--base", sd_base,
               "--device", "cpu", "--precision", "fp32"]  # fmt: skip

    def begun():
        return len(list((home / "priors").glob(".*.unfinished/*.png"))) > 1

    code, err = killed(command, begun, number)
    assert code == (130 if number == signal.SIGINT else -number), err
    assert sets(cdtool)["sets"] == []
    (half,) = sets(cdtool)["unfinished"]
    assert half["name"] == "dog"
    assert 0 < half["images"] < 24
    said = cdtool(*command)
    assert said.code == 0, said.err
    whole = [image.sha256 for image in priorsets.find("dog").manifest.images]
    assert sets(cdtool)["unfinished"] == []
    cdtool("prior", "remove", "dog", "--yes")
    cdtool(*command)
    assert [image.sha256 for image in priorsets.find("dog").manifest.images] == whole


# ---------------------------------------------------------------- train


def train(base, photos, *more):
    return ["train", photos, "--token", "V* dog", "--base", base, "--batch", 2, "--steps", 2, "--precision", "fp32",
            "--device", "cpu", "--force", *more]  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    """Few images and steps where a training draws its own."""
    from cdtool.priors import choose

    monkeypatch.setattr(choose, "QUICK", priorsets.Generation(count=3, steps=1))


def test_auto_draws_a_few_images_once_where_there_is_nothing_else(cdtool, sd_base, photos, quick):
    plan = cdtool(*train(sd_base, photos, "--dry-run"))
    assert "3 class images to be generated first" in plan.out
    assert "of sampling them" in plan.out
    assert sets(cdtool)["sets"] == []
    said = cdtool(*train(sd_base, photos))
    assert said.code == 0, said.err
    assert "class image 3/3" in said.err
    assert 'Prior: 3 class images of the set "dog-tiny-sd-1"' in said.err
    again = cdtool(*train(sd_base, photos))
    assert "Generating" not in again.err
    data = json.loads(cdtool(*train(sd_base, photos, "--dry-run", "--json")).out)
    assert data["prior_seconds"] == 0


def test_auto_takes_the_users_set_of_the_class(cdtool, sd_base, photos):
    cdtool("prior", "add", photos, "--class", "dog", "--name", "mine")
    said = cdtool(*train(sd_base, photos))
    assert said.code == 0, said.err
    assert 'Prior: 3 class images of the set "mine" (own)' in said.err
    assert 'of the set "mine"' in cdtool(*train(sd_base, photos, "--dry-run")).out


def test_a_set_by_name_and_generated(cdtool, sd_base, photos, quick):
    cdtool("prior", "add", photos, "--class", "cat", "--name", "cats")
    assert 'of the set "cats"' in cdtool(*train(sd_base, photos, "--prior", "cats")).err
    said = cdtool(*train(sd_base, photos, "--prior", "cat"))
    assert said.code == 3
    assert "cats" in said.err
    said = cdtool(*train(sd_base, photos, "--prior", "generated", "--prior-count", 2))
    assert said.code == 0, said.err
    assert "class image 2/2" in said.err
    assert priorsets.names() == ["cats", "dog-tiny-sd-50"]


def test_kept_latents_give_the_same_concept_bit_by_bit(cdtool, sd_base, photos, home):
    import torch

    from cdtool.store import concept, registry

    cdtool("prior", "add", photos, "--class", "dog", "--name", "mine")

    def tensors():
        said = cdtool(*train(sd_base, photos, "--prior", "mine"))
        assert said.code == 0, said.err
        return concept.read_tensors(registry.find("dog").path)

    first = tensors()
    kept = sorted((home / "cache" / "latents").rglob("*.latents"))
    assert kept
    second = tensors()
    for path in kept:
        path.write_bytes(b"damaged")
    third = tensors()
    for other in (second, third):
        assert first.keys() == other.keys()
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_a_stopped_drawing_of_a_training_is_gone_on_with(cdtool, sd_base, photos, monkeypatch):
    from cdtool.priors import make

    plain, count = make._images, []

    def stop(*arguments):
        count.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(make, "_images", stop)
        said = cdtool(*train(sd_base, photos, "--prior", "generated", "--prior-count", 6))
    assert said.code == 130, said.err
    assert "Stopped after 4 of 6 class images" in said.err
    assert (sets(cdtool)["sets"], sets(cdtool)["unfinished"][0]["images"]) == ([], 4)
    assert cdtool(*train(sd_base, photos, "--prior", "generated", "--prior-count", 6)).code == 0
    assert len(count) == 1
