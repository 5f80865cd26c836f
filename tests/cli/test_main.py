"""main(): every error becomes a sentence and its exit code, and only a bug shows where it came from."""

from __future__ import annotations

import errno
import re
import subprocess
import sys

import pytest
import torch

from cdtool import __version__, cli, errors
from cdtool.store import registry


@pytest.fixture
def failing(monkeypatch, cdtool):
    """Run `cdtool list` where the registry raises an error."""

    def run(error, *arguments):
        def fail():
            raise error

        monkeypatch.setattr(registry, "concepts", fail)
        return cdtool("list", *arguments)

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("No.", "Do so."), 2),
        (errors.NotFoundError("No.", "Do so."), 3),
        (errors.PhotoError("No.", "Do so."), 4),
        (errors.ResourceError("No.", "Do so."), 5),
        (errors.GateError("No.", "Do so."), 6),
        (errors.TrainingError("No.", "Do so."), 1),
    ],
)
def test_known_errors(failing, error, code):
    said = failing(error)
    assert (said.code, said.out, said.err) == (code, "", "Error: No.\nDo so.\n")


def test_stopping_is_no_error(failing):
    said = failing(errors.InterruptedRun("Stopped.", "Go on."))
    assert (said.code, said.out, said.err) == (130, "", "Stopped.\nGo on.\n")


def test_an_error_without_a_hint_is_one_line(failing):
    assert failing(errors.InputError("No.")).err == "Error: No.\n"


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (MemoryError(), 5, "memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 5, "Free some memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 5, "memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), 5, "/a/b"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), 4, "/a/b"),
    ],
)
def test_what_the_machine_lacks(failing, error, code, word):
    said = failing(error)
    assert said.code == code
    assert word in said.err
    assert "Traceback" not in said.err


def test_want_of_memory_names_options_the_command_has(monkeypatch, cdtool):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(registry, "find", fail)
    said = cdtool("eval", "dog")
    assert (said.code, "--precision bf16" in said.err, "--batch" in said.err) == (5, True, False)


@pytest.mark.parametrize("words", [*cli._LESS_MEMORY, "list"])
def test_the_hints_on_memory_are_options_that_keep_the_recipe(words):
    _, said = cli.explain(MemoryError(), [*words.split(), "dog", "--steps", "5"])
    hint = said.splitlines()[-1]
    command = cli.tree()
    for word in words.split():
        command = command.commands[word]
    options = {name for parameter in command.params for name in parameter.opts}
    named = set(re.findall(r"--[a-z-]+", hint))
    assert named <= options & {"--batch", "--accumulate", "--checkpointing", "--precision"}
    assert bool(named) == (words != "list")
    assert (words, "--batch" in named) != ("train", True)  # of a training the batch is part of the recipe


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError("odd"), OSError("odd"), AssertionError("odd")])
def test_a_bug_keeps_its_traceback_and_asks_for_a_report(failing, error):
    said = failing(error)
    assert said.code == 1
    assert "Traceback" in said.err
    assert "odd" in said.err
    assert "cdtool doctor" in said.err.splitlines()[-1]


def test_ctrl_c(failing):
    assert failing(KeyboardInterrupt()).code == 130


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_shows_where_a_known_error_came_from_wherever_it_stands(cdtool, place):
    words = ["show", "nothing"]
    words.insert(place, "--debug")
    said = cdtool(*words)
    assert said.code == 3
    assert "Traceback" in said.err
    assert said.err.rstrip().endswith("See: cdtool list")


def test_after_two_dashes_everything_is_a_name(cdtool):
    assert "Traceback" not in cdtool("show", "--", "--debug").err


@pytest.mark.parametrize("arguments", [["lisst"], ["list", "--bad"], ["show"], ["show", "a", "b"]])
def test_usage_errors(cdtool, arguments):
    said = cdtool(*arguments)
    assert (said.code, said.out) == (2, "")
    assert "Error: " in said.err


def test_version(cdtool):
    assert (cdtool("--version").out, cdtool("--version").code) == (f"cdtool {__version__}\n", 0)


def test_no_arguments_print_the_help(cdtool):
    bare, asked = cdtool(), cdtool("--help")
    assert "train     Teach" in bare.out + bare.err
    assert asked.code == 0
    assert asked.out.strip() == (bare.out + bare.err).strip()


HELPS = [[name] for name in cli._COMMANDS] + [
    [group, name] for group, (_, found) in cli._GROUPS.items() for name in found
]


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_every_help_ends_with_examples_of_this_command(cdtool, command):
    said = cdtool(*command, "--help")
    assert said.code == 0
    examples = [line for line in said.out.partition("Examples:\n")[2].splitlines() if line.strip()]
    assert examples
    assert all("cdtool" in line for line in examples)
    assert any(f"cdtool {' '.join(command)}" in line for line in examples)


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_every_command_speaks_json(cdtool, command):
    assert "--json" in cdtool(*command, "--help").out


def test_a_reader_that_closes_the_pipe_is_no_bug(saved):
    for number in range(3):
        saved(f"c{number}")
    listing = subprocess.Popen(
        [sys.executable, "-m", "cdtool", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    listing.stdout.close()
    listing.wait()
    assert "bug" not in listing.stderr.read()
    listing.stderr.close()
