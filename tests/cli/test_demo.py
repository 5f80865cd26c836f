"""cdtool demo: the user's commands one after the other; stopped and run again, it goes on."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading

import pytest
from PIL import Image

from cdtool.cli import demo
from cdtool.images import sheets
from cdtool.research import demo as demos


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Take Python programs for the demo's commands, and a folder it does not fill."""

    def stand_in(*programs):
        monkeypatch.setattr(demos, "unpack", lambda folder: None)
        monkeypatch.setattr(demos, "demo_commands", lambda folder: [[program] for program in programs])
        monkeypatch.setattr(demos, "demo_sheet", lambda folder: folder / "demo.png")
        real = subprocess.Popen
        start = lambda command, **_: real([sys.executable, "-c", command[-1]], stderr=subprocess.DEVNULL)  # noqa: E731
        monkeypatch.setattr(demo.subprocess, "Popen", start)

    return stand_in


def test_it_shows_each_command_and_ends_with_the_sheet(cdtool, commands, tmp_path):
    commands("pass", "x = 1")
    said = cdtool("demo", "--out", tmp_path)
    assert (said.code, said.out) == (0, f"{tmp_path / 'demo.png'}\n")
    assert "$ cdtool pass" in said.err
    assert shlex.quote("x = 1") in said.err


def test_it_ends_with_the_code_of_a_command_that_failed(cdtool, commands, tmp_path):
    commands("raise SystemExit(5)", "raise SystemExit(6)")
    assert cdtool("demo", "--out", tmp_path, "--quiet").code == 5


def test_ctrl_c_waits_for_the_command_to_save_and_says_how_to_go_on(cdtool, commands, tmp_path):
    done = tmp_path / "saved"
    commands(
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(1); "
        f"open({str(done)!r}, 'w'); raise SystemExit(130)",
        "raise SystemExit(6)",
    )
    threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    said = cdtool("demo", "--out", tmp_path / "here too")
    assert said.code == 130
    assert done.is_file()
    assert f"Go on with: cdtool demo --out {shlex.quote(str(tmp_path / 'here too'))}" in said.err
    assert "Error" not in said.err


def test_run_again_it_makes_only_what_is_missing(tmp_path):
    commands = demos.demo_commands(tmp_path)
    made = [command for command in commands if command[0] in ("train", "merge", "compress")]
    assert all("--if-missing" in command for command in made)  # of a training: goes on, where it was stopped
    assert all("--skip-existing" in command for command in commands if command[0] == "sample")


def test_the_sheet_sets_before_beside_after(monkeypatch, tmp_path):
    def draw(part, prompts, count):
        (tmp_path / part).mkdir()
        lines = []
        for prompt in prompts:
            for number in range(count):
                name = f"{len(lines)}-{number}.png"
                Image.new("RGB", (8, 8)).save(tmp_path / part / name)
                lines.append(json.dumps({"file": name, "prompt": prompt}))
        (tmp_path / part / "samples.jsonl").write_text("\n".join(lines))

    demos.unpack(tmp_path)
    for chapter in demos.CHAPTERS:
        draw(f"{chapter.name}-before", chapter.plain, demos.DEMO_PICTURES)
        draw(chapter.name, chapter.prompts, demos.DEMO_PICTURES)
    draw("pair", demos.PAIR_PROMPTS, 2 * demos.DEMO_PICTURES)
    seen = []
    real = sheets.contact_sheet
    monkeypatch.setattr(sheets, "contact_sheet", lambda rows, **how: seen.extend(rows) or real(rows, **how))
    assert demos.demo_sheet(tmp_path).is_file()
    pairs = [row for row in seen if not isinstance(row, sheets.Row)]
    assert [(one.label, other.label) for one, other in pairs[:2]] == [
        ("before: photo of a dog", "after: photo of a V* dog"),
        ("before: a dog on the beach", "after: a V* dog on the beach"),
    ]
