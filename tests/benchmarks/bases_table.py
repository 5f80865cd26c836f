"""What each command does on each kind of base: small random ones in the real file forms, through the command line.

    python -m tests.benchmarks.bases_table

Every command runs in this process. A cell says "ok", or the exit code and a letter that stands for the sentence printed
below the table. Nothing here was run on public weights.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import ldm_files
import tiny_pipelines

CLIP = 49408
WIDTH = 160  # text width of the folders, so that a merge has more dimensions than constraints
COMMANDS = ("base use", "train --dry-run", "train", "sample", "merge", "export")


def changed(folder: Path, **changes: dict[str, object]) -> Path:
    """The folder with other entries in its configuration files."""
    files = {"index": "model_index.json", "scheduler": "scheduler/scheduler_config.json", "unet": "unet/config.json"}
    for part, values in changes.items():
        path = folder / files[part]
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


def halves(folder: Path) -> Path:
    """The folder with nothing but fp16 variant files, and no safety checker."""
    from safetensors.torch import load_file, save_file

    for path in list(folder.rglob("*.safetensors")):
        half = {name: value.half() if value.is_floating_point() else value for name, value in load_file(path).items()}
        save_file(half, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        path.unlink()
    return folder


def pickled(folder: Path) -> Path:
    """The folder with its denoiser as a .bin file."""
    from safetensors.torch import load_file

    (path,) = (folder / "unet").glob("*.safetensors")
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    return folder


def sharded(folder: Path) -> Path:
    """The folder with its denoiser in several files."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", max_shard_size="200KB")
    return folder


TURBO = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
KINDS: dict[str, Callable[[Path], Path]] = {
    "SD 1.5, folder": lambda place: tiny_pipelines.sd(place, width=WIDTH),
    "SD 1.5, folder of fp16 variants": lambda place: halves(tiny_pipelines.sd(place, width=WIDTH)),
    "SD 1.5, folder in shards": lambda place: sharded(tiny_pipelines.sd(place, width=WIDTH)),
    "SD 1.5, `.safetensors`": lambda place: ldm_files.write(place.with_suffix(".safetensors"), "sd1", vocabulary=CLIP),
    "SD 2.1-v, folder": lambda place: tiny_pipelines.sd(place, width=WIDTH, prediction="v_prediction"),
    "SD 2.1-v, `.safetensors`": lambda place: ldm_files.write(
        place.with_suffix(".safetensors"), "sd2", vocabulary=CLIP, metadata={"modelspec.prediction_type": "v"}
    ),
    "SDXL, folder": lambda place: tiny_pipelines.sdxl(place),
    "SDXL v-prediction, zero SNR, `.safetensors`": lambda place: ldm_files.write(
        place.with_suffix(".safetensors"), "sdxl", vocabulary=CLIP, marks=("v_pred", "ztsnr")
    ),
    "SDXL turbo, folder": lambda place: changed(tiny_pipelines.sdxl(place), scheduler=TURBO),
    "inpainting, folder": lambda place: changed(
        tiny_pipelines.sd(place, width=WIDTH, in_channels=9), index={"_class_name": "StableDiffusionInpaintPipeline"}
    ),
    "LCM, folder": lambda place: changed(
        tiny_pipelines.sd(place, width=WIDTH), index={"_class_name": "LatentConsistencyModelPipeline"}
    ),
    "EDM, folder": lambda place: changed(tiny_pipelines.sdxl(place), scheduler={"_class_name": "EDMEulerScheduler"}),
    "EDM, `.safetensors`": lambda place: ldm_files.write(
        place.with_suffix(".safetensors"), "sdxl", marks=("edm_mean",)
    ),
    "flow matching, folder": lambda place: changed(
        tiny_pipelines.sd(place, width=WIDTH), scheduler={"_class_name": "FlowMatchEulerDiscreteScheduler"}
    ),
    "Flux, folder": lambda place: changed(tiny_pipelines.sd(place, width=WIDTH), index={"_class_name": "FluxPipeline"}),
    "SD 1.5, folder of `.bin`": lambda place: pickled(tiny_pipelines.sd(place, width=WIDTH)),
}


def run(*arguments: object) -> tuple[int, str]:
    """A command's exit code and the sentence it failed with."""
    from cdtool.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = main([str(argument) for argument in arguments])
    lines = said.getvalue().strip().splitlines() or [""]
    errors = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    return code, (errors or lines)[-1]


def commands(base: Path, name: str, photos: Path, out: Path) -> list[tuple[object, ...]]:
    """The command lines of a row, in the order of `COMMANDS`; the second training makes what the merge needs."""
    train = ("train", photos, "--base", base, "--steps", 2, "--batch", 2, "--prior", "none", "--precision", "fp32")
    return [
        ("base", "use", base),
        (*train, "--token", "V* dog", "-o", f"{name}-dog", "--dry-run"),
        (*train, "--token", "V* dog", "-o", f"{name}-dog"),
        ("sample", base, "a dog on the beach", "--steps", 2, "-n", 1, "--out", out, "--precision", "fp32"),
        ("merge", f"{name}-dog", f"{name}-cat", "-o", f"{name}-pair", "--force"),
        ("export", f"{name}-dog", "--to", "diffusers", "-o", out / f"{name}-lora"),
    ]


def row(kind: str, place: Path, photos: Path) -> list[tuple[int, str]]:
    """(exit code, sentence) of each command on a base."""
    name = place.name
    base = KINDS[kind](place)
    made = []
    for line in commands(base, name, photos, place.parent / "out"):
        if line[0] == "merge":
            train = commands(base, name, photos, place.parent / "out")[2]
            run(*(value if value != "V* dog" else "V* cat" for value in train[:-1]), f"{name}-cat")
        made.append(run(*line))
    return made


def main() -> None:
    """Make the bases, run the commands, and print the table with the sentences below it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", metavar="REGEX", default="", help="the kinds of base to run, all by default")
    chosen = re.compile(options.parse_args().only)
    notes: dict[str, str] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CDTOOL_HOME"] = str(Path(folder) / "home")
        photos = tiny_pipelines.photos(Path(folder) / "photos", count=2, side=64)
        os.chdir(folder)
        for number, kind in enumerate(filter(chosen.search, KINDS)):
            made = row(kind, Path(folder) / f"base{number}", photos)
            cells = []
            for code, sentence in made:
                sentence = sentence.replace(folder, "").replace(f"base{number}", "BASE")
                letter = notes.setdefault(sentence, chr(ord("a") + len(notes))) if code else ""
                cells.append(f"{code} ({letter})" if code else "ok")
            rows.append([kind, *cells])
            print(kind, cells, file=sys.stderr, flush=True)
    print(f"| base | {' | '.join(COMMANDS)} |\n|{'---|' * (len(COMMANDS) + 1)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")
    print()
    for sentence, letter in notes.items():
        print(f"* ({letter}) {sentence}")


if __name__ == "__main__":
    main()
