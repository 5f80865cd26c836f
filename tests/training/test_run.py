"""What the demo will run; which words the tokens of a training begin as."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from cdtool import cli
from cdtool.images.photos import Photo
from cdtool.research import demo
from cdtool.settings import TrainSettings
from cdtool.store import registry
from cdtool.store.concept import BaseRef
from cdtool.tokens import Token
from cdtool.training import run
from cdtool.training.job import Job


def test_the_demo_runs_commands_a_user_could_type(tmp_path):
    commands = demo.demo_commands(tmp_path / "out")
    told = [command[0] for command in commands]
    assert told == ["sample", "train", "sample"] * 2 + ["merge", "sample", "compress", "eval", "list"]
    assert set(told) <= set(cli._COMMANDS)
    for command in commands:
        if command[0] == "train":
            registry.check_name(command[command.index("-o") + 1])
            assert command[command.index("--base") + 1] == "mini"


def test_a_concept_begins_as_no_other_of_this_base_did(tmp_path, saved, clip_tokenizer):
    base = SimpleNamespace(tokenizers=[clip_tokenizer], fingerprint="f00d" * 16)
    work = Job("dog", "mini", (Token("dog"),), ((Photo(Path("1.png"), "1", (8, 8)),),), (), TrainSettings(), ())

    def began(job):
        return run.with_initializers(job, base).tokens[0].initializer

    first = began(work)
    token = Token("dog", initializer=first, ids=(7,))
    saved("elsewhere", tokens=(token,), base=BaseRef("sd15", "sd", "beef"))
    saved("again", tokens=(token,), photos=("1", "2"))  # of the same photos: to be compared, not to be merged
    assert began(work) == first
    saved("other", tokens=(token,), photos=("3",))
    assert began(work) not in ("", first)
    assert began(replace(work, name="other")) == first
    kept = run.with_initializers(work, base)
    assert run.with_initializers(kept, base) == kept
