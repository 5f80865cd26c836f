"""cdtool sample on a tiny base: pictures, their records, and what is refused."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdtool.models import diffusion
from cdtool.store import concept as concepts
from cdtool.store import registry
from cdtool.store.concept import Manifest

QUICK = ("--steps", 3, "--precision", "fp32", "--device", "cpu")


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def furthest(one, other):
    return int(np.abs(pixels(one) - pixels(other)).max())


def record(path):
    with Image.open(path) as image:
        assert image.info["prompt"]
        return json.loads(image.info["cdtool"])


# ---------------------------------------------------------------- pictures and records


def test_what_is_there_is_not_made_again(cdtool, concept, tmp_path):
    entry = concept()
    made = ("sample", "dog", "photo of a V* dog", "V* dog on grass", "--seed", 5, *QUICK)
    first = cdtool(*made, "-n", 2).out.splitlines()
    again = cdtool(*made, "-n", 3, "--skip-existing", "--grid", "grid.png")
    assert again.code == 0
    assert again.out.splitlines() == ["samples/dog/photo-of-a-v-dog-7.png", "samples/dog/v-dog-on-grass-7.png"]
    assert "2 images. 4 more were there already." in again.err
    assert Path("grid.png").is_file()
    nothing = cdtool(*made, "-n", 3, "--skip-existing")
    assert (nothing.code, nothing.out) == (0, "")
    Path(first[0]).unlink()
    assert cdtool(*made, "-n", 3, "--skip-existing").out.splitlines() == first[:1]
    other = cdtool(*made, "-n", 1, "--guidance", 2, "--skip-existing").out
    assert len(other.splitlines()) == 2, "other settings make other images"
    os.utime(entry.path, (time.time() + 9, time.time() + 9))
    assert len(cdtool(*made, "-n", 1, "--skip-existing").out.splitlines()) == 2, "the concept is newer"


def test_an_image_to_begin_with_is_recorded_and_replayed(cdtool, concept, tmp_path):
    concept()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save("sketch.png")
    made = ("sample", "dog", "photo of a V* dog", "-n", 1, *QUICK)
    plain, begun = cdtool(*made), cdtool(*made, "--init-image", "sketch.png", "--strength", 0.7)
    assert (plain.code, begun.code) == (0, 0), begun.err
    first, second = plain.out.strip(), begun.out.strip()
    assert furthest(first, second) > 0
    about = record(second)["init"]
    assert (about["file"], about["strength"]) == ("sketch.png", 0.7)
    assert json.loads(cdtool("sample", "--replay", second, "--json").out)["difference"] == 0
    assert cdtool(*made, "--init-image", "sketch.png", "--strength", 0.7, "--skip-existing").out == ""
    assert cdtool(*made, "--init-image", "sketch.png", "--skip-existing").out != ""
    assert cdtool(*made, "--strength", 0.5).code == 2
    assert cdtool(*made, "--init-image", "sketch.png", "--strength", 0).code == 2
    assert cdtool(*made, "--init-image", "nothing.png").code == 3
    Image.new("RGB", (40, 60)).save("sketch.png")
    other = cdtool("sample", "--replay", second)
    assert other.code == 4
    assert "another image" in other.err


def test_pictures_are_named_told_and_recorded(cdtool, concept, sd_base, tmp_path):
    entry = concept()
    prompts = ("photo of a V* dog", "V* dog on the beach")
    said = cdtool("sample", "dog", *prompts, "-n", 2, "--seed", 5, *QUICK)
    assert said.code == 0
    paths = said.out.splitlines()
    names = ["photo-of-a-v-dog-5", "photo-of-a-v-dog-6", "v-dog-on-the-beach-5", "v-dog-on-the-beach-6"]
    assert paths == [f"samples/dog/{name}.png" for name in names]
    assert "4 images" in said.err
    lines = [json.loads(line) for line in Path("samples/dog/samples.jsonl").read_text().splitlines()]
    assert [line.pop("file") for line in lines] == [f"{name}.png" for name in names]
    for place, (path, line) in enumerate(zip(paths, lines, strict=True)):
        assert pixels(path).shape == (16, 16, 3)
        about = record(path)
        assert about == line
        assert (about["prompt"], about["seed"]) == (prompts[place // 2], 5 + place % 2)
        assert (about["subject"], about["base"]) == ("dog", str(sd_base))
        assert about["fingerprint"] == entry.manifest.base.fingerprint
        assert set(about["versions"]) == {"cdtool", "torch", "diffusers"}
        assert about["settings"]["precision"] == "fp32"
        assert about["settings"]["steps"] == 3
    assert furthest(*paths[:2]) > 10


def test_json_is_one_object_per_picture_and_quiet_the_paths_alone(cdtool, sd_base, tmp_path):
    said = cdtool("sample", sd_base, "a dog", "-n", 2, "--json", "--out", tmp_path / "out", *QUICK)
    objects = [json.loads(line) for line in said.out.splitlines()]
    assert [entry["schema"] for entry in objects] == [1, 1]
    assert [entry["path"] for entry in objects] == [str(tmp_path / f"out/a-dog-{seed}.png") for seed in (0, 1)]
    said = cdtool("sample", sd_base, "a cat", "-n", 1, "-q", "--out", tmp_path / "out", *QUICK)
    assert said.out.splitlines() == [str(tmp_path / "out/a-cat-0.png")]
    assert said.err == ""


def test_nothing_is_overwritten_and_a_base_folder_is_left_alone(cdtool, sd_base):
    held = sorted(path.name for path in sd_base.iterdir())
    first = cdtool("sample", sd_base, "a dog", "-n", 1, *QUICK).out.split()
    again = cdtool("sample", sd_base, "a dog", "-n", 1, *QUICK).out.split()
    assert first == ["samples/tiny-sd/a-dog-0.png"]
    assert again == ["samples/tiny-sd/a-dog-0-2.png"]
    assert len(Path("samples/tiny-sd/samples.jsonl").read_text().splitlines()) == 2
    assert furthest(first[0], again[0]) == 0
    assert sorted(path.name for path in sd_base.iterdir()) == held


def test_a_concept_file_somewhere_else_can_be_drawn(cdtool, concept, tmp_path):
    path = shutil.copy(concept().path, tmp_path / "given.safetensors")
    said = cdtool("sample", path, "V* dog", "-n", 1, *QUICK)
    assert said.code == 0
    assert said.out.split() == ["samples/given/v-dog-0.png"]


def test_the_concept_shows(cdtool, concept, sd_base):
    concept()
    (tuned,) = cdtool("sample", "dog", "a V* dog", "-n", 1, *QUICK).out.split()
    (plain,) = cdtool("sample", sd_base, "a dog", "-n", 1, *QUICK).out.split()
    assert furthest(tuned, plain) > 2


def test_a_picture_does_not_depend_on_its_batch(cdtool, concept, tmp_path):
    concept()
    one_by_one = []
    together = cdtool("sample", "dog", "a V* dog", "V* dog", "-n", 2, "--batch", 4, "--out", tmp_path / "a", *QUICK)
    for seed in (0, 1):
        for prompt in ("a V* dog", "V* dog"):
            alone = ("-n", 1, "--seed", seed, "--batch", 1, "--out", tmp_path / "b")
            one_by_one += cdtool("sample", "dog", prompt, *alone, *QUICK).out.split()
    drawn = {path.rsplit("/", 1)[1]: path for path in together.out.split()}
    assert len(drawn) == len(one_by_one) == 4
    for path in one_by_one:
        assert furthest(path, drawn[path.rsplit("/", 1)[1]]) <= 2


def test_the_seed_makes_the_picture(cdtool, sd_base):
    one, other = cdtool("sample", sd_base, "a dog", "-n", 2, *QUICK).out.split()
    (again,) = cdtool("sample", sd_base, "a dog", "-n", 1, "--seed", 1, *QUICK).out.split()
    assert furthest(other, again) <= 2
    assert furthest(one, again) > 10


@pytest.mark.parametrize("name", diffusion.SCHEDULERS)
def test_every_scheduler_draws(cdtool, sd_base, name):
    said = cdtool("sample", sd_base, "a dog", "-n", 1, "--scheduler", name, *QUICK)
    assert said.code == 0
    assert pixels(said.out.strip()).std() > 1


def test_sizes_guidance_and_negative_prompts(cdtool, sd_base):
    drawn = [cdtool("sample", sd_base, "a dog", "-n", 1, *QUICK, *more).out.strip()
             for more in ((), ("--guidance", 1), ("--negative", "cat beach"), ("--size", "24x16"))]  # fmt: skip
    assert furthest(drawn[0], drawn[1]) > 0
    assert furthest(drawn[0], drawn[2]) > 0
    assert pixels(drawn[3]).shape == (16, 24, 3)
    assert cdtool("sample", sd_base, "a dog", "--size", "17x16", *QUICK).code == 2


def test_an_option_without_effect_is_said_in_one_line(cdtool, sd_base):
    said = cdtool("sample", sd_base, "a dog", "-n", 1, "--eta", 0.5, "--scheduler", "unipc", *QUICK)
    assert said.code == 0
    assert said.err.count("Warning") == 1
    assert "--eta has no effect with --scheduler unipc" in said.err


def test_bf16_and_sdxl_draw(cdtool, sdxl_base):
    for precision in ("fp32", "bf16"):
        said = cdtool("sample", sdxl_base, "a dog", "-n", 1, "--steps", 2, "--precision", precision, "--device", "cpu")
        assert said.code == 0
        assert record(said.out.strip())["settings"]["precision"] == precision


# ---------------------------------------------------------------- prompts


def test_prompts_come_from_files_and_standard_input(cdtool, sd_base, tmp_path, monkeypatch):
    path = tmp_path / "prompts.txt"
    path.write_text("# two of them\na dog\n\n  the beach  \n", encoding="utf-8")
    said = cdtool("sample", sd_base, "a cat", "--prompts", path, "-n", 1, *QUICK)
    assert [record(line)["prompt"] for line in said.out.split()] == ["a cat", "a dog", "the beach"]
    monkeypatch.setattr("sys.stdin", io.StringIO("moongate\n"))
    said = cdtool("sample", sd_base, "--prompts", "-", "-n", 1, *QUICK)
    assert [record(line)["prompt"] for line in said.out.split()] == ["moongate"]
    assert cdtool("sample", sd_base, "--prompts", tmp_path / "lost.txt", *QUICK).code == 3
    path.write_bytes(b"\xff\xfe\x00a")
    assert cdtool("sample", sd_base, "--prompts", path, *QUICK).code == 4
    assert cdtool("sample", sd_base, *QUICK).code == 2


def test_a_token_the_concept_does_not_hold_is_refused_with_those_it_has(cdtool, concept):
    concept("pair", "dog", "cat")
    for prompt in ("V3 bird", "V* dog"):
        said = cdtool("sample", "pair", prompt, *QUICK)
        assert said.code == 4
        assert '"V1 dog", "V2 cat"' in said.err
        assert said.out == ""
    assert cdtool("sample", "pair", "\\V8 and V1 dog", "-n", 1, *QUICK).code == 0


def test_a_bare_base_holds_no_token(cdtool, sd_base):
    said = cdtool("sample", sd_base, "V* dog", *QUICK)
    assert said.code == 4
    assert "no token" in said.err


def test_prompts_that_may_not_be_meant_are_drawn_with_a_warning(cdtool, concept):
    concept()
    said = cdtool("sample", "dog", "a dog", "V* dog", "-n", 1, *QUICK)
    assert said.code == 0
    assert said.err.count("Warning") == 1
    assert '"a dog" names no token' in said.err
    assert '"V* dog"' in said.err
    said = cdtool("sample", "dog", "V* dog" + " dog" * 80, "-n", 1, "-q", *QUICK)
    assert "longer than the base reads" in said.err


# ---------------------------------------------------------------- contact sheet and replay


def test_the_grid_holds_every_picture(cdtool, sd_base, tmp_path):
    said = cdtool("sample", sd_base, "a dog", "a cat", "-n", 2, "--grid", tmp_path / "grid.png", *QUICK)
    assert said.code == 0
    sheet = pixels(tmp_path / "grid.png")
    for path in said.out.split():
        shown = np.asarray(Image.fromarray(pixels(path).astype(np.uint8)).resize((128, 128), Image.Resampling.NEAREST))
        places = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (128, 128))
        assert any((places[top, left] == shown[..., 0]).all()
                   for top, left in zip(*np.where(places[..., 0, 0] == shown[0, 0, 0]), strict=True))  # fmt: skip


@pytest.mark.parametrize(("grid", "code"), [("grid.nonsense", 2), ("lost/grid.png", 3)])
def test_a_grid_that_cannot_be_written_is_told_before_drawing(cdtool, sd_base, tmp_path, grid, code):
    said = cdtool("sample", sd_base, "a dog", "--grid", tmp_path / grid, *QUICK)
    assert said.code == code
    assert said.out == ""


def test_a_picture_is_drawn_again_from_its_own_record(cdtool, concept, sd_base, tmp_path):
    concept()
    asked = ("-n", 4, "--guidance", 3, "--scheduler", "dpm++", "--negative", "cat", "--size", "24x16")
    third = cdtool("sample", "dog", "a V* dog", *asked, *QUICK).out.split()[2]
    said = cdtool("sample", "--replay", third, "--json", "--device", "cpu")
    made = json.loads(said.out)
    assert said.code == 0
    assert made["difference"] <= 2
    assert made["path"] != third
    assert furthest(made["path"], third) == made["difference"]
    assert record(third) == record(made["path"])
    moved = shutil.copy(third, tmp_path / "mail.png")
    said = cdtool("sample", "--replay", moved, "--out", tmp_path / "out", "--device", "cpu")
    assert said.out.startswith(str(tmp_path / "out"))
    assert "Largest difference to mail.png" in said.err


def test_a_replay_on_other_weights_is_refused(cdtool, sd_base, sd_v_base):
    (path,) = cdtool("sample", sd_base, "a dog", "-n", 1, *QUICK).out.split()
    said = cdtool("sample", "--replay", path, "--base", sd_v_base, "--device", "cpu")
    assert said.code == 4
    assert f"--base {sd_base}" in said.err
    assert cdtool("sample", "--replay", path, "--base", sd_v_base, "--force", "--device", "cpu").code == 0


def test_what_cdtool_did_not_draw_cannot_be_replayed(cdtool, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "other.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, code in (("other.png", 4), ("text.png", 4), ("lost.png", 3)):
        assert cdtool("sample", "--replay", tmp_path / name).code == code


# ---------------------------------------------------------------- bases that do not fit


def test_another_base_is_refused_and_force_lets_equal_shapes_pass(cdtool, concept, sd_v_base, sdxl_base, sd_base):
    concept()
    said = cdtool("sample", "dog", "V* dog", "-n", 1, "--base", sd_v_base, *QUICK)
    assert said.code == 4
    assert f"--base {sd_base}" in said.err
    assert cdtool("sample", "dog", "V* dog", "-n", 1, "--base", sd_v_base, "--force", *QUICK).code == 0
    assert cdtool("sample", "dog", "V* dog", "-n", 1, "--base", sdxl_base, "--force", *QUICK).code == 4


def test_what_is_neither_concept_nor_base_is_not_found(cdtool, concept):
    concept()
    said = cdtool("sample", "dgo", "V* dog", *QUICK)
    assert said.code == 3
    assert "dog" in said.err


# ---------------------------------------------------------------- several concepts


def test_joined_concepts_draw_and_are_recorded_and_replayed(cdtool, concept):
    concept("dog", "dog")
    concept("cat", "cat")
    said = cdtool("sample", "dog:0.5+cat", "V1 dog on the beach V2 cat", "-n", 1, *QUICK)
    assert said.code == 0
    (path,) = said.out.split()
    assert path == "samples/dog-0.5+cat/v1-dog-on-the-beach-v2-cat-0.png"
    assert "Warning" not in said.err
    assert record(path)["subject"] == "dog:0.5+cat"
    again = json.loads(cdtool("sample", "--replay", path, "--json", "--device", "cpu").out)
    assert (again["difference"], again["subject"]) == (0, "dog:0.5+cat")
    whole = cdtool("sample", "dog+cat", "V1 dog on the beach V2 cat", "-n", 1, *QUICK).out.strip()
    assert furthest(path, whole) > 0


def test_a_concept_of_full_weight_draws_what_it_draws_alone(cdtool, concept, sd_base):
    concept("dog", "dog")
    drawn = [cdtool("sample", name, "V* dog", "-n", 1, *QUICK).out.strip() for name in ("dog", "dog:1", "dog:0.3")]
    assert furthest(drawn[0], drawn[1]) == 0
    assert furthest(drawn[0], drawn[2]) > 0


def test_words_that_name_nobody_are_drawn_as_the_base_draws_them(cdtool, concept, sd_base):
    concept("dog", "dog")
    concept("cat", "cat")
    joined = cdtool("sample", "dog+cat", "the beach", "-n", 1, "--negative", "a cat", *QUICK)
    assert "names no token" in joined.err
    plain = cdtool("sample", sd_base, "the beach", "-n", 1, "--negative", "a cat", *QUICK)
    assert furthest(joined.out.strip(), plain.out.strip()) == 0


def test_a_prompt_that_does_not_name_every_part_is_told(cdtool, concept):
    concept("dog", "dog")
    concept("cat", "cat")
    said = cdtool("sample", "dog+cat", "V1 dog", "V2 cat V1 dog", "-n", 1, *QUICK)
    assert said.code == 0
    assert said.err.count("Warning") == 1
    assert '"V1 dog" does not name "V2 cat"' in said.err


@pytest.mark.parametrize(
    ("subject", "code", "told"),
    [
        ("dog+", 2, "without a name"),
        ("dog:x", 2, "not a weight"),
        ("dog:-1+dog", 2, "not a weight"),
        ("dog+mini", 2, "is a base"),
        ("dog+dgo", 3, "dog"),
        ("dog+foreign", 4, "trained on"),
        ("dog+whole", 4, "cannot be joined"),
    ],
)
def test_subjects_that_cannot_be_drawn_are_one_sentence(cdtool, concept, saved, subject, code, told):
    entry = concept("dog", "dog")
    saved("foreign")
    saved("whole", method="full", base=entry.manifest.base)
    said = cdtool("sample", subject, "V1 dog", *QUICK)
    assert said.code == code
    assert told in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_what_changes_more_than_its_method_says_is_not_joined(cdtool, concept):
    """The tensors count, whatever the manifest says."""
    entry = concept("dog", "dog")
    tensors = concepts.read_tensors(entry.path)
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"
    tensors[name] = torch.zeros(16, 16)
    registry.save(Manifest(name="odd", base=entry.manifest.base, tokens=entry.manifest.tokens), tensors)
    said = cdtool("sample", "dog+odd", "V1 dog by V2 dog", *QUICK)
    assert said.code == 4
    assert '"odd"' in said.err


@pytest.mark.parametrize("command", [("show",), ("remove", "--yes"), ("rename", "other")])
def test_commands_for_one_concept_refuse_joined_ones(cdtool, concept, command):
    concept("dog", "dog")
    said = cdtool(command[0], "dog+dog", *command[1:])
    assert said.code == 2
    assert "one concept" in said.err
    assert registry.names() == ["dog"]


# ---------------------------------------------------------------- disks


def test_a_folder_that_cannot_be_written_is_one_sentence(cdtool, sd_base, tmp_path):
    (tmp_path / "file").touch()
    said = cdtool("sample", sd_base, "a dog", "-n", 1, "--out", tmp_path / "file", *QUICK)
    assert said.code == 5
    assert "--out" in said.err


def test_a_full_disk_is_one_sentence_and_leaves_no_half_picture(cdtool, sd_base, monkeypatch, tmp_path):
    def full(self, file, *_, **__):
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    said = cdtool("sample", sd_base, "a dog", "-n", 1, "--out", tmp_path / "out", *QUICK)
    assert said.code == 5
    assert "No space left" in said.err
    assert not list((tmp_path / "out").iterdir())
