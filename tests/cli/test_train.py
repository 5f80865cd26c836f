"""cdtool train on a tiny base: what it says, saves and refuses, and how it ends when it is stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import tiny_pipelines
import torch
from PIL import Image

from cdtool.images import augmentation
from cdtool.store import registry
from cdtool.store.concept import BaseRef, Manifest, read_header, read_tensors
from cdtool.tokens import Token
from cdtool.training import optimizer_step
from cdtool.training import run as studies


@pytest.fixture
def photos(tmp_path):
    return tiny_pipelines.photos(tmp_path / "photos")


@pytest.fixture
def arguments(sd_base, photos):
    """The arguments of a short training: `arguments("--steps", 3)`."""

    def make(*more, base=sd_base):
        return ["train", photos, "--token", "V* dog", "--base", base, "--prior", "none", "--batch", 2, "--steps", 2,
                "--precision", "fp32", "--device", "cpu", *more]  # fmt: skip

    return make


def files(home):
    """What lies under a home, but for the cache."""
    names = sorted(
        path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file() and path.name != ".lock"
    )
    return [name for name in names if not name.startswith("cache/")]


# ---------------------------------------------------------------- what it says and saves


def test_a_training_ends_with_a_concept(cdtool, arguments, sd_base, photos, home):
    said = cdtool(*arguments())
    assert (said.code, said.out) == (0, "dog\n")
    assert "step 2/2" in said.err
    assert 'cdtool sample dog "photo of a V* dog"' in said.err
    entry = registry.find("dog")
    assert entry.manifest.base.name == "tiny-sd"  # where it lies is this machine's affair
    assert registry.base_of(entry) == str(sd_base)
    (token,) = entry.manifest.tokens
    assert (token.noun, token.initializer, token.modifier) == ("dog", "pll", True)
    assert len(entry.manifest.photos) == 3
    assert entry.manifest.settings["steps"] == 2
    assert registry.note("dog")["photos"] == [str(photos)]
    assert files(home) == ["concepts/dog.json", "concepts/dog.safetensors"]
    assert sorted(path.name for path in photos.iterdir()) == ["0.png", "1.png", "2.png"]


def test_json_is_one_object_and_quiet_the_name_alone(cdtool, arguments):
    data = json.loads(cdtool(*arguments("--json")).out)
    assert (data["schema"], data["name"]) == (1, "dog")
    assert data["path"] == str(registry.find("dog").path)
    said = cdtool(*arguments("-o", "other", "-q"))
    assert (said.code, said.out, said.err) == (0, "other\n", "")


def test_a_name_in_use_needs_force_and_if_missing_skips(cdtool, arguments, saved):
    saved("dog")
    before = registry.find("dog").path.read_bytes()
    said = cdtool(*arguments())
    assert said.code == 4
    assert "--force" in said.err
    said = cdtool(*arguments("--if-missing"))
    assert (said.code, said.out) == (0, "dog\n")
    assert json.loads(cdtool(*arguments("--if-missing", "--json")).out)["name"] == "dog"
    assert registry.find("dog").path.read_bytes() == before
    assert cdtool(*arguments("--force")).code == 0
    assert registry.find("dog").path.read_bytes() != before


def test_a_prior_folder_and_a_plain_word(cdtool, arguments, sd_base, photos, tmp_path):
    priors = tiny_pipelines.photos(tmp_path / "priors", 2)
    said = cdtool("train", photos, "--token", "moongate", "--base", sd_base, "--prior", priors, "--batch", 2,
                  "--steps", 2, "--precision", "fp32", "--device", "cpu")  # fmt: skip
    assert (said.code, said.out) == (0, "moongate\n")
    assert "Prior: 2 class images of" in said.err
    assert "photo of a moongate" in said.err
    _, shapes = read_header(registry.find("moongate").path)
    assert not any(name.startswith("token") for name in shapes)


def test_previews_are_written_at_start_checkpoints_and_end(cdtool, arguments, tmp_path):
    said = cdtool(*arguments("--preview", "a V* dog", "--steps", 3, "--save-every", 2))
    assert said.code == 0
    made = [line.removeprefix("Preview: ") for line in said.err.splitlines() if line.startswith("Preview")]
    assert made == [f"samples/dog-preview/step-0000{step}-1.png" for step in (0, 2, 3)]
    for path in made:
        with Image.open(path) as image:
            assert image.size == (16, 16)
    assert cdtool(*arguments("--force", "--preview", "a V* dog", "--preview-dir", tmp_path / "p")).code == 0
    assert len(list((tmp_path / "p").iterdir())) == 2


def test_modifier_tokens_of_a_preview_are_checked_before_training(cdtool, arguments):
    said = cdtool(*arguments("--preview", "V2 cat"))
    assert said.code == 4
    assert "step" not in said.err


def test_skipped_photos_are_told(cdtool, arguments, photos):
    (photos / "notes.pdf").write_bytes(b"%PDF")
    said = cdtool(*arguments())
    assert said.code == 0
    assert "Skipped notes.pdf" in said.err


def test_a_bf16_training_of_sdxl(cdtool, arguments, sdxl_base):
    said = cdtool(*arguments("--precision", "bf16", "--checkpointing", "--accumulate", 2, base=sdxl_base))
    assert said.code == 0
    _, shapes = read_header(registry.find("dog").path)
    assert {name: shapes[name].shape for name in shapes if name.startswith("token")} == {
        "token.1.text_encoder": (16,),
        "token.1.text_encoder_2": (24,),
    }


# ---------------------------------------------------------------- the plan


def test_a_dry_run_prints_the_plan_and_writes_nothing(cdtool, arguments, photos, home, tmp_path):
    (photos / "notes.pdf").write_bytes(b"%PDF")
    priors = tiny_pipelines.photos(tmp_path / "priors", 2)
    plan = cdtool(*arguments("--dry-run", "--prior", priors, "--batch", 4, "--accumulate", 2, "--steps", 30))
    assert plan.code == 0
    facts = dict(line.split("  ", 1) for line in plan.out.splitlines())
    facts = {name: value.strip() for name, value in facts.items()}
    assert facts["photos used"].startswith("3: 0.png, 1.png, 2.png")
    assert facts["photos skipped"].startswith("notes.pdf: ")
    assert facts["prior"].startswith("2 class images")
    assert facts["trained"] == "2,048 numbers in 8 matrices, and 1 row"
    assert facts["steps"] == "30 of 4 images (2 targets) in 2 passes"
    assert facts["precision"] == "float32 (asked for) on cpu"
    assert facts["latent cache"].startswith("100 crops")
    assert facts["concept"] == "dog, 0.0 MB"
    assert {"time", "memory", "base", "tokens"} <= facts.keys()
    assert not home.exists() or files(home) == []
    assert os.listdir() == []


def test_the_sheet_of_crops_shows_those_that_are_trained_on(cdtool, arguments, monkeypatch):
    seen = []
    crop = augmentation.crop

    def spy(*given, **named):
        made = crop(*given, **named)
        seen.append(((named["photo"], named["index"]), made.pixels.tobytes()))
        return made

    monkeypatch.setattr(augmentation, "crop", spy)
    monkeypatch.setenv("CDTOOL_TRAIN_CROPS", "2")
    said = cdtool(*arguments("--dry-run", "--crop-sheet", "crops.png"))
    assert said.code == 0
    assert "Crops: crops.png" in said.err
    shown = dict(seen)
    assert {photo for photo, _ in shown} == {0, 1, 2}
    with Image.open("crops.png") as sheet:
        assert sheet.height > 3 * 128
    seen.clear()
    assert cdtool(*arguments()).code == 0
    both = shown.keys() & dict(seen).keys()
    assert both
    assert all(shown[key] == dict(seen)[key] for key in both)


def test_the_plan_as_json_agrees_with_what_training_makes(cdtool, arguments):
    plan = json.loads(cdtool(*arguments("--dry-run", "--json")).out)
    assert (plan["schema"], plan["name"], plan["processes"]) == (1, "dog", 1)
    assert cdtool(*arguments()).code == 0
    made = read_tensors(registry.find("dog").path)
    weights = [tensor for name, tensor in made.items() if name.startswith("unet")]
    assert (plan["matrices"], plan["numbers"]) == (len(weights), sum(weight.numel() for weight in weights))
    assert plan["embeddings"] == len(made) - len(weights)
    assert plan["concept_bytes"] == sum(tensor.nbytes for tensor in made.values())
    assert plan["settings"] == registry.find("dog").manifest.settings | {
        "memory": "auto", "vae": "", "compile": False, "token_lr": 0.0,
    }  # fmt: skip
    assert [entry["path"].rsplit("/", 1)[1] for entry in plan["photos"]] == ["0.png", "1.png", "2.png"]


# ---------------------------------------------------------------- methods, ablations and other concepts


@pytest.mark.parametrize("method", ["crossattn", "full", "textual-inversion", "lora"])
def test_a_concept_of_every_method_is_trained_shown_and_drawn(cdtool, arguments, sd_base, tmp_path, method):
    dry = cdtool(*arguments("--method", method, "--rank", 2, "--lr", 1e-2, "--dry-run", "--json"))
    plan = json.loads(dry.out)
    said = cdtool(*arguments("--method", method, "--rank", 2, "--lr", 1e-2))
    assert [one.err.count("--rank has no effect") for one in (dry, said)] == [int(method != "lora")] * 2
    assert (said.code, said.out) == (0, "dog\n"), said.err
    entry = registry.find("dog")
    assert entry.manifest.method == method
    made = read_tensors(entry.path)
    assert plan["concept_bytes"] == sum(tensor.nbytes for tensor in made.values())
    assert plan["origins"]["method"] == "flag"
    drawn = cdtool("sample", "dog", "a V* dog", "-n", 1, "--steps", 2, "--precision", "fp32", "--out", tmp_path / "a")
    plain = cdtool("sample", sd_base, "a dog", "-n", 1, "--steps", 2, "--precision", "fp32", "--out", tmp_path / "b")
    assert (drawn.code, plain.code) == (0, 0), drawn.err + plain.err
    one, other = (Image.open(answer.out.strip()).tobytes() for answer in (drawn, plain))
    assert one != other
    assert cdtool("show", "dog").code == 0


def test_dreambooth_draws_its_prior_and_keeps_its_word(cdtool, arguments, sd_base, photos):
    priors = tiny_pipelines.photos(photos.parent / "priors", 2)
    said = cdtool(*arguments("--method", "dreambooth", "--prior", priors, "--lr", 1e-3))
    assert said.code == 0, said.err
    row = read_tensors(registry.find("dog").path)["token.1.text_encoder"]
    from cdtool.models import pipelines

    base = pipelines.load(str(sd_base), parts=("text",))
    (token,) = registry.find("dog").manifest.tokens
    assert torch.equal(row, base.text_encoders[0].get_input_embeddings().weight[token.ids[0]])
    plan = json.loads(cdtool(*arguments("--method", "dreambooth", "--prior", priors, "--dry-run", "--json")).out)
    assert (plan["embeddings"], plan["settings"]["augment"]) == (0, False)
    assert plan["origins"]["augment"] == "method dreambooth"


def test_ablations_are_options(cdtool, arguments):
    said = cdtool(*arguments("--no-augment", "--token-init", "normal", "--freeze-token"))
    assert said.code == 0, said.err
    chosen = registry.find("dog").manifest.settings
    assert (chosen["augment"], chosen["token_init"], chosen["freeze_token"], chosen["prior"]) == (
        False, "normal", True, "none"
    )  # fmt: skip


def test_the_plan_tells_that_steps_are_halved_and_where_settings_come_from(cdtool, sd_base, photos, monkeypatch):
    monkeypatch.setenv("CDTOOL_TRAIN_STEPS", "30")
    plan = cdtool("train", photos, "--token", "V* dog", "--base", sd_base, "--prior", "none", "--lr", 1e-3, "--dry-run",
                  "--method", "crossattn")  # fmt: skip
    assert plan.code == 0, plan.err
    facts = {name: value.strip() for name, value in (line.split("  ", 1) for line in plan.out.splitlines())}
    assert facts["steps"].startswith("15 of 8 images")
    assert "half as many because there is no prior" in facts["steps"]
    assert facts["method"] == "crossattn: all of the text cross-attention"
    assert "lr" in facts["settings"]
    assert "steps from CDTOOL_TRAIN_STEPS" in facts["settings"]


def test_a_training_goes_on_from_a_concept(cdtool, arguments, photos, sd_base):
    assert cdtool(*arguments("--lr", 1e-2)).code == 0
    registry.rename("dog", "rex")
    first = read_tensors(registry.find("rex").path)
    more = ["train", photos, "--token", "V2 cat", "--from", "rex", "--prior", "none", "--batch", 2, "--steps", 2,
            "--precision", "fp32", "--device", "cpu", "--lr", 1e-2]  # fmt: skip
    plan = json.loads(cdtool(*more, "--dry-run", "--json").out)
    assert (plan["name"], plan["from"], plan["embeddings"]) == ("rex-cat", "rex", 1)
    said = cdtool(*more)
    assert (said.code, said.out) == (0, "rex-cat\n"), said.err
    assert 'Going on from rex, which holds "V1 dog".' in said.err
    assert "photo of a V1 dog and a V2 cat" in said.err
    entry = registry.find("rex-cat")
    assert [token.noun for token in entry.manifest.tokens] == ["dog", "cat"]
    dog, cat = entry.manifest.tokens
    assert dog == registry.find("rex").manifest.tokens[0]
    assert cat.initializer not in ("", dog.initializer)
    (parent,) = entry.manifest.parents
    assert (parent["name"], parent["by"], parent["method"]) == ("rex", "train", "kv")
    assert registry.dependents("rex") == ["rex-cat"]
    assert registry.note("rex-cat")["photos"] == [str(photos)] * 2
    assert registry.base_of(entry) == str(sd_base)
    made = read_tensors(entry.path)
    assert torch.equal(made["token.1.text_encoder"], first["token.1.text_encoder"])
    assert plan["concept_bytes"] == sum(tensor.nbytes for tensor in made.values())
    assert any(not torch.equal(made[name], first[name]) for name in first)
    assert cdtool("sample", "rex-cat", "a V1 dog", "a V2 cat", "-n", 1, "--steps", 1).code == 0
    assert cdtool("show", "rex-cat").code == 0
    again = cdtool(*more, "-o", "again", "--token", "V3 bird", photos)
    assert again.code == 0, again.err
    assert len(registry.find("again").manifest.tokens) == 3


def test_going_on_keeps_to_the_concepts_base(cdtool, arguments, photos, sd_v_base):
    assert cdtool(*arguments()).code == 0
    more = ["train", photos, "--token", "V2 cat", "--from", "dog", "--prior", "none", "--batch", 2, "--steps", 1,
            "--precision", "fp32", "--device", "cpu", "--base", sd_v_base, "-o", "both"]  # fmt: skip
    for dry in ((), ("--dry-run",)):
        said = cdtool(*more, *dry)
        assert said.code == 4
        assert "--force" in said.err
    assert cdtool(*more, "--force").code == 0
    assert cdtool("train", photos, "--token", "V1 cat", "--from", "dog").code == 4
    assert cdtool("train", photos, "--token", "V2 cat", "--from", "dgo").code == 3


def test_the_settings_of_another_concept(cdtool, arguments, photos):
    assert cdtool(*arguments("--lr", 1e-2, "--method", "lora", "--rank", 2)).code == 0
    said = cdtool("train", photos, "--token", "V* cat", "--like", "dog", "--rank", 3, "--device", "cpu")
    assert (said.code, said.out) == (0, "cat\n"), said.err
    one, other = (registry.find(name).manifest for name in ("dog", "cat"))
    assert other.settings == dict(one.settings) | {"rank": 3}
    assert other.base == one.base
    again = cdtool("train", photos, "--token", "V* dog", "--like", "dog", "-o", "again", "--device", "cpu")
    assert again.code == 0, again.err
    made, before = (read_tensors(registry.find(name).path) for name in ("again", "dog"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.items())


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (("--prior", "lost"), 3),
        (("--base", "lost"), 3),
        (("--token", "V* cat"), 2),
        (("--batch", 3, "--prior", "auto"), 2),
        (("--steps", 0), 2),
        (("--precision", "fp16"), 2),
        (("--resume",), 3),
        (("--resolution", 18), 2),
        (("-o", "mini"), 4),
        (("--method", "ful"), 2),
        (("--method", "textual-inversion", "--freeze-token"), 2),
        (("--token-init", "nomral"), 2),
        (("--token-init", "word:zebra"), 4),
        (("--from", "lost"), 3),
        (("--like", "lost"), 3),
    ],
)
def test_bad_requests_have_their_exit_codes(cdtool, arguments, more, code):
    said = cdtool(*arguments(*more))
    assert said.code == code, said.err
    assert "Error: " in said.err or "Usage: " in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    assert registry.names() == []


def test_photos_that_are_not_there_or_no_photos(cdtool, sd_base, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, code in (("lost", 3), ("empty", 4)):
        said = cdtool("train", tmp_path / folder, "--token", "V* dog", "--base", sd_base)
        assert said.code == code


def test_a_loss_that_is_no_number_saves_nothing(cdtool, arguments, home):
    said = cdtool(*arguments("--lr", 1e30, "--steps", 4))
    assert said.code == 1
    assert "Error: The loss became" in said.err
    assert "Traceback" not in said.err
    assert files(home) == []


# ---------------------------------------------------------------- stopped


def start(arguments, **environment):
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [sys.executable, "-m", "cdtool", *map(str, arguments)], env=os.environ | quiet | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(process, word):
    told = []
    for line in process.stderr:
        told.append(line)
        if word in line:
            return
    raise AssertionError("".join(told))


def test_ctrl_c_in_a_process_of_its_own_saves_a_checkpoint(cdtool, arguments, home):
    running = start(arguments("--steps", 1000, "--save-every", 1000))
    wait_for(running, "step 1/1000")
    running.send_signal(signal.SIGINT)
    out, told = running.communicate(timeout=300)
    assert running.returncode == 130, told
    assert out == ""
    assert "Stopped at step" in told
    assert "--resume" in told
    assert "Traceback" not in told
    assert registry.names() == []
    assert files(home) == ["checkpoints/dog.pt"]
    said = cdtool(*arguments("--steps", 1001, "--resume"))  # another run
    assert said.code == 4
    assert files(home) == ["checkpoints/dog.pt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_save_a_checkpoint_and_the_resumed_training_ends_as_an_unbroken_one(
    cdtool, arguments, home, monkeypatch, number
):
    """Stopped in this process, by the signal the terminal sends, or a cluster."""

    take = optimizer_step.take

    def interrupted(run, mine, *, step, **rest):
        if step == 2:
            os.kill(os.getpid(), number)
        return take(run, mine, step=step, **rest)

    before = signal.getsignal(number)
    assert cdtool(*arguments("--steps", 6, "-o", "whole")).code == 0
    monkeypatch.setattr(optimizer_step, "take", interrupted)
    said = cdtool(*arguments("--steps", 6))
    assert (said.code, said.out) == (130, "")
    assert "Stopped at step 4 of 6." in said.err  # the step it came in and the one after
    assert "--resume" in said.err
    assert "Traceback" not in said.err
    assert signal.getsignal(number) is before
    monkeypatch.undo()
    os.environ["CDTOOL_HOME"] = str(home)
    assert registry.names() == ["whole"]
    assert [name for name in files(home) if "whole" not in name] == ["checkpoints/dog.pt"]
    assert studies.checkpoint_path("dog").exists()
    assert cdtool(*arguments("--steps", 7, "--resume")).code == 4  # another run
    assert studies.checkpoint_path("dog").exists()
    said = cdtool(*arguments("--steps", 6, "--resume"))
    assert said.code == 0
    one, other = (read_tensors(registry.find(name).path) for name in ("whole", "dog"))
    assert all((tensor == other[name]).all() for name, tensor in one.items())
    assert not studies.checkpoint_path("dog").exists()


def save_for_ever(ready, tensors):
    """What a forked process does until it is killed; tensors stay small, for torch's threads are gone in it."""
    try:
        os.write(ready, b".")
        while True:
            for number in range(3):
                manifest = Manifest(f"dog-{number}", BaseRef("mini", "sd", "f00d"), (Token("dog"),))
                registry.save(manifest, tensors, force=True)
    finally:
        os._exit(1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_ten_processes_killed_while_saving_leave_no_half_concept(saved, cdtool):
    """SIGKILL at random moments; after each of them every concept listed is whole."""
    chance, seen = random.Random(1), 0
    tensors = {f"unet.{number}.weight": torch.zeros(128, 128, dtype=torch.float16) for number in range(16)}
    for _ in range(10):
        told, ready = os.pipe()
        child = os.fork()
        if child == 0:
            save_for_ever(ready, tensors)
        assert os.read(told, 1) == b"."
        time.sleep(chance.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        os.close(told)
        os.close(ready)
        for entry in registry.concepts():
            assert entry.problem == ""
            assert len(read_tensors(entry.path)) == 16
            seen += 1
    assert seen > 0
    listed = {concept["name"] for concept in json.loads(cdtool("list", "--json").out)["concepts"]}
    assert listed == set(registry.names()) <= {"dog-0", "dog-1", "dog-2"}
    saved("last")  # whatever the dead left behind is swept
    assert not list(registry.concepts_dir().glob(".*.partial"))


@pytest.mark.slow
def test_trainings_killed_at_random_moments_never_show_half_a_concept(cdtool, arguments):
    chance = random.Random(3)
    for _ in range(5):
        running = start(arguments("--steps", 40, "--save-every", 1, "--force"))
        wait_for(running, "step 1/40")
        time.sleep(chance.uniform(0.0, 1.5))
        running.kill()
        running.communicate()
        listed = json.loads(cdtool("list", "--json").out)
        for entry in registry.concepts():
            assert entry.problem == ""
            read_tensors(entry.path)
        assert len(listed["concepts"]) == len(registry.names())


# ---------------------------------------------------------------- scripts


SCRIPT = """
set -e
for noun in dog cat; do
  cdtool train photos/$noun --token "V* $noun" --if-missing --json >> trained.jsonl
  cdtool sample $noun "V* $noun on the beach" -n 1 --json >> drawn.jsonl
done
"""


@pytest.mark.slow
def test_a_shell_loop_trains_and_samples_a_list_of_concepts_and_may_run_again(sd_base, tmp_path):
    for noun in ("dog", "cat"):
        tiny_pipelines.photos(tmp_path / "photos" / noun)
    settings = {
        "CDTOOL_BASE": str(sd_base), "CDTOOL_TRAIN_STEPS": "4", "CDTOOL_TRAIN_PRIOR": "none", "CDTOOL_TRAIN_BATCH": "2",
        "CDTOOL_SAMPLE_STEPS": "2", "PATH": f"{tmp_path}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = tmp_path / "cdtool"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cdtool "$@"\n')
    command.chmod(0o755)
    for turn in (1, 2):
        done = subprocess.run(["bash", "-c", SCRIPT], cwd=tmp_path, env=os.environ | settings, capture_output=True,
                              text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        trained = [json.loads(line) for line in (tmp_path / "trained.jsonl").read_text().splitlines()]
        assert [entry["name"] for entry in trained] == ["dog", "cat"] * turn
        drawn = [json.loads(line) for line in (tmp_path / "drawn.jsonl").read_text().splitlines()]
        assert len(drawn) == 2 * turn
        assert all((tmp_path / entry["path"]).is_file() for entry in drawn)
    failed = subprocess.run(["bash", "-c", SCRIPT.replace("dog cat", "dog bird")], cwd=tmp_path,
                            env=os.environ | settings, capture_output=True, text=True)  # fmt: skip
    assert failed.returncode == 3
