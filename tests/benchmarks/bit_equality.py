"""Two trees of cdtool beside each other: the same commands, and whether they leave the same bytes.

python tests/benchmarks/bit_equality.py OLD NEW --work DIR

OLD and NEW are checkouts. Each trains small concepts on OLD's `mini` by every method (with the same few steps), merges,
compresses, exports and samples them, in a home of its own under DIR. Compared are the bytes of every tensor, of every
exported file and the pixels of every image; of the manifests, what a version writes by itself (the version, the time,
names of settings) is left aside. Prints a line per difference and a last line with the counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PHOTOS = Path(__file__).parents[2] / "cdtool" / "mini" / "photos"
FEW = ("--steps", "3", "--batch", "2", "--prior", "none", "--precision", "fp32")
TRAINED = {"kv": "dog", "lora": "cat", "textual-inversion": "dog", "crossattn": "cat", "full": "dog"}
PICTURES = ("-n", "2", "--steps", "4", "--precision", "fp32", "-q")


def commands(folder: Path, base: str) -> Iterator[tuple[str, ...]]:
    """What both trees run."""
    for method, thing in TRAINED.items():
        yield (
            "train",
            str(PHOTOS / thing),
            "--token",
            f"V* {thing}",
            "-o",
            method,
            "--method",
            method,
            "--base",
            base,
            *FEW,
        )
    yield ("train", str(PHOTOS / "moongate"), "--token", "moongate", "-o", "plain", "--base", base, *FEW)
    yield ("train", str(PHOTOS / "cat"), "--token", "V* cat", "-o", "second", "--seed", "1", "--base", base, *FEW)
    yield ("merge", "kv", "plain", "-o", "pair", "--force")
    yield ("merge", "kv", "second", "lora", "-o", "three", "--force")
    yield ("compress", "kv", "-o", "small")
    yield ("compress", "full", "--rank", "4", "-o", "full-small")
    yield ("compress", "pair", "--max-size", "200KB", "-o", "pair-small")
    for to in ("kohya", "diffusers", "custom-diffusion"):
        yield ("export", "kv", "--to", to, "--out", str(folder / "exported" / to))
    for name, prompt in (("kv", "a V* dog on the beach"), ("full", "a V* dog"), ("textual-inversion", "a V* dog"),
                         ("small", "a V* dog"), ("pair", "a V1 dog by a moongate"), (base, "a dog"),
                         ("kv+plain", "a V1 dog by a moongate"), ("kv:0.5+second", "V1 dog and V2 cat")):  # fmt: skip
        yield ("sample", name, prompt, "--out", str(folder / "images" / Path(name).name), *PICTURES)
    yield ("sample", "kv", "V* dog", "--negative", "snow", "--guidance", "1", "--scheduler", "dpm++",
           "--out", str(folder / "images" / "other"), *PICTURES)  # fmt: skip


def run(tree: Path, folder: Path, base: str) -> dict[str, str]:
    """Run every command with a tree; what each said that failed."""
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "CDTOOL_HOME": str(folder / "home"),
        "CDTOOL_TRAIN_CROPS": "2",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    folder.mkdir(parents=True, exist_ok=True)
    failed = {}
    for command in commands(folder, base):
        done = subprocess.run([sys.executable, "-m", "cdtool", *command], cwd=folder, env=environment,
                              capture_output=True, text=True)  # fmt: skip
        print(f"{folder.name}: {' '.join(command[:3])}: {done.returncode}", flush=True)
        if done.returncode:
            failed[" ".join(command[:3])] = done.stderr.strip()[-300:]
    return failed


def contents(folder: Path) -> dict[str, bytes]:
    """What is compared, by a name: tensors, exported files, pixels."""
    from PIL import Image
    from safetensors.numpy import load_file

    found: dict[str, bytes] = {}
    for path in sorted((folder / "home" / "concepts").glob("*.safetensors")):
        for name, tensor in load_file(path).items():
            found[f"{path.stem}: {name} {tensor.dtype} {tensor.shape}"] = tensor.tobytes()
    for path in sorted((folder / "exported").rglob("*")):
        if path.suffix == ".safetensors":
            for name, tensor in load_file(path).items():
                found[f"{path.relative_to(folder)}: {name} {tensor.dtype} {tensor.shape}"] = tensor.tobytes()
        elif path.is_file() and path.suffix in (".bin", ".pt"):
            found[str(path.relative_to(folder))] = path.read_bytes()
    for path in sorted((folder / "images").rglob("*.png")):
        with Image.open(path) as image:
            found[str(path.relative_to(folder))] = image.tobytes()
    return found


def main() -> int:
    """Run both, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--keep-old", action="store_true", help="Take what an earlier run of OLD left in --work.")
    chosen = parser.parse_args()
    trees = {"old": chosen.old.resolve(), "new": chosen.new.resolve()}
    base = str(trees["old"] / "cdtool" / "mini" / "base")
    failed = {name: run(tree, chosen.work / name, base) for name, tree in trees.items()
              if not (name == "old" and chosen.keep_old)}  # fmt: skip
    old, new = contents(chosen.work / "old"), contents(chosen.work / "new")
    differ = [name for name in old if name in new and old[name] != new[name]]
    for name in differ:
        print(f"differs: {name}")
    for name in sorted(old.keys() ^ new.keys()):
        print(f"only {'old' if name in old else 'new'}: {name}")
    print(json.dumps({"compared": len(old.keys() & new.keys()), "differ": len(differ), "failed": failed}, indent=1))
    return bool(differ or old.keys() ^ new.keys())


if __name__ == "__main__":
    raise SystemExit(main())
