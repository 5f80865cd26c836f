"""What a change costs each verb: this tree against another, in turns: `python -m tests.benchmarks.bench_verbs TREE`.

Prints the processor time of a whole process, the least of the rounds, and the ratio. TREE is a checkout of another
commit, such as `git worktree add ../other e780c17` makes.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parents[2]
ON = ("--base", "mini", "--device", "cpu")
PHOTOS = HERE / "cdtool" / "mini" / "photos" / "dog"
VERBS = {
    "train": ("train", PHOTOS, "--token", "V* dog", *ON, "--prior", "none", "--steps", "5", "-o", "new", "--force"),
    "list": ("list",),
    "sample": ("sample", "new", "V* dog", *ON, "-n", "2", "--steps", "5", "--out", "pictures"),
    "merge": ("merge", "new", "other", "-o", "pair", "--force", "--captions", "captions.txt"),
    "compress": ("compress", "new", "-o", "small", "--rank", "2", "--force"),
    "export": ("export", "new", "--to", "kohya", "-o", "out", "--force"),
    "import": ("import", "new.safetensors", "-o", "brought", "--force"),
    "rename": ("rename", "brought", "moved", "--force"),
    "remove": ("remove", "moved", "--yes"),
}


def seconds(tree: Path, words: tuple[object, ...], folder: Path) -> float:
    """Processor time of a command run from a tree, in a data directory of the tree's own."""
    own = {"PYTHONPATH": str(tree), "CDTOOL_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "cdtool", *map(str, words)], cwd=folder, env=os.environ | own,
                          capture_output=True, text=True, check=False)  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{tree}: {words}: {done.stderr[-500:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prepare(tree: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "captions.txt").write_text("a dog on the beach\na red house\n", encoding="utf-8")
    seconds(tree, VERBS["train"], folder)
    seconds(tree, ("train", PHOTOS.parent / "cat", "--token", "V* cat", *VERBS["train"][4:-3], "-o", "other"), folder)
    (folder / "new.safetensors").write_bytes((folder / "home" / "concepts" / "new.safetensors").read_bytes())


def main() -> None:
    reader = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_verbs", description=__doc__)
    reader.add_argument("tree", type=Path)
    reader.add_argument("--rounds", type=int, default=3)
    reader.add_argument("--verbs", nargs="*", default=list(VERBS))
    chosen = reader.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        trees = {"other": chosen.tree.absolute(), "this": HERE}
        places = {name: Path(temporary) / name for name in trees}
        for name, tree in trees.items():
            prepare(tree, places[name])
        print("| verb | other, s | this, s | ratio |\n|---|---|---|---|")
        for verb in chosen.verbs:
            taken: dict[str, list[float]] = {name: [] for name in trees}
            for _ in range(chosen.rounds):
                for name, tree in trees.items():
                    if verb in ("rename", "remove"):  # what it takes must be there
                        before = ("rename", "remove")[: 1 + (verb == "remove")]
                        for needed in ("import", *before[:-1]):
                            seconds(tree, VERBS[needed], places[name])
                    taken[name].append(seconds(tree, VERBS[verb], places[name]))
            other, this = (min(taken[name]) for name in ("other", "this"))
            print(f"| {verb} | {other:.2f} | {this:.2f} | {this / other:.3f} |", flush=True)


if __name__ == "__main__":
    main()
