"""Processes that are killed, stopped, or sixteen at once: `python -m tests.attack.crowd [MODE...]` prints a table.

kill: SIGKILL at random moments of every verb that writes. stop: SIGTERM likewise. together: sixteen verbs at once.
Each child is forked from this process, which has imported everything and computed nothing on threads.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent))

from PIL import Image

from cdtool.cli import main
from cdtool.priors import sets
from cdtool.store import concept, health, registry, trash
from tests.attack.areas import KNOWN, SAMPLE, Ground

Words = Sequence[object]


def verbs(ground: Ground, work: Path) -> dict[str, Words]:
    """Every verb that writes."""
    on = ("--base", ground.base, "--device", "cpu")
    train = ("train", work / "photos", "--token", "V* cat", *on, "--steps", 3, "--batch", 2, "--prior", "none")
    return {
        "train": (*train, "--name", "new", "--save-every", 1, "--force"),
        "merge": ("merge", "good", "spare", "-o", "pair", "--force", "--captions", ground.captions),
        "compress": ("compress", "good", "-o", "small", "--rank", 1, "--force"),
        "sample": ("sample", "good", "V* dog", "--base", ground.base, "--out", work / "s", *SAMPLE),
        "import": ("import", work / "other.safetensors", "--name", "new", "--force"),
        "rename": ("rename", "spare", "other"),
        "remove": ("remove", "spare", "--yes"),
        "undo": ("remove", "gone", "--undo"),
        "prior make": ("prior", "make", "dog", "--generate", 2, "--steps", 1, *on, "--name", "made", "--force"),
        "prior add": ("prior", "add", work / "photos", "--class", "dog", "--name", "own", "--force"),
        "prior remove": ("prior", "remove", "old", "--yes"),
        "export": ("export", "good", "--to", "kohya", "-o", work / "k", "--force"),
        "base use": ("base", "use", ground.base),
    }


def prepare(ground: Ground) -> Path:
    """A registry of three concepts, one of them in the trash, a prior set, photos, and a file to import."""
    work = ground.fresh()
    for name in ("spare", "gone"):
        (registry.concepts_dir() / f"{name}.safetensors").write_bytes(ground.content)
    (work / "other.safetensors").write_bytes(ground.content)
    (work / "photos").mkdir()
    for number, colour in enumerate([(200, 30, 30), (30, 200, 30)]):
        Image.new("RGB", (40, 40), colour).save(work / "photos" / f"{number}.png")
    for words in (("remove", "gone", "--yes"), ("prior", "add", work / "photos", "--class", "dog", "--name", "old")):
        if words[:2] != ("prior", "add") or "old" not in sets.names():
            wait(begin(words, work / "prepared"))
    return work


def begin(words: Words, said: Path) -> int:
    """Run a command in a forked child, what it says in the file `said`; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        handle = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        code = main([str(word) for word in words])
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(child: int) -> int:
    """The exit code of a child; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wrong(ground: Ground, work: Path, copies: int) -> list[str]:
    """What is lost or half: files that are not whole, and copies of the first concept fewer than `copies`."""
    found = [f"{each.path}: {each.problem}" for each in health.check()
             if each.problem and "gone" not in each.problem]  # fmt: skip
    for name in registry.names():
        concept.read_tensors(registry.find(name).path)
    found += [f"prior set {entry.name} is damaged" for entry in sets.entries() if entry.manifest is None]
    found += [
        f"{entry.name} lacks {image.file}"
        for entry in sets.entries()
        for image in (entry.manifest.images if entry.manifest else ())
        if not (entry.folder / image.file).exists()
    ]
    kept = [*registry.concepts_dir().glob("*.safetensors"), *trash.trash_dir().glob("*/*.safetensors")]
    there = sum(path.read_bytes() == ground.content for path in kept)
    if there < copies:
        found.append(f"only {there} of {copies} concepts are left")
    for path in [path for path in work.rglob("*.png") if ".partial" not in str(path)]:
        try:
            Image.open(path).load()
        except OSError as error:
            found.append(f"{path}: {error}")
    return found


def broken_off(ground: Ground, rounds: int, number: int, ending: int) -> tuple[int, list[str]]:
    """Every verb ended by a signal at random moments, then run again to its end."""
    draw, tried, fallen = random.Random(number), 0, []
    for verb in verbs(ground, ground.work):
        work = prepare(ground)
        began = time.monotonic()
        if code := wait(begin(verbs(ground, work)[verb], work / "said")):
            fallen.append(f"{verb} unbroken: {code} {(work / 'said').read_text()[-300:]}")
        whole = time.monotonic() - began
        for _ in range(rounds):
            work = prepare(ground)
            words, tried = verbs(ground, work)[verb], tried + 1
            child = begin(words, work / "said")
            time.sleep(draw.uniform(0, whole))
            os.kill(child, ending)
            code, told = wait(child), (work / "said").read_text()
            if code not in ((0, -ending) if ending == signal.SIGKILL else (0, 130, -ending)) or "Traceback" in told:
                fallen.append(f"{verb}: {code} {told[-400:]}")
            fallen += [f"{verb}, broken off: {one}" for one in wrong(ground, work, 3)]
            again = [*words, "--resume"] if verb == "train" and "--resume" in told else words
            code = wait(begin(again, work / "again"))
            if code not in (0, 3, 4):  # 3 and 4: it was done already
                fallen.append(f"{verb}, again: {code} {(work / 'again').read_text()[-400:]}")
            fallen += [f"{verb}, again: {one}" for one in wrong(ground, work, 3)]
        print(f"  {verb}: {rounds} times, {whole:.2f} s unbroken", file=sys.stderr, flush=True)
    return tried, fallen


def kill(ground: Ground, rounds: int, number: int) -> tuple[int, list[str]]:
    """SIGKILL at random moments: nothing is lost or half, and the command can be given again."""
    return broken_off(ground, rounds, number, signal.SIGKILL)


def stop(ground: Ground, rounds: int, number: int) -> tuple[int, list[str]]:
    """SIGTERM at random moments: exit code 130 and a word, and the same."""
    return broken_off(ground, rounds, number, signal.SIGTERM)


def together(ground: Ground, rounds: int, number: int) -> tuple[int, list[str]]:
    """Sixteen random verbs at once on one data directory: each ends with a known code, and nobody's work is lost."""
    draw, tried, fallen = random.Random(number), 0, []
    for _ in range(rounds):
        work = prepare(ground)
        chosen = draw.choices([*verbs(ground, work), "list", "prune"], k=16)
        children = {}
        for place, verb in enumerate(chosen):
            words = {"list": ("list", "--json"), "prune": ("cache", "prune", "--max-size", "1MB")}.get(verb)
            words = words or [word for word in verbs(ground, work)[verb] if word != "--force"]
            children[begin(words, work / f"said{place}")] = verb, work / f"said{place}"
        for child, (verb, said) in children.items():
            code, told = wait(child), said.read_text()
            tried += 1
            if code not in KNOWN or "Traceback" in told:
                fallen.append(f"{verb} among {chosen}: {code} {told[-500:]}")
            if code == 0 and verb in ("train", "import") and not re.search(r"^new", told, re.MULTILINE):
                fallen.append(f"{verb} among {chosen} named nothing: {told[-300:]}")
        made = sum(verb in ("train", "import") for verb, _ in children.values())
        there = sum(name.startswith("new") for name in registry.names())
        if made and not there:
            fallen.append(f"of {made} new concepts among {chosen} none is there")
        fallen += [f"{chosen}: {one}" for one in wrong(ground, work, 3)]
    return tried, fallen


MODES: dict[str, Callable[[Ground, int, int], tuple[int, list[str]]]] = {
    "kill": kill, "stop": stop, "together": together
}  # fmt: skip


def run() -> int:
    reader = argparse.ArgumentParser(prog="python -m tests.attack.crowd", description=__doc__)
    reader.add_argument("modes", nargs="*", metavar="MODE", help=f"of: {', '.join(MODES)}; all unless given")
    reader.add_argument("--rounds", type=int, default=20, help="of each verb, or of sixteen processes")
    reader.add_argument("--seed", type=int, default=0)
    chosen: Any = reader.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    whole = 0
    for mode in chosen.modes or MODES:
        with tempfile.TemporaryDirectory() as folder:
            os.environ.pop("CDTOOL_HOME", None)
            ground = Ground(Path(folder))
            os.environ["CDTOOL_HOME"] = str(ground.home)
            tried, fallen = MODES[mode](ground, chosen.rounds, chosen.seed)
        print(f"| {mode} | {tried} | {len(fallen)} |", flush=True)
        print(json.dumps(fallen[:20], indent=1), file=sys.stderr) if fallen else None
        whole += len(fallen)
    return int(whole > 0)


if __name__ == "__main__":
    sys.exit(run())
