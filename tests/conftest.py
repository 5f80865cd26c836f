"""What every test has: a fresh home, an empty hub cache, nobody's own settings; and the command line."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch reads it: the processes share the cores
    os.environ["OMP_NUM_THREADS"] = "1"
    gc.set_threshold(50_000, 20, 100)  # the libraries' million objects are looked through less often

import pytest
from huggingface_hub import constants

from cdtool.store.concept import BaseRef, Manifest
from cdtool.tokens import Token


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """A CDTOOL_HOME of this test's own, and an empty folder to stand in; tmp_path stays as it is."""
    place = tmp_path_factory.mktemp("user")
    for name in os.environ:
        if name.startswith("CDTOOL_"):
            monkeypatch.delenv(name)
    folder = place / "home"
    monkeypatch.setenv("CDTOOL_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (place / "here").mkdir()
    monkeypatch.chdir(place / "here")
    return folder


@dataclass
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture
def cdtool(capsys):
    """Run a command line in this process: `cdtool("list", "--json").out`."""
    from cdtool.cli import main

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture
def manifest():
    """Build a manifest: `manifest("dog", tokens=(Token("dog"),))`."""

    def build(name: str = "dog", **values: object) -> Manifest:
        values = {
            "tokens": (Token("dog", initializer="ktn", ids=(7,)),),
            "base": BaseRef("mini", "sd", "f00d" * 16),
        } | values
        return Manifest(name=name, **values)

    return build


@pytest.fixture
def tensors():
    """The tensors of a very small dense concept."""
    import torch

    numbers = torch.arange(12, dtype=torch.float32)
    return {
        "unet.mid.attn2.to_k.weight": numbers.reshape(4, 3).half(),
        "unet.mid.attn2.to_v.weight": -numbers.reshape(4, 3).half(),
        "token.1.text_encoder": numbers[:3].clone(),
    }


@pytest.fixture
def saved(manifest, tensors):
    """Save a small concept in the registry: `saved("dog")`."""
    from cdtool.store import registry

    def save(name: str = "dog", **values: object) -> registry.Concept:
        return registry.save(manifest(name, **values), tensors)

    return save


@pytest.fixture
def root() -> Path:
    """The top of the repository."""
    return Path(__file__).parent.parent


@pytest.fixture(scope="session")
def sd_base(tmp_path_factory):
    """The folder of a tiny SD pipeline that predicts noise."""
    import tiny_pipelines

    return tiny_pipelines.sd(tmp_path_factory.mktemp("bases") / "tiny-sd")


@pytest.fixture(scope="session")
def sd_v_base(tmp_path_factory):
    """The folder of a tiny SD pipeline that predicts velocity."""
    import tiny_pipelines

    return tiny_pipelines.sd(tmp_path_factory.mktemp("bases") / "tiny-sd-v", prediction="v_prediction", seed=1)


@pytest.fixture(scope="session")
def wide_base(tmp_path_factory):
    """The folder of a tiny SD pipeline whose text is wide enough to tell the words of several concepts apart."""
    import tiny_pipelines

    return tiny_pipelines.sd(tmp_path_factory.mktemp("bases") / "tiny-wide", width=160, seed=2)


@pytest.fixture(scope="session")
def sdxl_base(tmp_path_factory):
    """The folder of a tiny SDXL pipeline."""
    import tiny_pipelines

    return tiny_pipelines.sdxl(tmp_path_factory.mktemp("bases") / "tiny-sdxl")


@pytest.fixture(scope="session")
def clip_tokenizer(tmp_path_factory):
    """The tokenizer of the public bases, of CLIP's real vocabulary."""
    import clip_vocabulary

    return clip_vocabulary.tokenizer(tmp_path_factory.mktemp("clip"))
