"""What is attacked: a row per area, with the cases that are tried and the commands each goes through."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import handmade
import tiny_pipelines
import torch
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from cdtool import files, settings
from cdtool.cli import main
from cdtool.priors import sets
from cdtool.store import registry

from . import strategies

KNOWN = {0, 2, 3, 4, 5, 6, 130}  # exit codes that say what is wrong; 1 is a bug
SLOWEST = 60.0  # seconds of computing that any one command may take


@dataclass
class Ground:
    """Where an attack takes place: a home of its own, a tiny base, and a whole concept on it."""

    folder: Path
    fallen: list[str] = field(default_factory=list)
    tried: int = 0

    def __post_init__(self) -> None:
        self.home = self.folder / "home"
        before = os.environ.get("CDTOOL_HOME")
        os.environ["CDTOOL_HOME"] = str(self.home)
        self.base = tiny_pipelines.sd(self.folder / "base")
        self.concept = handmade.concept(self.base, name="good").path
        self.content = self.concept.read_bytes()
        self.low = handmade.concept(self.base, name="low", rank=2).path.read_bytes()
        self.outside = self.folder / "outside"
        self.outside.mkdir()
        (self.outside / "precious").write_text("precious")
        self.captions = self.folder / "captions.txt"
        self.captions.write_text("a dog on the beach\na red house\n")
        self.work = self.folder / "work"
        if before is not None:  # a test's own, which each test sets
            os.environ["CDTOOL_HOME"] = before

    def fresh(self) -> Path:
        """An empty folder, and a registry that holds the whole concept alone."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        shutil.rmtree(registry.concepts_dir(), ignore_errors=True)
        registry.concepts_dir().mkdir(parents=True)
        self.concept.write_bytes(self.content)
        return self.work

    def run(self, *arguments: object) -> int:
        """Run a command and note whether it fell: a traceback, an unknown code, control characters, or too long."""
        words, began = [str(argument) for argument in arguments], time.process_time()
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
        said, took = out.getvalue() + err.getvalue(), time.process_time() - began
        self.tried += 1
        steering = sorted(
            {
                letter
                for letter in said
                if (letter != "\n" and letter != "\t" and letter < " ") or "\x7f" <= letter < "\xa0"
            }
        )
        if code not in KNOWN or "Traceback" in said or steering or took > SLOWEST:
            self.fallen.append(f"{words!r:.300} -> {code} {steering or ''} {took:.0f}s {said[-700:]}")
        precious = self.outside / "precious"
        if not precious.is_file() or precious.read_text() != "precious":
            self.fallen.append(f"{words!r:.300} touched what lies outside")
            precious.write_text("precious")
        return code


@dataclass(frozen=True)
class Area:
    """One row of the table."""

    name: str
    cases: Callable[[Ground], st.SearchStrategy[Any]]
    act: Callable[[Ground, Any], None]


# ---------------------------------------------------------------- concepts


def _concepts(ground: Ground) -> st.SearchStrategy[Any]:
    return st.one_of(strategies.concept_files(ground.content), strategies.concept_files(ground.low))


SAMPLE = ("--steps", 1, "-n", 1, "--size", "16x16", "--precision", "fp32", "--device", "cpu")


def _read_concept(ground: Ground, content: bytes) -> None:
    work = ground.fresh()
    (registry.concepts_dir() / "bad.safetensors").write_bytes(content)
    for words in (
        ("list",),
        ("list", "--json"),
        ("show", "bad"),
        ("show", "bad", "--json"),
        ("show", "bad", "--spectrum"),
        ("import", registry.concepts_dir() / "bad.safetensors", "--name", "again"),
        ("export", "bad", "--to", "kohya", "-o", work / "k"),
        ("export", "bad", "--to", "custom-diffusion", "-o", work / "c", "--base", ground.base),
        ("compress", "bad", "-o", "small", "--rank", 1),
        ("analyze", "change", "bad", "--base", ground.base),
        ("sample", "bad", "V* dog", "--base", ground.base, "--out", work / "s", *SAMPLE),
        ("merge", "good", "bad", "-o", "pair", "--captions", ground.captions),
        ("rename", "bad", "worse"),
        ("remove", "worse", "bad", "--yes"),
        ("list",),
    ):
        ground.run(*words)
    if "good" not in registry.names():
        ground.fallen.append("the whole concept is gone")


# ---------------------------------------------------------------- imports


def _checkpoints(ground: Ground) -> st.SearchStrategy[Any]:
    return st.tuples(
        st.sampled_from(["peft", "kohya", "embedding", "example", "delta.bin", "delta.ckpt", "old embedding"]),
        st.lists(st.tuples(st.integers(0, 40), st.sampled_from(ODD_NAMES)), max_size=3),
        st.one_of(st.none(), st.integers(0, 2**31)),
    )


def _odd_tensors() -> dict[str, Callable[[], Any]]:
    looped: dict[str, Any] = {}
    looped["self"] = looped
    return {
        "expanded": lambda: torch.zeros(1).expand(60_000, 30_000),
        "sparse": lambda: torch.eye(4).to_sparse(),
        "meta": lambda: torch.empty(8, 8, device="meta"),
        "bool": lambda: torch.ones(4, 4, dtype=torch.bool),
        "ints": lambda: torch.ones(4, 4, dtype=torch.int32),
        "complex": lambda: torch.ones(4, 4, dtype=torch.complex64),
        "huge": lambda: torch.full((32, 16), 1e300, dtype=torch.float64),
        "nan": lambda: torch.full((32, 16), float("nan")),
        "big": lambda: torch.full((32, 16), 1e38),
        "scalar": lambda: torch.tensor(1.0),
        "none": lambda: torch.zeros(0, 16),
        "row": lambda: torch.ones(16),
        "rows": lambda: torch.ones(3, 16),
        "deep": lambda: torch.ones(2, 2, 2, 2, 2),
        "float8": lambda: torch.ones(4, 4).to(torch.float8_e4m3fn),
        "text": lambda: "text",
        "number": lambda: 3,
        "null": lambda: None,
        "list": lambda: [torch.ones(2), [1]],
        "loop": lambda: looped,
    }


ODD = _odd_tensors()
ODD_NAMES = sorted(ODD)


def _checkpoint(ground: Ground, kind: str) -> dict[str, Any]:
    base = handmade.load(ground.base)
    module, weight = next(iter(base.kv.items()))
    up, down = torch.ones(weight.shape[0], 2) / 9, torch.ones(2, weight.shape[1]) / 9
    if kind == "peft":
        return {f"unet.{module}.lora_A.weight": down, f"unet.{module}.lora_B.weight": up}
    if kind == "kohya":
        flat = f"lora_unet_{module.replace('.', '_')}"
        return {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(2.0)}
    if kind == "embedding":
        return {"emb_params": torch.ones(1, 16)}
    if kind == "old embedding":
        return {"string_to_param": {"*": torch.ones(1, 16)}, "name": "x", "step": 3}
    whole = {f"{name}.weight": value.float() for name, value in base.kv.items()}
    if kind == "example":
        return {handmade.example_name(name): value for name, value in whole.items()}
    if kind == "delta.bin":
        return {"unet": whole, "modifier_token": {"<new1>": torch.ones(16)}}
    return {"state_dict": {handmade.ldm(name): value for name, value in whole.items()} | {"embed": torch.ones(1, 16)}}


def _spoil(table: dict[str, Any], place: int, odd: str) -> None:
    paths = [path for path in strategies.places(table) if path]
    *parents, last = paths[place % len(paths)]
    for step in parents:
        table = table[step]
    table[last] = ODD[odd]()


def _import(ground: Ground, case: tuple[str, list[tuple[int, str]], int | None]) -> None:
    kind, spoils, cut = case
    work = ground.fresh()
    table = _checkpoint(ground, kind)
    for place, odd in spoils:
        _spoil(table, place, odd)
    path = work / "x.bin"
    try:
        flat = all(isinstance(value, torch.Tensor) for value in table.values())
        if flat and place_is_even(spoils):
            save_file({name: value.contiguous() for name, value in table.items()}, path := work / "x.safetensors")
        else:
            torch.save(table, path)
    except (ValueError, RuntimeError, TypeError, KeyError):
        torch.save({"x": torch.ones(2)}, path := work / "x.bin")
    if cut is not None:
        content = path.read_bytes()
        path.write_bytes(
            content[: cut % len(content)]
            if cut % 2
            else content[: cut % len(content)] + b"\xff" + content[cut % len(content) + 1 :]
        )
    for spec in ("V* dog", "dog"):
        ground.run("import", path, "--token", spec, "--base", ground.base, "--name", "new", "--force")
    if "new" in registry.names():
        ground.run("sample", "new", "dog", "--base", ground.base, "--out", work / "s", *SAMPLE)
        if registry.concept.not_finite(registry.concept.read_tensors(registry.find("new").path)):
            ground.fallen.append(f"{case} was imported with numbers that are not finite")


def place_is_even(spoils: list[tuple[int, str]]) -> bool:
    """Half of the flat files are safetensors."""
    return sum(place for place, _ in spoils) % 2 == 0


# ---------------------------------------------------------------- settings, words, options

KEYS = [f"{section}.{name}" for section, cls in settings.SECTIONS.items() for name in cls.__dataclass_fields__]


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else json.dumps(value)


def _settings(_: Ground) -> st.SearchStrategy[Any]:
    pairs = st.lists(
        st.tuples(st.sampled_from([*KEYS, "base", "prior", "eval", "merge.captions"]), strategies.VALUES), max_size=4
    )
    toml = pairs.map(
        lambda some: "\n".join(f"{key} = {_toml(value)}" for key, value in some).encode("utf-8", "surrogatepass")
    )
    return st.tuples(
        st.one_of(toml, st.binary(max_size=200), st.sampled_from([b"a = " + b"[" * 9999, b"[" * 9999])),
        st.one_of(st.none(), st.tuples(st.sampled_from(KEYS), strategies.TEXTS)),
    )


def _configure(ground: Ground, case: tuple[bytes, tuple[str, str] | None]) -> None:
    work = ground.fresh()
    content, variable = case
    name = f"CDTOOL_{variable[0].replace('.', '_').upper()}" if variable else ""
    before = Path.cwd()
    os.chdir(work)
    try:
        if variable and "\0" not in variable[1]:
            os.environ[name] = variable[1]
        (work / "cdtool.toml").write_bytes(content)
        ground.run("config")
        ground.run("config", "--json")
        ground.run(
            "sample",
            "good",
            "V* dog",
            "--base",
            ground.base,
            "--out",
            work / "s",
            "--device",
            "cpu",
            "-n",
            1,
            "--steps",
            1,
            "--size",
            "16x16",
        )
    finally:
        os.environ.pop(name, None)
        os.chdir(before)


def _words(_: Ground) -> st.SearchStrategy[Any]:
    return st.tuples(strategies.TEXTS, st.lists(strategies.TEXTS, max_size=2))


def _name(ground: Ground, case: tuple[str, list[str]]) -> None:
    work = ground.fresh()
    text, more = case
    base = ("--base", ground.base)
    ground.run("sample", "good", "--out", work / "s", *base, *SAMPLE, "--", text, *more)
    for words in (
        ("sample", *base, *SAMPLE, "--out", work / "t", "--", text, "V* dog"),
        ("show", "--", text),
        ("rename", "--", text, "new"),
        ("rename", "--", "good", text),
        ("remove", "--yes", "--", text),
        ("export", "--to", "kohya", "-o", work / "k", "--", text),
        ("merge", "-o", "pair", "--", "good", text),
        ("merge", "-o", text, "--", "good", "good"),
        ("compress", "--", text),
        ("import", "--", text),
        ("train", "--token", text, "--dry-run", "--", work),
        ("train", "--dry-run", "--token", "V* dog", "--", text),
        ("base", "show", "--", text),
        ("prior", "show", "--", text),
        ("config", "--base", text),
        ("eval", "--", text),
        ("sample", "good", "x", "--prompts", text),
        ("sample", "good", "--replay", text),
        ("show", "x" * 10_000 + text),
    ):
        ground.run(*words)


OPTIONS = {
    "sample": [
        "--seed",
        "--steps",
        "--guidance",
        "-n",
        "--size",
        "--scheduler",
        "--eta",
        "--batch",
        "--negative",
        "--precision",
        "--device",
    ],
    "train": [
        "--steps",
        "--lr",
        "--batch",
        "--seed",
        "--resolution",
        "--accumulate",
        "--precision",
        "--memory",
        "--prior",
        "--rank",
        "--preview",
        "--method",
        "--token-init",
        "--prior-weight",
        "--gpus",
        "--crops",
    ],
    "compress": ["--rank", "--energy", "--max-size"],
    "merge": ["--captions"],
    "cache prune": ["--max-size", "--kind"],
}
ODD_VALUES = st.one_of(
    st.sampled_from(
        [
            "0",
            "-1",
            "1",
            "1e308",
            "-1e308",
            "nan",
            "inf",
            "1e-320",
            str(2**31),
            str(2**63),
            str(2**64),
            "9" * 5000,
            "1001",
            "²",
            "１２",
            "0x10",
            "1_0",
            "",
            " ",
            "x",
            "16x",
            "x16",
            "0x0",
            "99999x99999",
            "16x16x16",
            "1MB",
            "-1GB",
            "nanGB",
            "1e400MB",
        ]
    ),
    strategies.TEXTS.filter(lambda text: "\0" not in text),
)


def _options(_: Ground) -> st.SearchStrategy[Any]:
    pairs = [(verb, option) for verb, options in OPTIONS.items() for option in options]
    return st.tuples(st.sampled_from(pairs), ODD_VALUES)


def _option(ground: Ground, case: tuple[tuple[str, str], str]) -> None:
    (verb, option), value = case
    work = ground.fresh()
    Image.new("RGB", (40, 40), (200, 30, 30)).save(work / "photo.png")
    fixed = {
        "sample": (
            "good",
            "V* dog",
            "--base",
            ground.base,
            "--out",
            work / "s",
            *(() if option in ("--steps",) else ("--steps", 1)),
            "-n",
            1,
            "--size",
            "16x16",
        ),
        "train": (work, "--token", "V* dog", "--base", ground.base, "--name", "t", "--dry-run", "--prior", "none"),
        "compress": ("good", "-o", "small", "--force"),
        "merge": ("good", "good", "-o", "pair", "--force"),
        "cache prune": (),
    }[verb]
    ground.run(
        *verb.split(),
        *fixed,
        f"{option}={value}" if option.startswith("--") else option,
        *(() if option.startswith("--") else (value,)),
    )


# ---------------------------------------------------------------- prior sets, sidecars, records, photos, bases


def _prior_tables(ground: Ground) -> st.SearchStrategy[Any]:
    table = {
        "name": "dog",
        "noun": "dog",
        "source": "own",
        "origin": {"folder": "x"},
        "folder": "dog.0a1b2c3d",
        "format": 2,
        "images": [{"sha256": "a" * 64, "file": "a.png", "caption": "a dog", "cosine": None, "seed": None}],
        "side": 8,
    }
    folders = st.sampled_from([str(ground.outside), "../../outside", "..", ".", "", "cat.0a1b2c3d", "/"])
    return (
        st.one_of(strategies.changed(table), folders.map(lambda folder: table | {"folder": folder}))
        .map(lambda tree: json.dumps(tree).encode())
        .flatmap(lambda content: st.one_of(st.just(content), st.just(content), strategies.bent(content)))
    )


def _prior(ground: Ground, content: bytes) -> None:
    ground.fresh()
    folder = sets.sets_dir()
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("dog.0a1b2c3d", "cat.0a1b2c3d"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.png").write_bytes(b"x")
    cat = {
        "name": "cat",
        "noun": "cat",
        "source": "own",
        "origin": {},
        "folder": "cat.0a1b2c3d",
        "format": 2,
        "images": [{"sha256": "a" * 64, "file": "a.png"}],
    }
    (folder / "cat.json").write_text(json.dumps(cat))
    (folder / "dog.json").write_bytes(content)
    for words in (("list",), ("list", "--json"), ("show", "dog"), ("remove", "dog", "--yes"), ("list",)):
        ground.run("prior", *words)
    if not (folder / "cat.0a1b2c3d" / "a.png").exists():
        ground.fallen.append(f"the other set is gone: {content!r:.300}")


def _sidecars(ground: Ground) -> st.SearchStrategy[Any]:
    table = {
        "photos": ["a", "b"],
        "base": "mini",
        "scores": {"clip": 0.5},
        "seconds": 3.5,
        "evaluation": {"clip": {"mean": 1}},
    }
    whole = strategies.changed(table).map(lambda tree: json.dumps(tree).encode())
    return st.one_of(whole, whole.flatmap(strategies.bent), st.just(b"[" * 50_000))


def _sidecar(ground: Ground, content: bytes) -> None:
    work = ground.fresh()
    (registry.concepts_dir() / "good.json").write_bytes(content)
    for words in (
        ("list",),
        ("list", "--json"),
        ("show", "good"),
        ("merge", "good", "good", "-o", "pair", "--force", "--captions", ground.captions),
        ("compress", "good", "-o", "small", "--rank", 1, "--force"),
        ("eval", "good", "--base", ground.base),
        ("rename", "good", "new"),
        ("remove", "new", "--yes"),
    ):
        ground.run(*words)
    assert work.is_dir()


def _records(ground: Ground) -> st.SearchStrategy[Any]:
    table = {
        "prompt": "V* dog",
        "seed": 1,
        "subject": "good",
        "base": str(ground.base),
        "fingerprint": "x",
        "versions": {"cdtool": "0"},
        "settings": {
            "steps": 1,
            "guidance": 6.0,
            "scheduler": "ddim",
            "eta": 1.0,
            "negative": "",
            "size": "16x16",
            "precision": "fp32",
        },
    }
    return st.one_of(strategies.changed(table), st.just(table)).map(json.dumps)


def _replay(ground: Ground, text: str) -> None:
    work = ground.fresh()
    info = PngImagePlugin.PngInfo()
    info.add_itxt("cdtool", text)
    Image.new("RGB", (16, 16)).save(work / "it.png", pnginfo=info)
    ground.run("sample", "good", "--replay", work / "it.png", "--device", "cpu", "--out", work / "again")
    ground.run("sample", "--replay", work / "it.png", "--device", "cpu")


def _photos(_: Ground) -> st.SearchStrategy[Any]:
    png = io.BytesIO()
    Image.new("RGB", (40, 40), (9, 9, 9)).save(png, "PNG")
    jpg = io.BytesIO()
    Image.new("RGB", (40, 40), (9, 9, 9)).save(jpg, "JPEG")
    contents = st.one_of(st.binary(max_size=64), strategies.bent(png.getvalue()), strategies.bent(jpg.getvalue()))
    kinds = st.one_of(contents, st.sampled_from(["link to itself", "pipe", "folder", "nowhere"]))
    names = st.sampled_from(["a.png", "b.jpg", "c.webp", "d.avif", "e.gif", "\x1b[31m.png", "f.tiff", "g.PNG", " .png"])
    return st.tuples(
        st.dictionaries(names, kinds, min_size=1, max_size=4), st.one_of(st.none(), st.binary(max_size=60))
    )


def _photograph(ground: Ground, case: tuple[dict[str, Any], bytes | None]) -> None:
    work = ground.fresh()
    for name, content in case[0].items():
        path = work / name
        if content == "link to itself":
            path.symlink_to(path)
        elif content == "pipe":
            os.mkfifo(path)
        elif content == "folder":
            path.mkdir()
        elif content == "nowhere":
            path.symlink_to(work / "gone")
        else:
            path.write_bytes(content)
    Image.new("RGB", (40, 40), (200, 30, 30)).save(work / "whole.png")
    if case[1] is not None:
        (work / "captions.jsonl").write_bytes(case[1])
        (work / "whole.txt").write_bytes(case[1])
    ground.run("train", work, "--token", "V* dog", "--base", ground.base, "--name", "t", "--dry-run", "--prior", "none")
    ground.run("prior", "add", work, "--class", "dog", "--name", "own", "--force")


def _damage(ground: Ground) -> st.SearchStrategy[Any]:
    found = sorted(str(path.relative_to(ground.base)) for path in ground.base.rglob("*") if path.is_file())
    return st.sampled_from(found).flatmap(lambda name: st.tuples(st.just(name), _damaged(ground.base / name)))


def _damaged(path: Path) -> st.SearchStrategy[bytes | None]:
    content = path.read_bytes()
    ways: list[st.SearchStrategy[Any]] = [
        st.none(),
        strategies.bent(content),
        st.just(b""),
        st.just(b"null"),
        st.just(b"{}"),
    ]
    if path.suffix == ".json" and len(content) < 10_000:
        ways += [strategies.changed(json.loads(content)).map(lambda tree: json.dumps(tree).encode())] * 3
    return st.one_of(ways)


def _use_damaged(ground: Ground, case: tuple[str, bytes | None]) -> None:
    work = ground.fresh()
    base = work / "base"
    shutil.copytree(ground.base, base)
    (base / case[0]).unlink()
    if case[1] is not None:
        (base / case[0]).write_bytes(case[1])
    Image.new("RGB", (40, 40), (200, 30, 30)).save(work / "photo.png")
    for words in (
        ("base", "show", base),
        ("config", "--base", base),
        ("sample", "good", "V* dog", "--base", base, "--force", "--out", work / "s", *SAMPLE),
        (
            "train",
            work / "photo.png",
            "--token",
            "V* dog",
            "--base",
            base,
            "--name",
            "t",
            "--dry-run",
            "--prior",
            "none",
        ),
    ):
        ground.run(*words)


AREAS = {
    area.name: area
    for area in (
        Area("concept files", _concepts, _read_concept),
        Area("imports", _checkpoints, _import),
        Area("settings and environment", _settings, _configure),
        Area("names, prompts and paths", _words, _name),
        Area("values of options", _options, _option),
        Area("prior sets", _prior_tables, _prior),
        Area("sidecars", _sidecars, _sidecar),
        Area("records to replay", _records, _replay),
        Area("photos and captions", _photos, _photograph),
        Area("damaged bases", _damage, _use_damaged),
    )
}


def attack(area: Area, ground: Ground, cases: int, number: int = 0) -> None:
    """Try so many cases of an area, all of them whatever falls; `ground` counts."""

    @seed(number)
    @hypothesis_settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(area.cases(ground))
    def every(case: Any) -> None:
        area.act(ground, case)

    every()


assert files  # the layer below is attacked in faults.py
