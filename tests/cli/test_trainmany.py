"""cdtool train --separate and --jobs: what they say, save and refuse, and how they are stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import tiny_pipelines

from cdtool.store import registry

QUICK = ["--prior", "none", "--batch", 2, "--steps", 2, "--precision", "fp32", "--device", "cpu"]


@pytest.fixture
def folders(tmp_path):
    return [tiny_pipelines.photos(tmp_path / name) for name in ("dog", "cat")]


@pytest.fixture
def arguments(sd_base, folders):
    def make(*more):
        tokens = ["--token", "V* dog", "--token", "V* cat"]
        return ["train", *folders, *tokens, "--separate", "--base", sd_base, *QUICK, *more]

    return make


@pytest.fixture
def file(tmp_path, folders, sd_base):
    entries = [f'[[job]]\nphotos = "{folder.name}"\ntoken = "V* {folder.name}"\n' for folder in folders]
    path = tmp_path / "jobs.toml"
    path.write_text(f'base = "{sd_base}"\n' + "".join(entries))
    return path


def test_separate_saves_a_concept_for_each(cdtool, arguments):
    said = cdtool(*arguments())
    assert (said.code, said.out) == (0, "dog\ncat\n")
    assert [line for line in said.err.splitlines() if "/2  " in line and "step" not in line] == ["1/2  dog", "2/2  cat"]
    assert [len(entry.manifest.tokens) for entry in registry.concepts()] == [1, 1]


def test_json_is_an_object_for_each_and_what_is_there_is_told_too(cdtool, arguments, saved):
    saved("dog")
    said = cdtool(*arguments("--json", "--if-missing"))
    assert [json.loads(line)["name"] for line in said.out.splitlines()] == ["dog", "cat"]


def test_a_file_is_trained_with_the_options_over_it(cdtool, file):
    said = cdtool("train", "--jobs", file, *QUICK, "-q")
    assert (said.code, said.out, said.err) == (0, "dog\ncat\n", "")
    assert {entry.manifest.settings["steps"] for entry in registry.concepts()} == {2}


def test_a_dry_run_tells_each_plan_and_trains_none(cdtool, arguments):
    said = cdtool(*arguments("--dry-run", "--json"))
    assert (said.code, len(said.out.splitlines())) == (0, 2)
    assert registry.names() == []


def test_one_that_fails_is_told_and_the_code_says_so(cdtool, arguments, folders, monkeypatch):
    from cdtool.training import many

    check = many.check

    def spoiling(*args, **options):
        check(*args, **options)
        for photo in folders[0].iterdir():
            photo.write_bytes(b"no picture any more")

    monkeypatch.setattr(many, "check", spoiling)
    said = cdtool(*arguments())
    assert (said.code, said.out) == (1, "cat\n")
    assert "Warning: dog could not be trained. " in said.err
    assert "1 of 2 concepts could not be trained: dog" in said.err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["-o", "both"], "-o is for one concept"),
        (["--preview", "V* dog"], "--preview is for one concept"),
        (["--gpus", 2], "--gpus is for one concept"),
        (["--pick", 3], "--pick is for one concept"),
        (["--from", "dog"], "--from is for one concept"),
    ],
)
def test_what_belongs_to_one_training_is_refused(cdtool, arguments, more, told):
    said = cdtool(*arguments(*more))
    assert said.code == 2
    assert told in said.err


def test_what_is_missing_or_too_much_is_refused(cdtool, file, folders):
    for command in (
        ["--separate"],
        ["--jobs", file, folders[0]],
        ["--jobs", file, "--token", "V* dog"],
        [folders[0]],
        [],
    ):
        assert cdtool("train", *command).code == 2
    assert cdtool("train", "--jobs", file.with_name("none.toml")).code == 3


def test_an_interrupted_one_tells_how_to_go_on_and_goes_on(file, home, sd_base, cdtool):
    command = [sys.executable, "-m", "cdtool", "train", "--jobs", file, *QUICK[:-6], "--steps", 400, *QUICK[-4:]]
    with subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True) as running:
        for line in running.stderr:
            if line.startswith("step"):
                running.send_signal(signal.SIGINT)
                break
        said = running.stderr.read()
    assert running.returncode == 130
    assert f"Go on with: cdtool train --jobs {file}" in said
    assert "--if-missing" in said
    assert list((home / "checkpoints").iterdir())
    said = cdtool("train", "--jobs", file, *QUICK[:-6], "--steps", 400, *QUICK[-4:], "--if-missing", "-q")
    assert said.code == 0
    assert not list((home / "checkpoints").iterdir())


def test_workers_share_the_jobs(file, home, tmp_path):
    command = [sys.executable, "-m", "cdtool", "train", "--jobs", file, *QUICK, "--workers=2", "--json"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(line)["name"] for line in done.stdout.splitlines()) == ["cat", "dog"]
    assert "concept 2/2" in done.stderr
    assert len(list((home / "claims" / "logs").iterdir())) == 2
    command.append("--if-missing")
    again = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    assert len(again.stdout.splitlines()) == 2


def test_what_workers_could_not_train_is_told(file, home, folders):
    command = [sys.executable, "-m", "cdtool", "train", "--jobs", file, *QUICK, "--lr", "1e30", "--workers", "2", "-q"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "2 of 2 concepts could not be trained: dog, cat. The loss became" in done.stderr
    assert "--if-missing" in done.stderr


def test_workers_are_stopped_with_their_checkpoints(file, home):
    command = [sys.executable, "-m", "cdtool", "train", "--jobs", file, *QUICK[:-6], "--steps", 4000, *QUICK[-4:],
               "--workers", 2]  # fmt: skip
    with subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True) as running:
        logs = home / "claims" / "logs"
        while not (logs.is_dir() and len(list(home.glob("checkpoints/*"))) == 2):  # the first ones, after 50 steps
            time.sleep(0.1)
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        said = running.stderr.read()
    assert running.returncode == 130
    assert f"Go on with: cdtool train --jobs {file}" in said
    assert "--workers 2 --if-missing" in said
    assert not list((home / "claims").glob("*.claim"))


def test_workers_are_for_many_and_not_with_force(cdtool, arguments, folders):
    said = cdtool("train", folders[0], "--token", "V* dog", "--workers", 2)
    assert (said.code, "many concepts" in said.err) == (2, True)
    said = cdtool(*arguments("--workers", 2, "--force"))
    assert (said.code, "exclude each other" in said.err) == (2, True)
