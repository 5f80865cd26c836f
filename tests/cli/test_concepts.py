"""cdtool list, show, remove and rename."""

from __future__ import annotations

import json

import pytest

from cdtool.store import concept, registry
from cdtool.tokens import Token


def test_an_empty_list_tells_how_to_begin(cdtool):
    said = cdtool("list")
    assert (said.code, said.out) == (0, "")
    assert "cdtool train" in said.err
    assert json.loads(cdtool("list", "--json").out) == {"schema": 1, "concepts": []}


def test_list(cdtool, saved):
    saved("dog")
    registry.add_note("dog", scores={"image": 0.8125, "text": 0.25, "by": "me"})
    saved("pair", tokens=(Token("dog"), Token("moongate", modifier=False)), method="merge")
    (registry.concepts_dir() / "bad.safetensors").write_bytes(b"bad")
    head, bad, dog, pair = cdtool("list").out.splitlines()
    assert head.split() == ["NAME", "KIND", "TOKENS", "BASE", "SIZE", "CREATED", "SCORE"]
    assert bad.split()[:2] == ["bad", "damaged"]
    assert dog.startswith("dog   kv       V* dog            mini  ")
    assert dog.endswith("image 0.812 text 0.250")
    assert pair.split()[:5] == ["pair", "merge", "V1", "dog,", "moongate"]
    assert cdtool("list", "-q").out == "bad\ndog\npair\n"


def test_list_json(cdtool, saved):
    entry = saved("dog")
    registry.add_note("dog", scores={"image": 0.5})
    (registry.concepts_dir() / "bad.safetensors").write_bytes(b"bad")
    bad, dog = json.loads(cdtool("list", "--json").out)["concepts"]
    assert (bad["name"], bad["damaged"], bad["bytes"]) == ("bad", True, 3)
    assert "not a concept file" in bad["problem"]
    assert (dog["name"], dog["damaged"], dog["bytes"]) == ("dog", False, entry.bytes)
    assert dog["tokens"][0]["noun"] == "dog"
    assert dog["note"] == {"scores": {"image": 0.5}}


def test_show(cdtool, saved):
    entry = saved("dog", settings={"steps": 7}, photos=("a", "b"), parents=({"name": "old"},))
    facts = dict(line.split(None, 1) for line in cdtool("show", "dog").out.splitlines())
    assert facts["tokens"] == "V* dog"
    assert facts["weights"] == "dense, 3 tensors, 27 numbers"
    assert facts["settings"] == "steps 7"
    assert facts["photos"] == "2"
    assert str(entry.path) in facts["file"]
    assert cdtool("show", str(entry.path)).out == cdtool("show", "dog").out
    table = json.loads(cdtool("show", "dog", "--json").out)
    assert table["weights"] == {"form": "dense", "tensors": 3, "numbers": 27}
    assert table["parents"] == [{"name": "old"}]


@pytest.mark.parametrize("command", [["show", "dgo"], ["remove", "dgo", "--yes"], ["rename", "dgo", "rex"]])
def test_what_is_not_there(cdtool, saved, command):
    saved("dog")
    said = cdtool(*command)
    assert said.code == 3
    assert said.err == 'Error: There is no concept "dgo".\nDid you mean dog?\n'


def test_a_damaged_one_is_a_row_and_can_be_shown_and_removed(cdtool, saved, manifest, tensors):
    saved("cat")
    for name, values in {"dog": {"created": 0, "parents": (1,)}, "gate": {"tokens": ()}}.items():
        concept.write(registry.concepts_dir() / f"{name}.safetensors", manifest(name, **values), tensors)
    listed = cdtool("list")
    assert listed.code == 0
    assert [line.split()[:2] for line in listed.out.splitlines()[1:]] == [
        ["cat", "kv"], ["dog", "damaged"], ["gate", "damaged"]
    ]  # fmt: skip
    assert "parents[0] is a number, not a table" in listed.err
    shown = cdtool("show", "dog")
    assert (shown.code, "parents[0] is a number" in shown.out) == (0, True)
    assert cdtool("show", "dog", "--spectrum").code == 4
    assert cdtool("sample", "dog", "V* dog").code == 4
    assert cdtool("remove", "dog", "gate", "--yes").code == 0
    assert registry.names() == ["cat"]


def test_remove_needs_a_yes_and_names_what_was_made_of_it(cdtool, saved):
    saved("dog")
    saved("cat")
    saved("pair", parents=({"name": "dog"},))
    said = cdtool("remove", "dog")
    assert said.code == 2
    assert "pair" in said.err
    assert "--yes" in said.err
    assert registry.names() == ["cat", "dog", "pair"]
    said = cdtool("remove", "dog", "cat", "--yes")
    assert (said.code, said.out) == (0, "dog\ncat\n")
    assert registry.names() == ["pair"]


def test_remove_all_or_nothing(cdtool, saved):
    saved("dog")
    assert cdtool("remove", "dog", "nothing", "--yes").code == 3
    assert registry.names() == ["dog"]
    assert json.loads(cdtool("remove", "dog", "--yes", "--json").out) == {"schema": 1, "removed": ["dog"]}


def test_rename(cdtool, saved):
    saved("dog")
    saved("cat")
    said = cdtool("rename", "dog", "cat")
    assert (said.code, said.out) == (4, "")
    assert "--force" in said.err
    assert cdtool("rename", "dog", "rex").out == "rex\n"
    assert json.loads(cdtool("rename", "rex", "cat", "--force", "--json").out)["name"] == "cat"
    assert registry.names() == ["cat"]
    assert cdtool("rename", "cat", "../cat").code == 4


def test_a_removal_is_undone(cdtool, saved):
    saved("dog")
    said = cdtool("remove", "dog", "--yes")
    assert "cdtool remove dog --undo" in said.err
    assert json.loads(cdtool("remove", "dog", "--undo", "--json").out)["restored"] == ["dog"]
    assert registry.names() == ["dog"]
    assert cdtool("remove", "dog", "--yes", "--for-good").code == 0
    assert cdtool("remove", "dog", "--undo").code == 3
    assert cdtool("remove", "dog", "--undo", "--for-good").code == 2
