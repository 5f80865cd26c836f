"""Every example of every --help and of the pages is run, in order, by one user beside whom lie the files they name.

Settings are small, and so are the numbers of STAND_INS; the files are sample photos, and the public bases are `mini`.
"""

from __future__ import annotations

import json
import shlex
import shutil
import tarfile
from pathlib import Path

import ldm_files
import pytest
import tiny_pipelines
import torch
from diffusers import AutoencoderKL
from huggingface_hub import constants
from safetensors.torch import save_file
from test_docs import PAGES, blocks, shell_lines

from cdtool.cli import demo, main
from cdtool.evaluation import selection
from cdtool.models import pipelines
from cdtool.research import answers as preference
from cdtool.store import bases, registry

MINI = bases.MINI.parent
# Example commands that are not run, each with its reason.
LEFT_OUT = {
    "--slurm": "needs a SLURM cluster; tests/research/test_workers.py submits with a stand-in for sbatch",
    "cdtool push": "needs the hub; tests/sharing/test_hub.py has a stand-in for it",
    "cdtool pull": "the same",
    "cdtool open": "shows a window; tests/cli/test_open.py has a stand-in for it",
    "cdtool suite status SUITE": "a pattern, not a command",
}
# What is run in place of what an example says: less of the same.
STAND_INS = {
    "suite run mini-small": "suite run ./mini-small.toml",
    "suite status mini-small": "suite status ./mini-small.toml",
    "suite run mini": "suite run ./mini.toml",
    "suite status mini": "suite status ./mini.toml",
    "--workers 4": "--workers 2",
    "--generate 200": "--generate 3",
    "--steps 400": "--steps 4",
    "--floor 0.8": "--floor 0.7",  # mini's encoder reads "teddy bear" otherwise than CLIP does
    "~/ComfyUI": "./ComfyUI",
    "--count 100": "--count 3",
    "-o three": "-o three --force",  # a concept of six steps is lost in a merge
    "answers-*.json": "answers-1.json",  # the shell's part
    "remove three": "remove three --yes",  # there is no terminal to answer on
    "prior remove cat": "prior remove cat --yes",
}
SUITE = """
name = "{name}"
about = "a try"
base = "mini"
[sample]
count = 1
[train]
steps = 2
batch = 2
prior = "none"
crops = 2
[[concept]]
name = "dog"
token = "V* dog"
photos = "dog"
prompts = "prompts-of-suite.txt"
[[method]]
name = "Base"
mode = "base"
[[method]]
name = "Ours"
[[table]]
title = "All"
published = "1"
"""


@pytest.fixture
def user(monkeypatch):
    """A user's folder, with all that examples name, and small settings."""
    for name, value in {"TRAIN_STEPS": 6, "TRAIN_BATCH": 2, "TRAIN_CROPS": 2, "TRAIN_PRIOR_COUNT": 4,
                        "SAMPLE_STEPS": 2, "SAMPLE_COUNT": 1}.items():  # fmt: skip
        monkeypatch.setenv(f"CDTOOL_{name}", str(value))
    for name, value in {"count": 1, "steps": 2}.items():
        monkeypatch.setitem(selection.DRAWING, name, value)
    here = Path.cwd()
    for name, thing in {"photos": "dog", "dog": "dog", "cat": "cat", "gate": "moongate", "art": "blueprint",
                        "dogs": "dog", "huskies": "dog"}.items():  # fmt: skip
        shutil.copytree(MINI / "photos" / thing, here / name)
    texts = {
        "prompts.txt": "V* dog on the beach\nV* dog in the snow\n",
        "pairs.txt": "{0} in front of {1}\n",
        "templates.txt": "a {} on the beach\n",
        "animals.txt": "horse\nbird\n",
        "captions.txt": "photo of a dog\na cat\n",
        "my-captions.txt": "\n".join((bases.MINI.parents[1] / "assets" / "captions.txt").read_text().splitlines()[:99]),
        "prompts-of-suite.txt": "a {} on the beach\n",
        "jobs.toml": '[[job]]\nphotos = "dog"\ntoken = "V* dog"\nname = "job-dog"\n',
        "mini.toml": SUITE.format(name="mini"),
        "mini-small.toml": SUITE.format(name="mini-small"),
    }
    for name, text in texts.items():
        (here / name).write_text(text)
    shutil.copy(next((here / "photos").iterdir()), here / "sketch.png")
    (here / "ComfyUI" / "custom_nodes").mkdir(parents=True)
    _corpora(here)
    _style(here)
    _autoencoder(here)
    for alias in ("sd14", "sd15"):
        _cached(bases.ALIASES[alias][0], lambda folder: folder.symlink_to(bases.MINI))
    _cached(bases.ALIASES["sdxl"][0], tiny_pipelines.sdxl)
    shutil.copytree(bases.MINI, here / "my-model")
    ldm_files.write(here / "my-checkpoint.safetensors")
    _custom_concepts(here / "customconcept101")
    return here


def _cached(hub_id, make):
    store = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"
    (store / "refs").mkdir(parents=True)
    (store / "refs" / "main").write_text("c0ffee")
    (store / "snapshots").mkdir()
    make(store / "snapshots" / "c0ffee")


def _style(here):
    """Another tool's LoRA for mini, of one layer."""
    config = json.loads((bases.MINI / "unet" / "config.json").read_text())
    wide, channels = config["block_out_channels"][0], config["in_channels"]
    factors = {"up": torch.full((wide, 1, 1, 1), 0.01), "down": torch.full((1, channels, 3, 3), 0.01)}
    save_file({f"lora_unet_conv_in.lora_{part}.weight": value for part, value in factors.items()},
              here / "style.safetensors")  # fmt: skip


def _autoencoder(here):
    """The autoencoder of mini in a single file, as model sites have others."""
    vae = AutoencoderKL.from_pretrained(bases.MINI / "vae")
    weights = {name: value.contiguous() for name, value in ldm_files.vae_weights(vae).items()}
    save_file(weights, here / "vae-ft-mse-840000-ema-pruned.safetensors")


def _corpora(here):
    """The same few pictures as COCO and as a tar of webdataset."""
    photos = sorted((MINI / "photos" / "dog").glob("*.*"))
    folder = here / "coco" / "val2017"
    folder.mkdir(parents=True)
    (here / "shards").mkdir()
    (here / "coco" / "annotations").mkdir()
    table = {"images": [], "annotations": []}
    with tarfile.open(here / "shards" / "00.tar", "w") as tar:
        for number, photo in enumerate(photos):
            shutil.copy(photo, folder / photo.name)
            table["images"].append({"id": number, "file_name": photo.name})
            table["annotations"].append({"image_id": number, "caption": "photo of a dog"})
            tar.add(photo, f"{number:05}{photo.suffix}")
            (here / "caption.txt").write_text("photo of a teddy bear")
            tar.add(here / "caption.txt", f"{number:05}.txt")
    (here / "coco" / "annotations" / "captions_val2017.json").write_text(json.dumps(table))


def _custom_concepts(folder):
    """CustomConcept101's lists, with one concept and one pair."""
    shutil.copytree(MINI / "photos" / "dog", folder / "benchmark_dataset" / "dog")
    (folder / "prompts").mkdir()
    (folder / "prompts" / "dog.txt").write_text("a {}\n")
    (folder / "prompts" / "pair.txt").write_text("a {0} and a {1}\n")
    entries = [{"instance_prompt": f"photo of a <new{number}> dog", "class_prompt": "dog",
                "instance_data_dir": "./benchmark_dataset/dog", "class_data_dir": "./x",
                "prompt_filename": "prompts/dog.txt"} for number in (1, 2)]  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(entries[:1]))
    (folder / "dataset_multiconcept.json").write_text(
        json.dumps([[*entries, {"prompt_filename_compose": "prompts/pair.txt"}]])
    )


# ---------------------------------------------------------------- what earlier work left beside the user


def _shared_concept(here):
    (here / "shared").mkdir(exist_ok=True)
    shutil.copy(registry.find("dog").path, here / "shared" / "rex.safetensors")


def _dog_output(here):
    shutil.copytree(here / "dog-weights", here / "dog-output")


def _delta(here):
    base = pipelines.load("mini", precision="fp32", device="cpu")
    words = {f"<new{number}>": torch.zeros(base.text_encoders[0].config.hidden_size) + number for number in (1, 2)}
    weights = {f"{name}.weight": weight + 0.01 for name, weight in base.kv.items()}
    torch.save({"unet": weights, "modifier_token": words}, here / "delta.bin")


def _dog_and_gate(here):
    for photos, token in (("dog", "V* dog"), ("gate", "moongate")):
        if token.split()[-1] not in registry.names():
            assert main(["train", str(here / photos), "--token", token, "-q"]) == 0


def _answers(here):
    key = preference.read_key(preference.key_path(here / "study.html"))
    given = preference.Answers("somebody", {item.id: item.a for item in key.items})
    table = {"format": 1, "study": key.study, "rater": given.rater, "answers": given.choices}
    (here / "answers-1.json").write_text(json.dumps(table | {"check": preference.checksum(key.study, given)}))


# By the words of an example, what has to be there before it.
BEFORE = {"./shared/rex": _shared_concept, "./dog-output": _dog_output, "delta.bin": _delta, "study score": _answers,
          "--into": _dog_and_gate}  # fmt: skip


def commands(page):
    """The commands of a page that are run, in order and once each: what is written, and what is run for it."""
    found = [line for block in blocks(page.read_text(encoding="utf-8")) for line in shell_lines(block)]
    for line in dict.fromkeys(shlex.join(shlex.split(line, comments=True)) for line in found):
        if not any(part in line for part in LEFT_OUT):
            run = line
            for part, other in STAND_INS.items():
                run = run.replace(part, other)
            yield line, shlex.split(run)[1:]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=lambda page: page.name)
def test_every_example_runs(page, user, cdtool, monkeypatch):
    failed = []
    monkeypatch.setattr(demo, "_run", lambda command, _: main(command))  # in this process, which has torch already
    for line, words in commands(page):
        for part, prepare in BEFORE.items():
            if part in line:
                prepare(user)
        monkeypatch.setattr("sys.argv", ["cdtool", *words])  # which processes that share the work are started by
        said = cdtool(*words)
        if said.code not in allowed(line):
            failed.append(f"{line}\n  {said.code}: {said.err.strip()[-600:]}")
    assert not failed, "\n".join(failed)


def allowed(line):
    """The exit codes of an example: a concept of six steps need not pass a gate."""
    return (0, 6) if "--min" in line else (0,)
