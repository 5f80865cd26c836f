"""Several training processes against one, started in every way a user may start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pipelines
import pytest
import torch

from cdtool import ranks, registry, studies
from cdtool.concept import read_tensors

STEPS = 20


def process(*arguments, before=("-m", "cdtool"), **environment):
    """Run cdtool in a process of its own with one thread."""
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, *before, *map(str, arguments)], env=os.environ | quiet | environment, capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip


TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint",
            "localhost:0", "-m", "cdtool")  # fmt: skip


@pytest.fixture
def command(sd_base, tmp_path):
    """The arguments of a small training: `command("one", "--gpus", 2)`."""
    photos, priors = pipelines.photos(tmp_path / "photos"), pipelines.photos(tmp_path / "priors", 5, 44)

    def make(name, *more, steps=STEPS):
        return ("train", photos, "--token", "V* dog", "-o", name, "--base", sd_base, "--prior", priors, "--batch", 4,
                "--steps", steps, "--precision", "fp32", "--device", "cpu", "--lr", "1e-3", *more)  # fmt: skip

    return make


def vector(name):
    made = read_tensors(registry.find(name).path)
    return torch.cat([tensor.float().flatten() for key, tensor in sorted(made.items()) if key.startswith("unet")])


def difference(one, other):
    return float((vector(one) - vector(other)).norm() / vector(other).norm())


def test_alone_nothing_is_joined(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert not ranks.launched()
    assert ranks.leads()
    with ranks.joined() as group:
        assert group == ranks.ALONE
    assert not torch.distributed.is_initialized()


def test_the_environment_of_a_launcher_is_read(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert ranks.launched()
    assert not ranks.leads()


def test_two_processes_learn_what_one_learns(cdtool, command):
    assert cdtool(*command("one")).code == 0
    done = process(*command("two", "--gpus", 2))
    assert (done.returncode, done.stdout.split()) == (0, ["two"]), done.stderr
    assert difference("two", "one") < 1e-4
    # the saved changes are fp16; one unit of the last place of the largest is the least that can differ
    assert vector("one").abs().max() > 1e-3


@pytest.mark.slow
def test_torchrun_is_honoured(cdtool, command):
    assert cdtool(*command("one")).code == 0
    done = process(*command("two", "--json"), before=TORCHRUN)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "two"
    assert difference("two", "one") < 1e-4
    again = process(*command("two", "--if-missing"), before=TORCHRUN)
    assert (again.returncode, again.stdout.split()) == (0, ["two"])


@pytest.mark.slow
def test_exit_codes_survive_several_processes(command, sd_base, tmp_path):
    import shutil

    broken = shutil.copytree(sd_base, tmp_path / "broken")
    path = broken / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])  # found out inside the processes
    done = process(*command("two", "--gpus", 2, "--base", broken))
    assert done.returncode == 4, done.stderr
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert registry.names() == []


@pytest.mark.slow
def test_ctrl_c_reaches_every_process_and_leaves_a_checkpoint(command):
    import signal

    running = subprocess.Popen(
        [sys.executable, "-m", "cdtool", *map(str, command("two", "--gpus", 2, steps=3000))],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in running.stderr:
        if line.startswith("step "):
            break
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=300)
    assert running.returncode == 130, told
    assert "--resume" in told
    assert registry.names() == []
    assert studies.checkpoint_path("two").is_file()


def test_more_processes_than_pictures_are_refused_before_training(command, monkeypatch, cdtool):
    """In this process, as if a launcher had started nine; joining them is left out."""
    import contextlib

    monkeypatch.setenv("WORLD_SIZE", "9")
    monkeypatch.setattr(ranks, "joined", lambda _: contextlib.nullcontext(ranks.Ranks(0, 9)))
    said = cdtool(*command("two"))
    assert said.code == 2
    assert "shared by 9" in said.err
