"""cdtool base list, use and show."""

from __future__ import annotations

import json

import ldm_files
import pytest
import torch
from safetensors.torch import save_file

from cdtool import settings, sources
from cdtool.errors import NotFoundError
from cdtool.store import bases


@pytest.fixture
def mini(tmp_path, monkeypatch):
    folder = tmp_path / "mini"
    tables = {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "text_encoder": ["transformers", "CLIPTextModel"],
        },
        "unet/config.json": {"cross_attention_dim": 3, "sample_size": 16},
        "vae/config.json": {"block_out_channels": [1, 1, 1]},
        "scheduler/scheduler_config.json": {"prediction_type": "epsilon"},
        "text_encoder/config.json": {},
    }
    for name, table in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(table))
    for part in ("unet", "text_encoder"):
        save_file({"mid.attn2.to_v.weight": torch.zeros(4, 3)}, folder / part / "model.safetensors")
    monkeypatch.setattr(bases, "MINI", folder)
    return folder


def test_list(cdtool, mini):
    said = cdtool("base", "list")
    head, row = said.out.splitlines()
    assert head.split() == ["NAME", "USE", "PIPELINE", "SIZE", "FOLDER"]
    assert row.split()[:3] == ["mini", "*", "StableDiffusionPipeline"]
    assert "sdxl" in said.err
    assert cdtool("base", "list", "-q").out == "mini\n"
    table = json.loads(cdtool("base", "list", "--json").out)
    assert [(base["name"], base["in_use"]) for base in table["bases"]] == [("mini", True)]


def test_show(cdtool, mini):
    facts = dict(line.split("  ", 1) for line in cdtool("base", "show").out.splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    assert facts["resolution"] == "64 px"
    assert facts["predicts"] == "epsilon"
    assert facts["K/V"] == "1 matrices, 12 numbers"
    assert json.loads(cdtool("base", "show", str(mini), "--json").out)["numbers"] == 12


@pytest.mark.parametrize("command", [["base", "show", "sd15"], ["base", "use", "sd15"]])
def test_a_missing_base(cdtool, command):
    said = cdtool(*command)
    assert said.code == 3
    assert "cdtool base use sd15 --fetch" in said.err


def test_use(cdtool, mini, monkeypatch):
    said = cdtool("base", "use", str(mini))
    assert (said.code, said.out) == (0, f"{mini}\n")
    assert sources.base_name().value == str(mini)
    assert cdtool("base", "use", "mini").out == "mini\n"
    assert sources.base_name().value == "mini"
    monkeypatch.setenv("CDTOOL_BASE", "sd14")
    assert "CDTOOL_BASE says sd14" in cdtool("base", "use", "mini").err


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("unet/config.json", {"in_channels": 9}, "inpainting base"),
        ("model_index.json", {"_class_name": "SanaPipeline"}, "SanaPipeline"),
        ("scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "EDM"),
    ],
)
def test_use_refuses_what_train_cannot_take(cdtool, mini, name, changes, message):
    path = mini / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    said = cdtool("base", "use", str(mini))
    assert (said.code, said.out) == (4, "")
    assert message in said.err
    assert not settings.config_file().exists()


def test_use_of_a_checkpoint_remembers_the_file_and_not_its_conversion(cdtool, tmp_path):
    path = ldm_files.write(tmp_path / "model.safetensors", marks=("v_pred", "ztsnr"))
    said = cdtool("base", "use", path)
    assert (said.code, said.out) == (0, f"{path}\n")
    assert sources.base_name().value == str(path)
    assert json.loads(cdtool("base", "show", "--json").out)["prediction"] == "v_prediction"


def test_fetch(cdtool, mini, monkeypatch):
    asked = []

    def fetch(name):
        asked.append(name)
        return mini

    monkeypatch.setattr(bases, "fetch", fetch)
    assert cdtool("base", "use", "mini", "--fetch").code == 0
    assert asked == []
    assert cdtool("base", "use", "sd15", "--fetch").out == "sd15\n"
    assert asked == ["sd15"]
    assert sources.base_name().value == "sd15"


def test_a_fetch_that_fails_changes_nothing(cdtool, monkeypatch):
    def fetch(name):
        raise NotFoundError("No network.")

    monkeypatch.setattr(bases, "fetch", fetch)
    assert cdtool("base", "use", "sd15", "--fetch").code == 3
    assert sources.base_name().value == "mini"


def test_rare_words_of_captions(cdtool, sd_base, tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text("a photo of a dog on the beach\n" * 20 + "moongate\n" * 6 + "a cat\n" * 4)
    said = cdtool("base", "show", sd_base, "--rare-tokens", captions)
    assert said.code == 0, said.err
    head, *rows = (line.split() for line in said.out.splitlines())
    assert head == ["WORD", "ID", "OCCURRENCES"]
    assert [row[::2] for row in rows] == [["moongate", "6"]]
    lines = tmp_path / "captions.jsonl"
    lines.write_text('{"file_name": "1.png", "text": "moongate"}\n' * 5)
    data = json.loads(cdtool("base", "show", sd_base, "--rare-tokens", lines, "--json").out)
    assert (data["captions"], data["words"]) == (5, {"moongate": 5})
    assert cdtool("base", "show", sd_base, "--rare-tokens", lines, "-q").out == "moongate\n"


@pytest.mark.parametrize(("text", "code"), [(None, 3), ("", 4), ("[1]", 4), ('{"a": 1}', 4)])
def test_captions_that_cannot_be_read(cdtool, sd_base, tmp_path, text, code):
    path = tmp_path / "captions.jsonl"
    if text is not None:
        path.write_text(text)
    said = cdtool("base", "show", sd_base, "--rare-tokens", path)
    assert said.code == code
    assert "Traceback" not in said.err
