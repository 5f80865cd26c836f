"""cdtool open: what it shows, and what it says where it cannot."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import typer
from PIL import Image


@pytest.fixture
def shown(monkeypatch):
    """What the system was asked to show; with `shown.code` it fails."""

    class Shown(list):
        code = 0

    there = Shown()

    def launch(path):
        there.append(path)
        return there.code

    monkeypatch.setattr(typer, "launch", launch)
    monkeypatch.setenv("DISPLAY", ":0")
    return there


def picture(path, age=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


def test_the_newest_image_of_a_concept_is_shown(cdtool, saved, shown):
    saved("dog")
    picture(Path("samples/dog/new.png"))
    picture(Path("samples/dog/old.png"), age=9)
    Path("samples/dog/samples.jsonl").write_text("")
    said = cdtool("open", "dog")
    assert (said.code, said.out) == (0, "samples/dog/new.png\n")
    assert shown == ["samples/dog/new.png"]


def test_another_folder_a_file_and_json(cdtool, saved, shown, tmp_path):
    saved("dog")
    there = picture(tmp_path / "pictures" / "a.png")
    assert json.loads(cdtool("open", "dog", "--out", there.parent, "--json").out)["path"] == str(there)
    assert cdtool("open", there).code == 0
    assert shown == [str(there)] * 2


def test_without_a_screen_the_path_is_all(cdtool, shown, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    said = cdtool("open", picture(tmp_path / "a.png"))
    assert (said.code, said.out, shown) == (0, f"{tmp_path / 'a.png'}\n", [])
    assert "no screen" in said.err


def test_what_is_not_there_and_what_cannot_be_shown(cdtool, saved, shown, tmp_path):
    saved("dog")
    said = cdtool("open", "dog")
    assert said.code == 3
    assert 'cdtool sample dog "PROMPT"' in said.err
    assert cdtool("open", "nobody").code == 3
    shown.code = 4
    assert cdtool("open", picture(tmp_path / "a.png")).code == 5
