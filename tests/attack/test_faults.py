"""Every verb that writes, with its n-th write, flush, rename or link failing: a sentence, and nothing lost or half."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from cdtool.priors import sets
from cdtool.store import concept, registry

from .areas import SAMPLE, Ground
from .faults import CODES, failing


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return Ground(tmp_path_factory.mktemp("ground"))


LIGHT = {
    "rename": lambda ground, work: ("rename", "good", "better"),
    "remove": lambda ground, work: ("remove", "spare", "--yes"),
    "import": lambda ground, work: ("import", ground.work / "other.safetensors", "--name", "new"),
    "base use": lambda ground, work: ("base", "use", ground.base),
    "prior add": lambda ground, work: ("prior", "add", work / "photos", "--class", "dog", "--name", "own"),
    "compress": lambda ground, work: ("compress", "good", "-o", "small", "--rank", 1),
    "export": lambda ground, work: ("export", "good", "--to", "kohya", "-o", work / "out"),
}
HEAVY = {
    "sample": lambda ground, work: ("sample", "good", "V* dog", "--base", ground.base, "--out", work / "s", *SAMPLE),
    "merge": lambda ground, work: ("merge", "good", "spare", "-o", "pair", "--force", "--captions", ground.captions),
    "train": lambda ground, work: (
        "train",
        work / "photos",
        "--token",
        "V* cat",
        "--base",
        ground.base,
        "--name",
        "new",
        "--steps",
        2,
        "--batch",
        2,
        "--prior",
        "none",
        "--device",
        "cpu",
    ),
}


def again(ground, monkeypatch, command, kind, number):
    """Run a command on a disk that fails at operation `number`; whether it got that far."""
    monkeypatch.setenv("CDTOOL_HOME", str(ground.home))
    work = ground.fresh()
    (registry.concepts_dir() / "spare.safetensors").write_bytes(ground.content)
    (work / "other.safetensors").write_bytes(ground.content)
    (work / "photos").mkdir()
    Image.new("RGB", (40, 40), (200, 30, 30)).save(work / "photos" / "a.png")
    before = set(registry.names())
    with failing(ground.folder, number, CODES[kind], from_then_on=kind == "read-only") as disk:
        ground.run(*command(ground, work))
    for name in registry.names():
        found = registry.look(name)
        assert found.manifest is not None, found.problem
        assert concept.read_tensors(found.path)
    assert {"good", "better", "spare"} & set(registry.names())
    assert len(before - set(registry.names())) <= 1
    assert not [path for path in registry.concepts_dir().iterdir() if path.suffix == ".partial"] or kind != "full"
    return disk.count >= number


@pytest.mark.parametrize("kind", ["full", "broken"])
@pytest.mark.parametrize("verb", ["rename", "remove", "import", "base use"])
def test_the_first_operations_fail(ground, monkeypatch, verb, kind):
    ground.fallen.clear()
    for number in (1, 3):
        again(ground, monkeypatch, LIGHT[verb], kind, number)
    assert ground.fallen == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(CODES))
@pytest.mark.parametrize("verb", sorted(LIGHT | HEAVY))
def test_every_operation_fails_once(ground, monkeypatch, verb, kind):
    ground.fallen.clear()
    number = 1
    while again(ground, monkeypatch, (LIGHT | HEAVY)[verb], kind, number) and number < 200:
        number += 1
    assert ground.fallen == []


def counted_in_the_documents():
    """{verb: (fsync, link, rename)} of the table in reliability.md."""
    page = (Path(registry.__file__).parents[1] / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z ]+)` \| (\d+) \| (\d+) \| (\d+) \|", page, re.MULTILINE)
    return {verb: tuple(map(int, counts)) for verb, *counts in rows}


COUNTED = LIGHT | HEAVY | {"undo": lambda ground, work: ("remove", "spare", "--undo")}


@pytest.mark.parametrize("verb", sorted(COUNTED))
def test_flushes_links_and_renames_of_a_save_are_those_of_the_documents(ground, monkeypatch, verb):
    monkeypatch.setenv("CDTOOL_HOME", str(ground.home))
    ground.fallen.clear()
    work = ground.fresh()
    shutil.rmtree(sets.sets_dir(), ignore_errors=True)
    for place in (registry.concepts_dir() / "spare.safetensors", work / "other.safetensors"):
        place.write_bytes(ground.content)
    (work / "photos").mkdir()
    Image.new("RGB", (40, 40), (200, 30, 30)).save(work / "photos" / "a.png")
    if verb == "undo":
        ground.run("remove", "spare", "--yes")
    with failing(ground.folder, 0, 0, but=ground.home / "cache") as disk:
        assert ground.run(*COUNTED[verb](ground, work)) == 0
    kinds = disk.kinds
    assert (kinds["fsync"], kinds["link"], kinds["replace"] + kinds["rename"]) == counted_in_the_documents().get(verb)
