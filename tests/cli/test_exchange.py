"""cdtool export and import on a tiny base: files in and out, what is said, and what an imported concept can do."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import handmade
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cdtool.store import registry

QUICK = ("--steps", 2, "-n", 1, "--precision", "fp32", "--device", "cpu")


@pytest.fixture
def exported(cdtool, sd_base):
    """A concept and the folder of its files for diffusers."""
    entry = handmade.concept(sd_base, rank=2)
    said = cdtool("export", "dog", "--to", "diffusers")
    assert said.code == 0, said.err
    return entry, Path("dog-diffusers")


# ---------------------------------------------------------------- export


def test_export_prints_the_folder_and_how_to_load_it(cdtool, exported):
    said = cdtool("export", "dog", "--to", "diffusers", "-o", "there")
    assert said.out == "there\n"
    assert 'pipe.load_lora_weights("there", weight_name="pytorch_lora_weights.safetensors")' in said.err
    assert 'pipe.load_textual_inversion("there/dog-v1.safetensors")' in said.err
    assert "Rank 2, relative error 0.0e+00." in said.err
    names = {"README.txt", "dog-v1.safetensors", "pytorch_lora_weights.safetensors"}
    assert {path.name for path in Path("there").iterdir()} == names
    assert len({path.stat().st_mode for path in Path("there").iterdir()}) == 1  # all of them as the user's other files


def test_export_as_json(cdtool, exported):
    said = cdtool("export", "dog", "--to", "kohya", "-o", "loras/hound.safetensors", "--rank", 1, "--json")
    data = json.loads(said.out)
    assert (data["concept"], data["format"], data["path"], data["rank"]) == (
        "dog",
        "kohya",
        "loras/hound.safetensors",
        1,
    )
    files = ["hound-bundle.safetensors", "hound-v1.safetensors", "hound.safetensors"]
    assert (
        data["files"] == [f"loras/{name}" for name in files] == [str(path) for path in sorted(Path("loras").iterdir())]
    )
    assert data["bytes"] == sum(Path(path).stat().st_size for path in data["files"])
    assert 0 < data["error"] < 1
    assert "<lora:hound:1>" in data["usage"]


def test_export_does_not_overwrite(cdtool, exported):
    said = cdtool("export", "dog", "--to", "diffusers")
    assert (said.code, said.out) == (4, "")
    assert "is there already" in said.err
    assert cdtool("export", "dog", "--to", "diffusers", "--force", "-q").out == "dog-diffusers\n"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--to", "kohya", "--rank", 2, "--energy", 0.5), "exclude each other"),
        (("--to", "kohya", "--energy", 1.5), "a share above 0 and up to 1"),
        (("--to", "diffusers", "-o", "x.safetensors"), "a folder of files"),
        (("--to", "custom-diffusion", "--rank", 2), "no rank"),
        (("--to", "dreambooth"), "dreambooth"),
    ],
)
def test_export_refuses(cdtool, exported, flags, told):
    said = cdtool("export", "dog", *flags)
    assert (said.code, said.out) == (2, "")
    assert told in said.err


def test_export_of_nothing_names_what_is_near(cdtool, exported):
    said = cdtool("export", "dgo", "--to", "kohya")
    assert said.code == 3
    assert "Did you mean dog" in said.err


# ---------------------------------------------------------------- import


def test_an_imported_concept_is_a_concept(cdtool, exported, sd_base):
    """list, show, sample, export again, and remove, which names who was made from it."""
    entry, folder = exported
    said = cdtool("import", folder, "--token", "V* dog", "--base", sd_base, "--name", "back")
    assert (said.code, said.out) == (0, "back\n"), said.err
    assert 'cdtool sample back "photo of a V* dog"' in said.err
    assert [line.split()[:2] for line in cdtool("list").out.splitlines()[1:]] == [["back", "kv"], ["dog", "kv"]]
    shown = cdtool("show", "back").out
    assert "dog-v1.safetensors, pytorch_lora_weights.safetensors (imported, embedding, diffusers LoRA)" in shown
    assert "begun as   pll\n" in shown  # not ktn, which the concept dog began as
    (parent,) = json.loads(cdtool("show", "back", "--json").out)["parents"]
    assert (parent["by"], parent["format"]) == ("import", "embedding, diffusers LoRA")
    drawn = [cdtool("sample", name, "photo of a V* dog", *QUICK) for name in ("dog", "back")]
    assert [said.code for said in drawn] == [0, 0], drawn[1].err
    one, other = (np.asarray(Image.open(said.out.strip()).convert("RGB"), int) for said in drawn)
    assert np.abs(one - other).max() <= 2
    assert cdtool("export", "back", "--to", "kohya").code == 0
    child = replace(registry.find("back").manifest, name="pair", parents=({"name": "back", "by": "merge"},))
    registry.save(child, load_file(entry.path))
    said = cdtool("remove", "back", "--yes")
    assert "back went into pair" in said.err
    assert registry.names() == ["dog", "pair"]


def test_import_as_json_and_again_if_missing(cdtool, exported, sd_base):
    _, folder = exported
    asked = ("import", folder, "--token", "V* hound", "--base", sd_base, "--json")
    data = json.loads(cdtool(*asked).out)
    assert (data["name"], data["format"], data["method"], data["tokens"]) == (
        "hound", "embedding, diffusers LoRA", "kv", ["V* hound"],
    )  # fmt: skip
    said = cdtool(*asked)
    assert said.code == 4
    assert "already" in said.err
    said = cdtool(*asked, "--if-missing")
    assert said.code == 0
    assert json.loads(said.out)["name"] == "hound"
    assert "nothing to do" in said.err
    assert cdtool(*asked, "--force").code == 0


def test_import_needs_the_words(cdtool, exported):
    said = cdtool("import", exported[1])
    assert (said.code, said.out) == (2, "")
    assert '--token "V* dog"' in said.err


def test_import_on_the_base_in_use_names_it(cdtool, exported, sd_base):
    said = cdtool("base", "use", sd_base)
    said = cdtool("import", exported[1], "--token", "V* dog", "--name", "back")
    assert said.code == 0
    assert f"Reading it as a concept on {sd_base}; name another base with --base NAME." in said.err


def test_import_for_another_base_leaves_nothing(cdtool, exported, sdxl_base):
    said = cdtool("import", exported[1], "--token", "V* dog", "--base", sdxl_base, "--name", "back")
    assert (said.code, said.out) == (4, "")
    assert "--base" in said.err
    assert registry.names() == ["dog"]


def test_a_warning_for_weights_far_from_the_base(cdtool, sd_base):
    w = {name: 9 * tensor for name, tensor in handmade.trained(handmade.load(sd_base)).items()}
    torch.save({"unet": w}, "delta.bin")
    said = cdtool("import", "delta.bin", "--token", "moongate", "--base", sd_base, "-q")
    assert (said.code, said.out) == (0, "moongate\n")
    assert "Warning: These weights differ from those of" in said.err


# ---------------------------------------------------------------- cdtool's own files


def test_a_concept_file_is_copied_as_it_is(cdtool, sd_base):
    entry = handmade.concept(sd_base)
    shutil.copy(entry.path, "hound.safetensors")
    said = cdtool("import", "hound.safetensors")
    assert (said.code, said.out) == (0, "hound\n")
    assert registry.find("hound").path.read_bytes() == entry.path.read_bytes()
    assert cdtool("import", "hound.safetensors").code == 4
    said = cdtool("import", "hound.safetensors", "--if-missing", "--json")
    assert json.loads(said.out)["name"] == "hound"
    registry.add_note("hound", scores={"text": 1.0})
    assert cdtool("import", "hound.safetensors", "--force").code == 0
    assert not registry.note("hound")
    assert cdtool("import", "hound.safetensors", "--name", "rex").out == "rex\n"


def test_a_folder_of_concept_files(cdtool, sd_base):
    entry = handmade.concept(sd_base)
    Path("shared").mkdir()
    for name in ("a", "b"):
        shutil.copy(entry.path, f"shared/{name}.safetensors")
    said = cdtool("import", "shared", "--json")
    assert [json.loads(line)["name"] for line in said.out.splitlines()] == ["a", "b"]
    said = cdtool("import", "shared", "--name", "c")
    assert said.code == 2
    assert "cannot name 2 concepts" in said.err
    said = cdtool("import", "shared", "--token", "V* dog")
    assert said.code == 2
    assert "knows its own words" in said.err
    save_file({"<new1>": torch.ones(16)}, "shared/new1.safetensors")
    said = cdtool("import", "shared", "--force")
    assert said.code == 4
    assert "Import them one by one" in said.err


def test_a_concept_file_that_is_cut_short_or_has_no_name(cdtool, sd_base):
    entry = handmade.concept(sd_base)
    Path("cut.safetensors").write_bytes(entry.path.read_bytes()[:-100])
    said = cdtool("import", "cut.safetensors")
    assert said.code == 4
    assert "cut short" in said.err
    shutil.copy(entry.path, "My Dog.safetensors")
    said = cdtool("import", "My Dog.safetensors")
    assert said.code == 4
    assert "For example my-dog" in said.err
    assert registry.names() == ["dog"]


def test_nothing_is_left_behind_where_the_disk_is_full(cdtool, sd_base, monkeypatch):
    entry = handmade.concept(sd_base)
    shutil.copy(entry.path, "hound.safetensors")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    said = cdtool("import", "hound.safetensors")
    assert said.code == 5
    assert [path.name for path in registry.concepts_dir().iterdir()] == ["dog.safetensors"]
