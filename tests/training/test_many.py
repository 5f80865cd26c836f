"""Many concepts in one process: the bytes of those trained alone, failures that stay alone, and shared work."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import tiny_pipelines

from cdtool.errors import InputError, InterruptedRun, NotFoundError, TokenError, TrainingError, UsageError
from cdtool.models import memory, pipelines
from cdtool.store import claims, registry
from cdtool.store.concept import read_tensors
from cdtool.training import many, run

QUICK = {"prior": "none", "batch": 2, "steps": 2, "precision": "fp32"}


@pytest.fixture
def folders(tmp_path):
    return [tiny_pipelines.photos(tmp_path / name) for name in ("dog", "cat", "gate")]


@pytest.fixture
def jobs(folders, sd_base):
    """Jobs of the three folders: `jobs(method="lora")`."""

    def make(tokens=("V* dog", "V2 cat", "moongate"), **options):
        return many.separate(folders, tokens, **(QUICK | {"base": str(sd_base)} | options))

    return make


def saved_concepts():
    """What is saved, but for the date."""
    found = {}
    for entry in registry.concepts():
        tensors = {name: value.numpy().tobytes() for name, value in read_tensors(entry.path).items()}
        found[entry.name] = (replace(entry.manifest, created=""), tensors)
    return found


@pytest.mark.parametrize("options", [{}, {"method": "full"}, {"method": "lora", "rank": 2}])
def test_each_is_to_the_byte_what_it_becomes_alone(jobs, folders, sd_base, options, monkeypatch, tmp_path):
    options = {"freeze_token": True} | options if options.get("method") == "full" else options
    together = many.train_many(jobs(**options), device="cpu")
    assert [one.name for one in together] == ["dog", "cat", "moongate"]
    first = saved_concepts()
    monkeypatch.setenv("CDTOOL_HOME", str(tmp_path / "another"))
    for folder, token in zip(folders, ("V* dog", "V* cat", "moongate"), strict=True):
        run.train(folder, token=token, base=str(sd_base), device="cpu", **(QUICK | options))
    assert saved_concepts() == first


def test_where_memory_is_short_parts_are_freed_between_jobs_and_the_result_is_the_same(jobs, monkeypatch, tmp_path):
    many.train_many(jobs(), device="cpu")
    expected = saved_concepts()
    monkeypatch.setenv("CDTOOL_HOME", str(tmp_path / "another"))
    monkeypatch.setattr(memory, "plenty", lambda folder, most: False)
    freed, done = [], pipelines.done
    monkeypatch.setattr(pipelines, "done", lambda base, *parts: (freed.append(base.sparing), done(base, *parts)))
    many.train_many(jobs(), device="cpu")
    assert freed
    assert all(freed)
    assert saved_concepts() == expected


def test_a_base_is_loaded_once_and_another_one_after_it(jobs, folders, sd_base, sd_v_base, monkeypatch):
    loaded, load = [], pipelines.load

    def counting(name, **options):
        loaded.extend([] if options.get("parts") else [name])
        return load(name, **options)

    monkeypatch.setattr(pipelines, "load", counting)
    other = run.prepare(folders[0], "V* owl", base=str(sd_v_base), **QUICK)
    many.train_many([*jobs(), other], device="cpu")
    assert loaded == [str(sd_base), str(sd_v_base)]


def test_one_that_fails_does_not_take_the_others_down(jobs, folders):
    made = jobs()
    for photo in folders[1].iterdir():
        photo.write_bytes(b"no picture any more")
    events = []
    with pytest.raises(TrainingError, match="1 of 3 concepts could not be trained: cat") as raised:
        for event in many.iter_train_many(made, device="cpu"):
            events.append(event)
    assert "--if-missing" in raised.value.hint
    ends = [(event.kind, event.job.name, event.place, event.of) for event in events if event.kind != "event"]
    assert ends == [("begun", "dog", 1, 3), ("trained", "dog", 1, 3), ("begun", "cat", 2, 3), ("failed", "cat", 2, 3),
                    ("begun", "moongate", 3, 3), ("trained", "moongate", 3, 3)]  # fmt: skip
    assert sorted(registry.names()) == ["dog", "moongate"]


def test_what_is_there_is_left_as_it_is(jobs):
    many.train_many(jobs()[:1], device="cpu")
    before = saved_concepts()["dog"]
    kinds = [event.kind for event in many.iter_train_many(jobs(), device="cpu", if_missing=True)
             if event.kind not in ("event", "begun")]  # fmt: skip
    assert kinds == ["kept", "trained", "trained"]
    assert saved_concepts()["dog"] == before


def test_a_name_in_use_is_refused_before_anything_is_trained(jobs):
    many.train_many(jobs()[2:], device="cpu")
    with pytest.raises(InputError, match="moongate"):
        many.train_many(jobs(), device="cpu")
    assert registry.names() == ["moongate"]


def test_one_that_was_stopped_goes_on_to_the_same_bytes(jobs, monkeypatch, tmp_path):
    many.train_many(jobs(steps=4), device="cpu")
    expected = saved_concepts()
    monkeypatch.setenv("CDTOOL_HOME", str(tmp_path / "another"))
    asked = []
    with pytest.raises(InterruptedRun):
        for told in many.iter_train_many(jobs(steps=4), device="cpu", stop=lambda: bool(asked)):
            if told.job.name == "cat" and told.event and told.event.kind == "step":
                asked.append(told)
    assert registry.names() == ["dog"]
    assert run.checkpoint_path("cat").is_file()
    many.train_many(jobs(steps=4), device="cpu", if_missing=True)
    assert saved_concepts() == expected


def test_what_another_process_trains_is_waited_for(jobs, saved, monkeypatch):
    made = jobs()[:1]
    folder = registry.concepts_dir().parent / "claims"
    folder.mkdir(parents=True)
    theirs = claims.take(folder, ["dog"], lambda name: (name,))

    def a_moment(_):
        saved("dog")
        folder.joinpath(f"{theirs.cell}.claim").unlink()

    monkeypatch.setattr(many.time, "sleep", a_moment)
    events = list(many.iter_train_many(made, device="cpu", if_missing=True))
    assert [event.kind for event in events] == ["kept"]


def test_two_processes_share_the_jobs_and_make_the_same(folders, sd_base, tmp_path, monkeypatch):
    file = tmp_path / "jobs.toml"
    entries = [f'[[job]]\nphotos = "{name}"\ntoken = "V* {name}"' for name in ("dog", "cat", "gate")]
    settings = 'prior = "none"\nbatch = 2\nsteps = 2\nprecision = "fp32"'
    file.write_text(f'base = "{sd_base}"\n[train]\n{settings}\n' + "\n".join(entries))
    command = [sys.executable, "-m", "cdtool", "train", "--jobs", str(file), "--device", "cpu", "-q", "--if-missing"]
    alone, shared = (os.environ | {"CDTOOL_HOME": str(tmp_path / name)} for name in ("alone", "shared"))
    subprocess.run(command, env=alone, check=True, capture_output=True)
    both = [subprocess.Popen(command, env=shared, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [one.communicate()[0].split() for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert [sorted(names) for names in said] == [["cat", "dog", "gate"]] * 2
    made = []
    for name in ("alone", "shared"):
        monkeypatch.setenv("CDTOOL_HOME", str(tmp_path / name))
        made.append(saved_concepts())
    assert made[0] == made[1]


# ---------------------------------------------------------------- what is asked for


def test_each_folder_needs_its_token_and_each_concept_its_name(folders, sd_base):
    with pytest.raises(UsageError, match="3 folders and 2 tokens"):
        many.separate(folders, ["V* dog", "V* cat"], base=str(sd_base))
    with pytest.raises(InputError, match='would be called "dog"'):
        many.separate(folders, ["V* dog", "V2 dog", "moongate"], base=str(sd_base))


def test_a_file_of_jobs(folders, sd_base, tmp_path):
    (tmp_path / "jobs.toml").write_text(
        f'base = "{sd_base}"\n[train]\nsteps = 7\nlr = 1e-4\n'
        '[[job]]\nphotos = "dog"\ntoken = "V* dog"\n'
        '[[job]]\nphotos = ["cat", "gate"]\ntoken = ["V1 cat", "V2 gate"]\nname = "both"\nsteps = 9\n'
    )
    first, second = many.read(tmp_path / "jobs.toml", lr=2e-5)
    assert (first.name, first.settings.steps, first.settings.lr, first.base) == ("dog", 7, 2e-5, str(sd_base))
    assert (second.name, second.settings.steps, len(second.tokens)) == ("both", 18, 2)
    assert second.folders == tuple(str(folder) for folder in folders[1:])


@pytest.mark.parametrize(
    ("content", "error", "told"),
    [
        ("jobs = 1", InputError, 'unknown name "jobs"'),
        ("", InputError, "has no jobs"),
        ("job = 3", InputError, "has no jobs"),
        ("[[job]", InputError, "cannot be read"),
        ("train = 3\n[[job]]", InputError, '"train" is a table'),
        ('[[job]]\ntoken = "V* dog"', InputError, "job 1: It has no photos"),
        ('[[job]]\nphotos = "dog"', InputError, "job 1: It has no token"),
        ('[[job]]\nphotos = 3\ntoken = "V* dog"', InputError, "job 1: 3 is not text"),
        ('[[job]]\nphotos = "dog"\ntoken = "V* dog"\n[[job]]\nphotos = "dog"\ntoken = "V*"', TokenError, "job 2: "),
        ('[[job]]\nphotos = "none"\ntoken = "V* dog"', NotFoundError, "job 1: .*none"),
        ('[[job]]\nphotos = "dog"\ntoken = "V* dog"\nstep = 3', UsageError, 'job 1: .*"step"'),
        ('[[job]]\nphotos = "dog"\ntoken = "V* dog"\nsteps = "many"', UsageError, "job 1: "),
        ('[[job]]\nphotos = "dog"\ntoken = "V* dog"\nname = "../dog"', InputError, "job 1: "),
    ],
)
def test_a_file_that_is_wrong_is_told_by_job(folders, tmp_path, content, error, told):
    path = tmp_path / "jobs.toml"
    path.write_text(content)
    with pytest.raises(error, match=told):
        many.read(path)


def test_tables_are_jobs_and_keywords_are_over_them(folders, sd_base):
    tables = [{"photos": str(folder), "token": f"V* {folder.name}", "steps": 9} for folder in folders[:2]]
    made = many.train_many(tables, base=str(sd_base), device="cpu", **QUICK)
    assert [(one.name, one.manifest.settings["steps"]) for one in made] == [("dog", 2), ("cat", 2)]


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(NotFoundError, match="no file of jobs"):
        many.read(tmp_path / "jobs.toml")
