"""cdtool config: values and their origins."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, fields
from pathlib import Path

from cdtool import settings, sources


def test_every_setting_and_where_it_came_from(cdtool, home, monkeypatch):
    Path("cdtool.toml").write_text("[sample]\nsteps = 9\n")
    monkeypatch.setenv("CDTOOL_TRAIN_LR", "0.5")
    lines = [line.split() for line in cdtool("config").out.splitlines()]
    assert ["sample.steps", "9", "cdtool.toml"] in lines
    assert ["train.lr", "0.5", "CDTOOL_TRAIN_LR"] in lines
    assert ["train.accumulate", "1", "default"] in lines
    assert any(line[:2] == ["data", "directory"] and line[2] == str(home) for line in lines)
    shown = {line[0] for line in lines}
    for section, cls in settings.SECTIONS.items():
        assert {f"{section}.{field.name}" for field in fields(cls)} <= shown


def test_json(cdtool, monkeypatch):
    monkeypatch.setenv("CDTOOL_BASE", "sd15")
    said = cdtool("config", "--json")
    table = json.loads(said.out)
    assert table["settings"]["base"] == {"value": "sd15", "origin": "CDTOOL_BASE"}
    assert table["settings"]["train.batch"] == {"value": 8, "origin": "default"}
    assert "cdtool base use sd15 --fetch" not in said.out
    assert "sd15" in said.err


def test_a_bases_own_settings_are_shown(cdtool, sd_base, tmp_path):
    folder = shutil.copytree(sd_base, tmp_path / "base")
    (folder / "cdtool.toml").write_text("[train]\nsteps = 77\n")
    table = json.loads(cdtool("config", "--base", folder, "--json").out)
    assert table["settings"]["train.steps"] == {"value": 77, "origin": str(folder / "cdtool.toml")}


def test_a_mistake_in_a_file(cdtool):
    Path("cdtool.toml").write_text("[train]\nstep = 9\n")
    said = cdtool("config")
    assert said.code == 2
    assert "Did you mean steps" in said.err


def test_a_methods_settings_are_shown_with_their_origin(cdtool):
    data = json.loads(cdtool("config", "--base", "mini", "--method", "full", "--json").out)["settings"]
    assert data["train.method"] == {"value": "full", "origin": "flag"}
    assert "full" in data["train.steps"]["origin"]
    plain = json.loads(cdtool("config", "--base", "mini", "--json").out)["settings"]
    assert plain["train.method"] == {"value": "kv", "origin": "default"}
    assert cdtool("config", "--method", "ful").code == 2


def test_a_template_holds_every_setting_as_a_comment_that_is_valid_toml(cdtool):
    assert cdtool("config", "--init").out == "cdtool.toml\n"
    text = Path("cdtool.toml").read_text()
    assert sources.read_toml(Path("cdtool.toml")) == {section: {} for section in settings.SECTIONS}
    bare = "\n".join(line.removeprefix("# ") for line in text.splitlines() if " = " in line or line.startswith("["))
    Path("cdtool.toml").write_text(bare)
    for section, cls in settings.SECTIONS.items():
        assert sources.read_toml(Path("cdtool.toml"))[section] == asdict(cls())


def test_a_settings_file_is_not_replaced_unasked(cdtool):
    Path("cdtool.toml").write_text("base = 'mini'\n")
    assert cdtool("config", "--init").code == 4
    assert Path("cdtool.toml").read_text() == "base = 'mini'\n"
    assert cdtool("config", "--init", "--force").code == 0
