"""Shared options: completion of names, settings as flags, help from docstrings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from cdtool.cli import options
from cdtool.settings import TrainSettings
from cdtool.sources import resolve

Steps = Annotated[
    int | None, options.setting(TrainSettings, "steps", "--steps", help="Steps [of course].", metavar="N")
]


def test_concepts_complete(saved):
    for name in ("dog", "dragon", "cat"):
        saved(name)
    assert options.complete_concepts("d") == ["dog", "dragon"]
    assert options.complete_concepts("x") == []
    assert options.complete_subjects("d") == ["dog", "dragon"]
    assert options.complete_subjects("cat+do") == ["cat+dog"]
    assert "mini" in options.complete_subjects("m")
    assert options.complete_subjects("cat+m") == []
    assert set(options.complete_bases("sd2")) == {"sd21", "sd21-base"}


def test_a_flag_that_is_not_given_leaves_the_setting_to_the_layers_below(monkeypatch):
    seen = []
    app = typer.Typer(rich_markup_mode=None)

    def command(steps: Steps = None) -> None:
        """Do it.

        Examples:
          do --steps 3 [or more]
        """
        seen.append(resolve(TrainSettings, {"steps": steps})[0].steps)

    options.add_command(app, "do", command)
    monkeypatch.setenv("CDTOOL_TRAIN_STEPS", "77")
    runner = CliRunner()
    for words in ([], ["--steps", "3"]):
        assert runner.invoke(app, words).exit_code == 0
    assert seen == [77, 3]
    shown = runner.invoke(app, ["--help"]).output
    assert "[default: 250]" in shown
    assert "Steps [of course]." in shown
    assert shown.rstrip().endswith("Examples:\n    do --steps 3 [or more]")


@dataclass(frozen=True)
class Group:
    """Two options that belong together."""

    steps: Steps = None
    loud: Annotated[bool, typer.Option("--loud", help="Say it.")] = False


def test_a_group_of_options_is_read_as_its_options_and_given_as_one_value():
    seen = []
    app = typer.Typer(rich_markup_mode=None)

    def command(word: Annotated[str, typer.Argument()], group: Group = Group(), last: bool = False) -> None:
        """Do it.

        Examples:
          do this
        """
        seen.append((word, group, last))

    options.add_command(app, "do", command)
    runner = CliRunner()
    for words in (["this"], ["this", "--steps", "3", "--loud", "--last"]):
        assert runner.invoke(app, words).exit_code == 0
    assert seen == [("this", Group(), False), ("this", Group(steps=3, loud=True), True)]
    assert runner.invoke(app, ["this", "--group", "x"]).exit_code == 2


def test_a_picture_that_is_there_is_not_replaced(tmp_path):
    path = tmp_path / "grid.png"
    assert options.free_path(path) == path
    path.touch()
    (tmp_path / "grid-2.png").touch()
    assert options.free_path(path) == tmp_path / "grid-3.png"
