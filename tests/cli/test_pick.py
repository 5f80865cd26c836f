"""cdtool train --pick from the command line."""

from __future__ import annotations

import json

import suite_made
import tiny_pipelines

from cdtool.evaluation import selection


def test_the_choice_is_told_and_recorded(cdtool, sd_base, tmp_path, monkeypatch):
    suite_made.see_colours(monkeypatch)
    monkeypatch.setattr(selection, "DRAWING", {"count": 1, "steps": 1, "size": "16x16"})
    folder = tiny_pipelines.photos(tmp_path / "dog", count=2)
    settings = ("--steps", 4, "--batch", 2, "--prior", "none", "--lr", 0.01)
    said = cdtool("train", folder, "--token", "V* dog", "--base", sd_base, *settings, "--pick", 2, "--json")
    assert said.code == 0, said.err
    told = json.loads(said.out)["pick"]
    assert [stage["step"] for stage in told["stages"]] == [0, 2, 4]
    assert told["step"] in (2, 4)
    assert [line.split()[0] for line in said.err.splitlines() if line.endswith((" kept", "the base"))]
    shown = json.loads(cdtool("show", "dog", "--json").out)
    assert shown["report"]["pick"] == told
    assert f"step {told['step']} of 4" in cdtool("show", "dog").out
