"""The registry: names, whole concepts or none, two processes at once, and processes that are killed."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import count

import pytest
import torch

from cdtool import __version__
from cdtool import files as publish
from cdtool.errors import ConceptError, InputError, NameTakenError, NotFoundError, ResourceError
from cdtool.store import concept, registry


def files():
    return sorted(path.name for path in registry.concepts_dir().iterdir() if path.name != ".lock")


@pytest.fixture(params=["links", "no links"])
def disk(request, monkeypatch):
    """A file system with and without hard links."""
    if request.param == "no links":

        def refuse(*_):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)


def test_a_new_registry_is_empty():
    assert registry.names() == []
    assert list(registry.concepts()) == []
    assert not registry.concepts_dir().exists()


def test_save_fills_in_and_find_reads(saved, manifest, tensors, disk):
    before = datetime.now(UTC).replace(microsecond=0)
    entry = saved("dog", settings={"steps": 5})
    assert [entry] == [registry.find("dog")] == list(registry.concepts())
    assert entry.manifest.settings == {"steps": 5}
    assert entry.manifest.version == __version__
    assert before <= datetime.fromisoformat(entry.manifest.created) <= datetime.now(UTC)
    assert entry.bytes == entry.path.stat().st_size
    assert torch.equal(concept.read_tensors(entry.path)["token.1.text_encoder"], tensors["token.1.text_encoder"])
    assert files() == ["dog.safetensors"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Dog",
        "../dog",
        "/etc/dog",
        "a/b",
        "a\\b",
        ".dog",
        "-dog",
        "my dog",
        "dög",
        "dog+cat",
        "dog:1",
        "dog\n",
        "x" * 101,
    ]
    + ["dog.safetensors", "mini", "sdxl"],
)
def test_impossible_names(name, saved):
    with pytest.raises(InputError) as caught:
        saved(name)
    assert caught.value.hint
    with pytest.raises(InputError):
        registry.check_free(name)
    assert not registry.concepts_dir().exists()


@pytest.mark.parametrize("name", ["dog", "0", "my-dog_2.1", "x" * 100, "a.json"])
def test_possible_names(name, saved):
    assert saved(name).name == name
    assert registry.names() == [name]


@pytest.mark.parametrize("name", ["../dog", "Dog", "", "/", ".", "x" * 5000, "\0"])
def test_finding_an_impossible_name_touches_no_file(name, saved):
    saved("dog")
    (registry.concepts_dir().parent / "dog.safetensors").write_bytes(registry.find("dog").path.read_bytes())
    with pytest.raises(NotFoundError):
        registry.find(name)


@pytest.mark.parametrize(
    ("noun", "name"),
    [("dog", "dog"), ("Teddy Bear", "teddy-bear"), ("  café – chair ", "cafe-chair"), ("x" * 300, "x" * 100)],
)
def test_slug(noun, name):
    assert registry.slug(noun) == name
    registry.check_name(name)


def test_a_noun_without_latin_letters_needs_a_name():
    with pytest.raises(InputError, match="No name") as caught:
        registry.slug("собака")
    assert "-o NAME" in caught.value.hint


def test_a_name_in_use(saved):
    saved("dog")
    registry.check_free("cat")
    with pytest.raises(NameTakenError) as caught:
        registry.check_free("dog")
    assert "-o dog-2" in caught.value.hint


def test_nothing_is_lost_when_the_name_was_taken_meanwhile(saved, disk):
    first = saved("dog").path.read_bytes()
    for number in (2, 3):
        with pytest.raises(NameTakenError, match=f'saved as "dog-{number}"') as caught:
            saved("dog", settings={"steps": number})
        assert f"cdtool rename dog-{number} " in caught.value.hint
    assert registry.find("dog").path.read_bytes() == first
    assert [registry.find(name).manifest.settings for name in ("dog-2", "dog-3")] == [{"steps": 2}, {"steps": 3}]


def test_force_replaces_and_forgets_the_old_scores(saved, manifest, tensors):
    saved("dog")
    registry.add_note("dog", scores={"image": 0.5})
    entry = registry.save(manifest("dog", settings={"steps": 9}), tensors, force=True)
    assert entry.manifest.settings == {"steps": 9}
    assert registry.note("dog") == {}
    assert files() == ["dog.safetensors"]


def test_the_file_name_is_the_name(saved, tmp_path):
    entry = saved("dog")
    copy = tmp_path / "Rex.safetensors"
    copy.write_bytes(entry.path.read_bytes())
    assert registry.find(str(copy)).name == "Rex"
    (registry.concepts_dir() / "rex.safetensors").write_bytes(copy.read_bytes())
    assert [entry.manifest.name for entry in registry.concepts()] == ["dog", "rex"]


def test_a_path_means_that_file(saved, monkeypatch):
    entry = saved("dog")
    monkeypatch.chdir(registry.concepts_dir())
    assert registry.find("./dog.safetensors").bytes == entry.bytes
    with pytest.raises(NotFoundError):
        registry.find("./cat.safetensors")


def test_nearest_names(saved):
    saved("dog")
    with pytest.raises(NotFoundError) as caught:
        registry.find("dgo")
    assert caught.value.hint == "Did you mean dog?"


def test_damaged_files_are_shown_and_can_be_removed(saved):
    saved("cat")
    path = registry.concepts_dir() / "dog.safetensors"
    path.write_bytes(registry.find("cat").path.read_bytes()[:50])
    cat, dog = registry.concepts()
    assert cat.manifest is not None
    assert (dog.name, dog.manifest, dog.bytes) == ("dog", None, 50)
    assert str(path) in dog.problem
    with pytest.raises(ConceptError):
        registry.find("dog")
    registry.remove("dog")
    assert registry.names() == ["cat"]


def test_what_is_no_concept_is_not_listed(saved):
    saved("dog")
    for name in (".hidden.safetensors", "Upper.safetensors", "notes.txt", "empty.safetensors"):
        (registry.concepts_dir() / name).write_bytes(b"" if "empty" in name else b"x")
    assert registry.names() == ["dog"]


def test_a_file_is_adopted_byte_for_byte(saved, tmp_path):
    entry = saved("dog")
    file = tmp_path / "any name.safetensors"
    file.write_bytes(entry.path.read_bytes())
    assert registry.adopt(file, "cat").path.read_bytes() == file.read_bytes()
    with pytest.raises(NameTakenError):
        registry.adopt(file, "cat")
    registry.add_note("cat", scores={"text": 1.0})
    registry.adopt(file, "cat", force=True)
    assert registry.note("cat") == {}
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ConceptError, match="cut short"):
        registry.adopt(file, "cut")
    assert registry.names() == ["cat", "dog"]


def test_remove(saved):
    saved("dog")
    registry.add_note("dog", photos=["here"])
    registry.remove("dog")
    assert files() == []
    with pytest.raises(NotFoundError):
        registry.remove("dog")


def test_rename_moves_file_and_sidecar(saved, disk):
    was = saved("dog").path.read_bytes()
    registry.add_note("dog", scores={"image": 0.5})
    registry.rename("dog", "rex")
    assert files() == ["rex.json", "rex.safetensors"]
    assert registry.find("rex").path.read_bytes() == was
    assert registry.note("rex") == {"scores": {"image": 0.5}}


def test_rename_onto_another_needs_force(saved, disk):
    saved("dog", settings={"steps": 1})
    saved("cat", settings={"steps": 2})
    registry.add_note("cat", scores={"image": 0.5})
    with pytest.raises(NameTakenError):
        registry.rename("dog", "cat")
    assert registry.find("cat").manifest.settings == {"steps": 2}
    registry.rename("dog", "cat", force=True)
    assert files() == ["cat.safetensors"]
    assert registry.find("cat").manifest.settings == {"steps": 1}


def test_rename_to_itself_changes_nothing(saved):
    saved("dog")
    registry.add_note("dog", a=1)
    registry.rename("dog", "dog", force=True)
    assert files() == ["dog.json", "dog.safetensors"]


def test_rename_refuses(saved):
    saved("dog")
    with pytest.raises(NotFoundError):
        registry.rename("cat", "rex")
    with pytest.raises(InputError):
        registry.rename("dog", "../rex")


def test_dependents(saved):
    saved("dog")
    saved("pair", parents=({"name": "dog"}, {"name": "gate"}))
    saved("other")
    assert registry.dependents("dog") == ["pair"]
    assert registry.dependents("other") == []


def test_notes_add_up(saved):
    saved("dog")
    assert registry.note("dog") == {}
    registry.add_note("dog", photos=["a"], scores={"text": 0.2})
    registry.add_note("dog", scores={"text": 0.3})
    assert registry.note("dog") == {"photos": ["a"], "scores": {"text": 0.3}}
    with pytest.raises(NotFoundError):
        registry.add_note("cat", a=1)
    (registry.concepts_dir() / "dog.json").write_text("{")
    assert registry.note("dog") == {}


def test_a_home_that_cannot_be_made(home, saved):
    home.write_text("in the way")
    with pytest.raises(ResourceError) as caught:
        saved("dog")
    assert "CDTOOL_HOME" in caught.value.hint


def test_a_disk_that_fills_up_leaves_nothing_behind(saved, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(ResourceError, match="the disk is full"):
        saved("dog")
    assert files() == []


def test_leftovers_of_the_dead_go_with_the_next_save_and_those_of_the_living_stay(saved):
    saved("dog")
    folder = registry.concepts_dir()
    code = (
        "import os, pathlib, sys\n"
        "from cdtool.files import workplace\n"
        "with workplace(pathlib.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, folder], check=False)
    assert any(name.endswith(".partial") for name in files())
    claim = folder / "claimed.safetensors"
    claim.touch()
    stale = folder / "stale.safetensors"
    stale.touch()
    os.utime(stale, (0, 0))
    assert registry.names() == ["dog"]
    with publish.workplace(folder) as alive:
        saved("cat")
        assert [name for name in files() if name.endswith(".partial")] == [alive.name]
    assert claim.exists()
    assert not stale.exists()


def alone(function, *arguments):
    torch.set_num_threads(1)
    function(*arguments)


def fork(function, *arguments):
    process = multiprocessing.get_context("fork").Process(target=alone, args=(function, *arguments), daemon=True)
    process.start()
    return process


def save_together(manifest, tensors, barrier, answers):
    barrier.wait()
    try:
        answers.put(registry.save(manifest, tensors).name)
    except NameTakenError as error:
        answers.put(str(error))


# Nothing after the fork waits for the parent's threads: torch computes with one.
forking = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@forking
def test_two_processes_that_save_one_name_at_once_both_keep_their_concept(manifest, tensors, disk):
    context = multiprocessing.get_context("fork")
    for round in range(5):
        barrier, answers = context.Barrier(2), context.Queue()
        name = f"dog{round}"
        both = [fork(save_together, manifest(name, settings={"by": by}), tensors, barrier, answers) for by in (1, 2)]
        heard = sorted(answers.get(timeout=60) for _ in both)
        for process in both:
            process.join(60)
        assert heard[1] == name
        assert f'saved as "{name}-2"' in heard[0]
        assert {registry.find(found).manifest.settings["by"] for found in (name, f"{name}-2")} == {1, 2}


def save_for_ever(manifest, tensors, begun):
    registry.save(manifest("c0"), tensors, force=True)
    begun.set()
    for number in count():
        registry.save(manifest(f"c{number % 3}"), tensors, force=True)
        registry.add_note(f"c{number % 3}", number=number)


def kill_while_saving(manifest, moments):
    tensors = {"token.1.text_encoder": torch.arange(8_000_000, dtype=torch.float32)}
    found_half = 0
    for moment in moments:
        begun = multiprocessing.get_context("fork").Event()
        process = fork(save_for_ever, manifest, tensors, begun)
        begun.wait(60)
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        found_half += any(name.endswith(".partial") for name in files())
        for entry in registry.concepts():
            assert entry.manifest is not None, entry.problem
            assert torch.equal(
                concept.read_tensors(entry.path)["token.1.text_encoder"], tensors["token.1.text_encoder"]
            )
            assert json.dumps(registry.note(entry.name))
    registry.save(manifest("last"), tensors)
    assert {name.rpartition(".")[2] for name in files()} <= {"safetensors", "json"}
    return found_half


@forking
def test_a_killed_process_leaves_no_half_concept(manifest):
    kill_while_saving(manifest, [0.02, 0.04, 0.06, 0.08])


@forking
@pytest.mark.slow
def test_processes_killed_at_ten_random_moments_leave_no_half_concept(manifest):
    chance = random.Random(0)
    assert kill_while_saving(manifest, [chance.uniform(0.0, 0.2) for _ in range(10)])


def test_numbers_that_are_not_finite_are_not_saved(manifest):
    with pytest.raises(InputError, match="not finite"):
        registry.save(manifest("dog"), {"token.1.text_encoder": torch.tensor([1.0, float("nan")])})
    assert registry.names() == []


def test_a_note_of_another_type_is_left_out(saved):
    saved("dog")
    path = registry.concepts_dir() / "dog.json"
    path.write_text('{"photos": 3, "base": 1, "scores": [], "seconds": "x", "mine": "\\u001b"}')
    assert registry.note("dog") == {"mine": "\ufffd"}
    path.write_text('{"photos": ["a", 3]}')
    assert registry.note("dog") == {"photos": ["a"]}
    for text in ("[1]", "3", "[" * 100_000, "NaN", ""):
        path.write_text(text)
        assert registry.note("dog") == {}
    path.unlink()
    os.mkfifo(path)
    assert registry.note("dog") == {}


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".safetensors", "a\0b", "~nobody-there/x.safetensors", ""])
def test_text_that_can_be_no_name_is_no_concept(saved, name):
    saved("dog")
    with pytest.raises(NotFoundError):
        registry.find(name)


def test_room_and_rights_are_checked_with_the_name(monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    for force in (False, True):
        with pytest.raises(ResourceError, match="read-only"):
            registry.check_free("dog", force=force)
