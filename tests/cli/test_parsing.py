"""--help in sections that fit the terminal, and errors of usage in the user's words."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from cdtool import cli, settings
from cdtool.cli import parsing

COMMANDS = {(name,): function for name, function in cli._COMMANDS.items()} | {
    (group, name): function for group, (_, found) in cli._GROUPS.items() for name, function in found.items()
}
NAMES = [" ".join(words) for words in COMMANDS]


def tree(words):
    found = cli.tree()
    for word in words.split():
        found = found.commands[word]
    return found


@pytest.mark.parametrize("command", ["", *NAMES, *cli._GROUPS])
@pytest.mark.parametrize("columns", [60, 80])
def test_help_fits_the_terminal(cdtool, monkeypatch, command, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = cdtool(*command.split(), "--help").out.partition("Examples:")[0]
    assert max(map(len, text.splitlines())) <= columns


@pytest.mark.parametrize("group", ["", *cli._GROUPS])
def test_every_command_stands_in_a_section_with_its_whole_summary(cdtool, group):
    text = " ".join(cdtool(*group.split(), "--help").out.split())
    for name, command in tree(group).commands.items():
        assert f"{name} {parsing.summary(command.help)}" in text


@pytest.mark.parametrize("group", ["", *cli._GROUPS])
def test_summaries_are_short(group):
    long = {name: text for name, command in tree(group).commands.items()
            if len(text := parsing.summary(command.help)) > 55}  # fmt: skip
    assert not long


def test_the_sections_name_commands_of_every_kind():
    listed = [name for names in cli._SECTIONS.values() for name in names]
    assert {*cli._COMMANDS, *cli._GROUPS} <= set(listed)
    assert len(listed) == len(set(listed))


def test_many_options_stand_in_sections_in_their_order(cdtool):
    text = cdtool("train", "--help").out.partition("\n  Examples:")[0]
    heads = re.findall(r"^([A-Z][a-z ]+):$", text, re.MULTILINE)
    assert heads == ["Arguments", *(name for name in parsing.SECTIONS if name in heads)]
    assert len(heads) > 3


@pytest.mark.parametrize("command", settings.SECTIONS)
def test_every_option_for_a_setting_shows_its_default(command):
    shown = {param.name: param.help or "" for param in tree(command).params}
    fields = settings.SECTIONS[command].__dataclass_fields__
    assert len(shown.keys() & fields) > len(fields) / 2
    hidden = [name for name in shown if name in fields and "[default: " not in shown[name]]
    assert not hidden


def test_defaults_of_zero_and_one_are_shown(cdtool):
    text = " ".join(cdtool("train", "--help").out.split())
    for option, value in {"--seed N": "0", "--prior-weight F": "1.0", "--accumulate N": "1"}.items():
        assert re.search(rf"{option} [^\[]*\[default: {value}\]", text), option


def test_the_usage_names_what_is_needed_first(cdtool):
    assert cdtool("train", "--help").out.startswith("Usage: cdtool train PHOTOS... --token SPEC [OPTIONS]\n")
    assert "cdtool show CONCEPT [FILE] [OPTIONS]\n" in cdtool("show", "--help").out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rm dog", 'There is no command "rm".\nDid you mean: cdtool remove'),
        ("help", 'There is no command "help".\nDid you mean: cdtool --help'),
        ("help train", "Did you mean: cdtool train --help"),
        ("generate dog", "Did you mean: cdtool sample"),
        ("trian", "Did you mean train?"),
        ("xyzzy", "See: cdtool --help"),
        ("base uze", "Did you mean use?"),
        ("train ./photos", 'cdtool train needs --token SPEC.\nLike: cdtool train ./photos --token "V* dog"'),
        ("train", "cdtool train needs PHOTOS.\n"),
        ("train . --token dog --steps ten", '--steps takes a whole number, not "ten".\nSee: cdtool train --help'),
        ("train . --token dog --lr fast", '--lr takes a number, not "fast".'),
        ("train . --token dog --method dreamboth", '--method cannot be "dreamboth".\nDid you mean dreambooth?'),
        ("train . --token dog --precision xyzzy", "It is one of auto, fp32, bf16, fp16."),
        ("train . --token dog --gpus 0", "--gpus must be at least 1, not 0."),
        ("train . --token dog --stepz 3", "cdtool train has no option --stepz.\nDid you mean --seed or --steps"),
        ("train . --token dog --xyzzy", "cdtool train has no option --xyzzy.\nSee: cdtool train --help"),
        ("rename a b c", '"c" is one argument too many for cdtool rename.\nText of several words needs quotes.'),
        ("train . --token", "--token"),
    ],
)
def test_errors_of_usage_are_in_the_users_words(cdtool, line, said):
    answer = cdtool(*shlex.split(line))
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("Error: ")
    assert said in answer.err


def test_synonyms_lead_to_commands_that_exist():
    known = {*cli._COMMANDS, *cli._GROUPS, "--help", "--version"} | {
        f"{group} {name}" for group, (_, found) in cli._GROUPS.items() for name in found
    }
    later = {"suite", "forget"}  # of this release
    assert set(parsing.SYNONYMS.values()) <= known | later
    assert not set(parsing.SYNONYMS) & {*cli._COMMANDS, *cli._GROUPS}


@pytest.mark.parametrize(("given", "width"), [("60", 58), ("200", 98), ("20", 50), ("wide", 78), ("", 78)])
def test_the_width_of_a_help(monkeypatch, given, width):
    def nothing(_):
        raise OSError

    monkeypatch.setenv("COLUMNS", given)
    monkeypatch.setattr(parsing.os, "get_terminal_size", nothing)
    assert parsing.columns() == width


def test_a_help_read_through_a_pipe_has_the_width_of_the_terminal(monkeypatch):
    class Screen:
        columns = 70

    def size(number):
        if number == 1:
            raise OSError
        return Screen

    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(parsing.os, "get_terminal_size", size)
    assert parsing.columns() == 68


def test_errors_without_a_command_are_passed_on():
    assert str(parsing.in_words(typer.TyperException("No file."))) == "No file."
