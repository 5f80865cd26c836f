"""Several training processes against one, started in every way a user may start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import tiny_pipelines
import torch

from cdtool.errors import UsageError
from cdtool.priors import sets
from cdtool.store import registry
from cdtool.store.concept import read_tensors
from cdtool.training import processes
from cdtool.training import run as studies

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
    photos, priors = tiny_pipelines.photos(tmp_path / "photos"), tiny_pipelines.photos(tmp_path / "priors", 5, 44)

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
    assert not processes.launched()
    assert processes.leads()
    with processes.distributed() as group:
        assert group == processes.ALONE
    assert not torch.distributed.is_initialized()


def test_the_environment_of_a_launcher_is_read(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert processes.launched()
    assert not processes.leads()


def test_two_processes_learn_what_one_learns(cdtool, command):
    assert cdtool(*command("one")).code == 0
    done = process(*command("two", "--gpus", 2))
    assert (done.returncode, done.stdout.split()) == (0, ["two"]), done.stderr
    assert "torch/distributed" not in done.stderr  # what its launcher warns of
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


def accelerate(*flags):
    """The start of a command line of `accelerate launch` with two processes."""
    settled = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    return ("-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "2", *settled, *flags, "-m",
            "cdtool")  # fmt: skip


@pytest.mark.slow
def test_accelerate_launch_is_honoured(cdtool, command):
    """By its way through torchrun, which it takes for --multi_gpu; that there are no GPUs is no matter to it."""
    assert cdtool(*command("one")).code == 0
    done = process(*command("two"), before=accelerate("--multi_gpu", "--main_process_port", "0"))
    assert (done.returncode, done.stdout.split()) == (0, ["two"]), done.stderr
    assert 0 < difference("two", "one") < 1e-4


@pytest.mark.slow
def test_accelerate_launch_through_mpi_is_honoured(cdtool, command):
    """On CPUs accelerate leaves the starting to mpirun, which is played here: it starts each process with its rank."""
    import socket

    assert cdtool(*command("one")).code == 0
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, *accelerate("--cpu", "--main_process_port", port), *map(str, command("two"))],
            env=os.environ | mpi(rank), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    told = [one.communicate(timeout=600) for one in started]
    assert [one.returncode for one in started] == [0, 0], told
    assert [out.split() for out, _ in told] == [["two"], []]
    assert 0 < difference("two", "one") < 1e-4


def mpi(rank):
    """What Open MPI tells a process of two."""
    told = {"WORLD_RANK": rank, "WORLD_SIZE": 2, "WORLD_LOCAL_RANK": rank, "WORLD_LOCAL_SIZE": 2}
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return quiet | {f"OMPI_COMM_{name}": str(value) for name, value in told.items()}


def test_what_mpi_sets_is_read_after_what_torchrun_sets(monkeypatch):
    for name, value in mpi(1).items():
        monkeypatch.setenv(name, value)
    assert processes.launched()
    assert not processes.leads()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not processes.launched()
    assert processes.leads()


def test_processes_that_cannot_be_joined_do_not_train_apart(monkeypatch):
    """As on GPUs under MPI, where accelerate takes each process for the only one."""
    import types

    import accelerate as hf_accelerate

    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    alone = types.SimpleNamespace(num_processes=1, process_index=0)
    monkeypatch.setattr(hf_accelerate, "PartialState", lambda **_: alone)
    with pytest.raises(UsageError, match="CPUs only"), processes.distributed():
        pytest.fail("it went on alone")


GENERATED_BY = """
import os
from cdtool.priors import make

generate = make.generate

def noted(*arguments, **settings):
    with open(os.environ["NOTES"], "a") as file:
        file.write(os.environ.get("RANK", "alone") + "\\n")
    yield from generate(*arguments, **settings)

make.generate = noted
"""


@pytest.mark.slow
def test_the_first_process_alone_generates_the_class_images(command, tmp_path):
    notes = tmp_path / "notes"
    (tmp_path / "sitecustomize.py").write_text(GENERATED_BY)  # Python runs it at the start of every process
    generating = ("--prior", "generated", "--prior-count", 6)

    def run(name, *more):
        """Hashes of the class images that a training generated, which are removed again."""
        done = process(*command(name, *generating, *more), PYTHONPATH=str(tmp_path), NOTES=str(notes))
        assert (done.returncode, done.stdout.split()) == (0, [name]), done.stderr
        assert done.stderr.count("Generating 6 class images") == 1
        (made,) = sets.entries()
        assert sets.unfinished() == []
        sets.remove(made.name)
        return [image.sha256 for image in made.manifest.images]

    alone, together = run("one"), run("two", "--gpus", 2)
    assert notes.read_text().split() == ["alone", "0"]
    assert together == alone
    assert len(set(together)) == 6
    assert 0 < difference("two", "one") < 1e-4


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
    monkeypatch.setattr(processes, "distributed", lambda _: contextlib.nullcontext(processes.Ranks(0, 9)))
    said = cdtool(*command("two"))
    assert said.code == 2
    assert "shared by 9" in said.err
