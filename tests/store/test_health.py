"""The check of the registry: whole files pass, each kind of damage is named, nothing is changed."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from cdtool.store import concept, health, registry


def findings():
    return {found.path.name: found.problem for found in health.check() if found.problem}


def test_whole_files_pass(saved):
    assert list(health.check()) == []
    saved("dog")
    registry.add_note("dog", scores={})
    assert findings() == {}
    assert len(list(health.check())) == 2


def test_each_kind_of_damage_is_named(saved, manifest):
    folder = saved("dog").path.parent
    (folder / "cut.safetensors").write_bytes((folder / "dog.safetensors").read_bytes()[:-1])
    concept.write(folder / "nan.safetensors", manifest("nan"), {"token.1.text_encoder": torch.tensor([float("nan")])})
    save_file({"a": torch.ones(1)}, folder / "lora.safetensors")
    (folder / "dog.json").write_text("[")
    (folder / "gone.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    (folder / ".left.partial").mkdir()
    os.utime(folder / ".left.partial", (0, 0))
    before = sorted(path.name for path in folder.iterdir())
    found = findings()
    assert found.keys() == {
        "cut.safetensors", "nan.safetensors", "lora.safetensors", "dog.json", "gone.json", "notes.txt", ".left.partial"
    }  # fmt: skip
    assert "cut short" in found["cut.safetensors"]
    assert "not finite" in found["nan.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == before


def test_doctor_says_it_and_its_exit_code_too(cdtool, saved):
    path = saved("dog").path
    assert cdtool("doctor", "--registry").code == 0
    path.write_bytes(b"bad")
    said = cdtool("doctor", "--registry", "--json")
    assert said.code == 4
    assert json.loads(said.out)["findings"][0]["path"] == str(path)
    assert "cdtool remove dog" in said.out


@pytest.mark.parametrize("content", [b"", b"3", b"{" * 9])
def test_a_sidecar_that_is_no_table(saved, content):
    saved("dog").path.with_suffix(".json").write_bytes(content)
    assert list(findings()) == ["dog.json"]
