"""What the demo will run."""

from __future__ import annotations

from cdtool import cli
from cdtool.research import demo
from cdtool.store import registry


def test_the_demo_runs_commands_a_user_could_type(tmp_path):
    commands = demo.demo_commands(tmp_path / "out")
    told = [command[0] for command in commands]
    assert told == ["sample", "train", "sample"] * 2 + ["merge", "sample", "compress", "eval", "list"]
    assert set(told) <= set(cli._COMMANDS)
    for command in commands:
        if command[0] == "train":
            registry.check_name(command[command.index("-o") + 1])
            assert command[command.index("--base") + 1] == "mini"
