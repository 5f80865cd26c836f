"""More rows of the table: every option of every command, and what may lie where cdtool looks."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import suite_made
from hypothesis import strategies as st
from PIL import Image

from cdtool import cli, settings
from cdtool.research.answers import Answers, checksum

from . import strategies
from .areas import ODD_VALUES, SAMPLE, Area, Ground

# ---------------------------------------------------------------- every option of every command

COUNTS = {"-n", "--count", "--generate", "--steps", "--fid-count", "--batch", "--workers", "--slurm-option"}
ODD_PLACES = ["folder", "pipe", "link to itself", "link to nothing", "empty", "bytes", "too long", "/dev/null",
              "/dev/full", "/dev/zero", "deep JSON", "a concept", "no/such/folder/x.png", "x.png", "x.html", "-",
              "犬.png"]  # fmt: skip


def _commands(ground: Ground, work: Path) -> dict[str, tuple[object, ...]]:
    """What each command needs at least; none of it takes long."""
    on, quick = ("--base", ground.base, "--device", "cpu"), ("--steps", 1)
    return {
        "train": (work / "photos", "--token", "V* dog", *on, "--name", "t", "--dry-run", "--prior", "none"),
        "sample": ("good", "V* dog", "--base", ground.base, "--out", work / "s", *SAMPLE),
        "eval": ("good", *on, "-n", 1, *quick),
        "merge": ("good", "good", "-o", "pair", "--force", "--captions", ground.captions),
        "compress": ("good", "-o", "small", "--force", "--rank", 1),
        "forget": ("dog", "--base", ground.base, "--keep", ground.captions, "--force"),
        "list": (),
        "show": ("good",),
        "rename": ("good", "new"),
        "remove": ("good", "--yes"),
        "export": ("good", "--to", "kohya", "-o", work / "k"),
        "import": (ground.concept, "--name", "new"),
        "config": (),
        "base list": (),
        "base show": (ground.base,),
        "base use": (ground.base,),
        "prior list": (),
        "prior make": ("dog", "--generate", 1, *quick, *on),
        "prior add": (work / "photos", "--class", "dog", "--name", "own"),
        "prior show": ("own",),
        "prior remove": ("own", "--yes"),
        "cache list": (),
        "suite list": (),
        "suite show": ("mini-small",),
        "suite status": ("mini-small", "--out", work / "suite"),
        "suite run": ("mini-small", "--out", work / "suite", "--dry-run"),
        "study score": (work / "answers.json",),
        "study make": ("good", "good", "-n", 1, *quick, "-o", work / "study.html", "--force"),
        "analyze change": ("good", "--base", ground.base, "-o", work / "c.png"),
        "analyze attention": ("good", "V* dog", *on, *quick, "-o", work / "a.png"),
    }


def _options() -> list[tuple[str, str, bool]]:
    """(command, option, whether it takes a value) of the whole command line."""
    found = []
    for name, command in cli.tree().commands.items():
        inner = getattr(command, "commands", None)
        for whole, one in [(f"{name} {each}", inner[each]) for each in inner] if inner else [(name, command)]:
            for param in one.params:
                if param.opts[0].startswith("-") and param.opts[0] != "--help":
                    found.append((whole, param.opts[0], not getattr(param, "is_flag", False)))
    return found


def _every(ground: Ground) -> st.SearchStrategy[Any]:
    known = [option for option in _options() if option[0] in _commands(ground, ground.work)]
    places = st.sampled_from(ODD_PLACES).map(lambda kind: ("place", kind))
    values = st.one_of(ODD_VALUES, strategies.TEXTS.filter(lambda text: "\0" not in text)).map(lambda v: ("value", v))
    one = st.tuples(st.sampled_from(known), st.one_of(places, values))
    return st.tuples(one, st.one_of(st.none(), one))


def place(work: Path, ground: Ground, kind: str) -> str:
    """A path to something odd of this kind."""
    path = work / f"odd-{kind.replace('/', '-').replace(' ', '-')}"
    if kind in ("folder", "pipe"):
        path.mkdir() if kind == "folder" else os.mkfifo(path)
    elif kind.startswith("link"):
        path.symlink_to(path if kind == "link to itself" else work / "gone")
    elif kind in ("empty", "bytes", "deep JSON", "a concept"):
        contents = {"empty": b"", "bytes": b"\xff\0\x1b[31m", "deep JSON": b"[" * 50_000, "a concept": ground.content}
        path.write_bytes(contents[kind])
    else:
        return "x" * 300 if kind == "too long" else kind if kind.startswith(("/", "-")) else str(work / kind)
    return str(path)


def _option(ground: Ground, case: Any) -> None:
    work, before = ground.fresh(), Path.cwd()
    (work / "photos").mkdir()
    Image.new("RGB", (40, 40), (200, 30, 30)).save(work / "photos" / "a.png")
    (command, option, valued), (kind, value) = case[0]
    words = list(_commands(ground, work)[command])
    extra = [(option, valued, kind, value)]
    if case[1] and case[1][0][0] == command:
        extra.append((case[1][0][1], case[1][0][2], *case[1][1]))
    for option, valued, kind, value in extra:
        text = place(work, ground, value) if kind == "place" and not (work / f"odd-{value}").exists() else value
        if option in COUNTS and text.strip().isdecimal() and len(text.strip()) < 30 and int(text) > 20:
            text = "2"  # a large number that is right takes long, which is no fall
        if option == "--slurm":
            continue
        if option in words and valued:
            del words[words.index(option) : words.index(option) + 2]
        words.append(f"{option}={text}" if valued and option.startswith("--") else option)
        words += [text] if valued and not option.startswith("--") else []
    os.chdir(work)
    try:
        ground.run(*command.split(), *words)
    finally:
        os.chdir(before)


# ---------------------------------------------------------------- what lies in the data directory

HOMES = ["concepts", "priors", "checkpoints", "cache", "trash", "config.toml", "concepts/.lock", "concepts/good.json",
         "concepts/good.safetensors", "concepts/odd.safetensors", "concepts/odd", "priors/dog.json", "priors/.lock",
         "trash/good.12345678", "trash/odd", "cache/odd", "checkpoints/t.pt", "cache/bases", "cache/vae"]  # fmt: skip
KINDS = [
    "folder",
    "pipe",
    "link to itself",
    "link to nothing",
    "link outside",
    "empty",
    "bytes",
    "deep JSON",
    "a concept",
]


def _homes(_: Ground) -> st.SearchStrategy[Any]:
    return st.lists(st.tuples(st.sampled_from(HOMES), st.sampled_from(KINDS)), min_size=1, max_size=3)


def _put(ground: Ground, path: Path, kind: str) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if kind == "link outside":
            path.symlink_to(ground.outside)
        else:
            Path(place(path.parent, ground, kind)).rename(path)
            if kind == "link to itself":
                path.unlink()
                path.symlink_to(path)


def _live(ground: Ground, case: list[tuple[str, str]]) -> None:
    shutil.rmtree(ground.home, ignore_errors=True)
    work = ground.fresh()
    (work / "photos").mkdir()
    Image.new("RGB", (40, 40), (200, 30, 30)).save(work / "photos" / "a.png")
    for name, kind in case:
        _put(ground, settings.data_dir() / name, kind)
    train = ("train", work / "photos", "--token", "V* cat", "--base", ground.base, "--device", "cpu", "--steps", 1)
    for words in (
        ("list",), ("show", "odd"), ("doctor", "--registry"), ("prior", "list"), ("cache", "list"), ("config",),
        ("import", ground.captions, "--name", "x"), ("compress", "good", "-o", "small", "--rank", 1, "--force"),
        (*train, "--batch", 1, "--prior", "none", "--name", "t", "--resume"),
        (*train, "--batch", 1, "--prior", "none", "--name", "t", "--force"),
        ("prior", "add", work / "photos", "--class", "dog", "--name", "own", "--force"),
        ("sample", "good", "V* dog", "--base", ground.base, "--out", work / "s", *SAMPLE),
        ("rename", "odd", "even"), ("remove", "good", "--yes"), ("remove", "good", "--undo"),
        ("remove", "odd", "--yes", "--for-good"), ("cache", "prune"),
    ):  # fmt: skip
        ground.run(*words)
    shutil.rmtree(ground.home, ignore_errors=True)


# ---------------------------------------------------------------- caches, checkpoints and the trash, damaged


def _caches(_: Ground) -> st.SearchStrategy[Any]:
    return st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5), st.integers(0, 2**31)), min_size=1, max_size=4)


def _damage(path: Path, how: int, at: int) -> None:
    content = path.read_bytes()
    at %= max(len(content), 1)
    changed = [b"", content[:at], content[:at] + b"\xff" + content[at + 1 :], content + b"x", b"[" * 20_000, b"\0" * at]
    path.write_bytes(changed[how])


def _warm(ground: Ground, case: list[tuple[int, int, int]]) -> None:
    work = ground.fresh()
    (work / "photos").mkdir()
    Image.new("RGB", (40, 40), (200, 30, 30)).save(work / "photos" / "a.png")
    on = ("--base", ground.base, "--device", "cpu")
    train = ("train", work / "photos", "--token", "V* cat", *on, "--steps", 2, "--batch", 1, "--prior", "none")
    commands = (
        (*train, "--name", "t", "--force", "--save-every", 1),
        ("merge", "good", "good", "-o", "pair", "--force", "--captions", ground.captions),
        ("forget", "dog", "--base", ground.base, "--keep", ground.captions, "--force"),
        ("sample", "good", "V* dog", "--base", ground.base, "--out", work / "s", *SAMPLE),
        ("remove", "good", "--undo"),
        ("remove", "good", "--yes"),
        (*train, "--name", "t", "--resume"),
    )
    for words in commands[:2]:
        ground.run(*words)
    kept = sorted(path for folder in ("cache", "checkpoints", "trash", "priors")
                  for path in (settings.data_dir() / folder).rglob("*") if path.is_file())  # fmt: skip
    for number, how, at in case:
        if kept:
            _damage(kept[number % len(kept)], how, at)
    for words in commands:
        ground.run(*words)


# ---------------------------------------------------------------- suites, answers, samples, corpora


def _suites(_: Ground) -> st.SearchStrategy[Any]:
    lines = suite_made.TEXT.strip().splitlines()

    def swapped(case: tuple[int, Any, int]) -> bytes:
        at, value, how = case
        mine = list(lines)
        at %= len(mine)
        if how == 0 and "=" in mine[at]:
            value = json.dumps(value) if isinstance(value, str) or value is None else str(value)
            mine[at] = f"{mine[at].partition('=')[0]} = {value}"
        elif how == 1:
            del mine[at]
        else:
            mine.insert(at, mine[(at * 7) % len(mine)])
        return "\n".join(mine).encode("utf-8", "surrogatepass")

    changed = st.tuples(st.integers(0, 99), strategies.VALUES, st.integers(0, 2)).map(swapped)
    return st.one_of(changed, changed, changed, changed.flatmap(strategies.bent), st.just(b"a=" + b"[" * 9999))


def _suite(ground: Ground, content: bytes) -> None:
    work = ground.fresh()
    (work / "tiny.toml").write_bytes(content)
    for name in ("dog", "cat"):
        (work / name).mkdir()
        Image.new("RGB", (40, 40), (200, 30, 30)).save(work / name / "a.png")
    (work / "one.txt").write_text("a {}\n")
    (work / "two.txt").write_text("a {0} and a {1}\n")
    for words in (("show", work / "tiny.toml"), ("status", work / "tiny.toml", "--out", work / "out"),
                  ("run", work / "tiny.toml", "--out", work / "out", "--dry-run", "--base", ground.base)):  # fmt: skip
        ground.run("suite", *words)


KEY = {
    "format": 1, "study": "0123456789abcdef", "a": "dog", "b": "mini", "seed": 0, "shown": {"steps": 1},
    "items": [{"id": f"q{n}{kind[0]}", "question": kind, "pair": n, "prompt": "a dog", "a": f"pa{n}", "b": f"pb{n}"}
              for n in range(2) for kind in ("text", "photos")],
}  # fmt: skip
CHOICES = {"q0t": "pa0", "q1t": "", "q0p": "pb0", "q1p": "pa1"}
ANSWERS = {"format": 1, "study": KEY["study"], "rater": "x", "answers": CHOICES,
           "check": checksum(str(KEY["study"]), Answers("x", CHOICES))}  # fmt: skip


def _answers(_: Ground) -> st.SearchStrategy[Any]:
    def files(tree: Any) -> st.SearchStrategy[bytes]:
        whole = strategies.changed(tree).map(lambda one: json.dumps(one).encode())
        return st.one_of(whole, whole, whole.flatmap(strategies.bent), st.just(b"[" * 50_000))

    right = st.just(json.dumps(KEY).encode())
    return st.tuples(st.one_of(right, right, files(KEY)), st.lists(files(ANSWERS), min_size=1, max_size=2))


def _score(ground: Ground, case: tuple[bytes, list[bytes]]) -> None:
    work = ground.fresh()
    (work / "study.key.json").write_bytes(case[0])
    for number, content in enumerate(case[1]):
        (work / f"answers{number}.json").write_bytes(content)
    files = sorted(work.glob("answers*.json"))
    ground.run("study", "score", *files)
    ground.run("study", "score", *files, "--key", work / "study.key.json", "--json")


def _corpora(_: Ground) -> st.SearchStrategy[Any]:
    coco = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "a dog"}]}
    lines = {"file_name": "a.png", "text": "a dog"}
    record = {"file": "a.png", "prompt": "V* dog", "seed": 1, "subject": "good", "base": "x", "fingerprint": "x",
              "settings": {}, "versions": {}}  # fmt: skip
    tables = [("captions.json", coco), ("captions.jsonl", lines), ("samples.jsonl", record)]
    named = st.sampled_from(tables).flatmap(
        lambda one: st.tuples(st.just(one[0]), strategies.changed(one[1]).map(lambda tree: json.dumps(tree).encode()))
    )
    bent = named.flatmap(lambda one: st.tuples(st.just(one[0]), strategies.bent(one[1])))
    packed = st.tuples(st.just("a.tar"), st.just(_tar()).flatmap(strategies.bent))
    return st.one_of(named, named, bent, packed, st.tuples(st.just("captions.jsonl"), st.just(b"[" * 50_000)))


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (("a.png", b"x" * 50), ("a.txt", b"a dog"), ("../../outside/precious", b"gone")):
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return buffer.getvalue()


def _collect(ground: Ground, case: tuple[str, bytes]) -> None:
    work = ground.fresh()
    Image.new("RGB", (40, 40), (200, 30, 30)).save(work / "a.png")
    (work / case[0]).write_bytes(case[1])
    if case[0] == "samples.jsonl":
        ground.run("eval", "good", "--base", ground.base, "--images", work)
        return
    ground.run("prior", "add", work, "--class", "dog", "--name", "own", "--force")
    ground.run("prior", "make", "dog", "--from", work / case[0], "--base", ground.base, "--name", "made", "--force")
    ground.run("prior", "make", "dog", "--from", work, "--base", ground.base, "--name", "made", "--force")
    ground.run("merge", "good", "good", "-o", "pair", "--force", "--captions", work / case[0])


def areas() -> Iterator[Area]:
    """The rows of this module."""
    yield Area("every option of every command", _every, _option)
    yield Area("odd things in the data directory", _homes, _live)
    yield Area("damaged caches and checkpoints", _caches, _warm)
    yield Area("suites", _suites, _suite)
    yield Area("answers and keys of studies", _answers, _score)
    yield Area("corpora and samples", _corpora, _collect)


PLACES = {area.name: area for area in areas()}
