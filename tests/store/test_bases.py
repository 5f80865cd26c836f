"""Which bases there are: folders, aliases, the hub cache; and what is fetched of a hub pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from cdtool.errors import BaseError, NotFoundError
from cdtool.store import bases, hub

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "safety_checker": [None, None],
}


def pipeline(folder, index=INDEX, parts=("unet", "vae", "text_encoder")):
    for part in parts:
        (folder / part).mkdir(parents=True)
        (folder / part / "model.safetensors").write_bytes(b"12345")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def cached(hub_id, **values):
    store = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"
    (store / "refs").mkdir(parents=True)
    (store / "refs" / "main").write_text("c0ffee")
    return pipeline(store / "snapshots" / "c0ffee", **values)


@pytest.fixture
def mini(tmp_path, monkeypatch):
    monkeypatch.setattr(bases, "MINI", tmp_path / "mini")
    return tmp_path / "mini"


def test_mini(mini):
    with pytest.raises(NotFoundError, match="embedded base"):
        bases.locate("mini")
    pipeline(mini)
    assert bases.locate("mini") == mini


def test_a_folder(tmp_path, monkeypatch):
    folder = pipeline(tmp_path / "models" / "mine")
    monkeypatch.chdir(tmp_path)
    assert bases.locate(str(folder)) == bases.locate("./models/mine") == bases.locate("models/mine") == folder


def test_a_folder_called_like_an_alias_needs_a_path():
    pipeline(Path("sd15"))
    with pytest.raises(NotFoundError):
        bases.locate("sd15")
    assert bases.locate("./sd15") == Path("sd15").resolve()


def test_things_that_are_no_pipeline(tmp_path):
    with pytest.raises(BaseError, match=r"no model_index\.json"):
        bases.locate(str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(BaseError, match="damaged"):
        bases.locate(str(tmp_path / "model.safetensors"))
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(BaseError, match="cannot be read"):
        bases.locate(str(tmp_path))


@pytest.mark.parametrize("hub_id", bases.ALIASES["sd15"])
def test_an_alias_is_found_in_the_cache_under_each_of_its_homes(hub_id):
    folder = cached(hub_id)
    assert bases.locate("sd15") == bases.locate(hub_id) == folder


@pytest.mark.parametrize("name", ["sd15", "sdxl", "someone/else"])
def test_a_missing_base_names_the_command_that_gets_it(name):
    with pytest.raises(NotFoundError) as caught:
        bases.locate(name)
    assert caught.value.exit_code == 3
    assert caught.value.hint.endswith(f"cdtool base use {name} --fetch")


@pytest.mark.parametrize(("name", "hint"), [("sd155", "sd15"), ("minni", "mini"), ("q", "cdtool base list")])
def test_an_unknown_name(name, hint):
    with pytest.raises(NotFoundError) as caught:
        bases.locate(name)
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["", "../..", "a/../b", "a--b/c", "a/b/c", "/nowhere/at/all"])
def test_strange_names(name):
    with pytest.raises((NotFoundError, BaseError)):
        bases.locate(name)


def test_half_a_download():
    cached("a/b", parts=("vae",))
    with pytest.raises(NotFoundError, match="unet, text_encoder has no weights") as caught:
        bases.locate("a/b")
    assert "--fetch" in caught.value.hint


def test_pickled_weights_are_refused_with_the_conversion(tmp_path):
    folder = pipeline(tmp_path / "old")
    (folder / "unet" / "model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(BaseError, match=r"only \.bin weights of unet") as caught:
        bases.locate(str(folder))
    assert "use_safetensors=False" in caught.value.hint


def test_the_class_is_named_before_missing_weights(tmp_path):
    with pytest.raises(BaseError, match="FluxPipeline"):
        bases.locate(str(pipeline(tmp_path / "flux", index=INDEX | {"_class_name": "FluxPipeline"}, parts=())))


def test_installed(mini):
    pipeline(mini)
    cached("stable-diffusion-v1-5/stable-diffusion-v1-5")
    cached("some/xl", index=INDEX | {"_class_name": "StableDiffusionXLPipeline"})
    cached("some/half", parts=("unet",))
    cached("some/video", index=INDEX | {"unet": ["diffusers", "UNet3DConditionModel"]})
    (cached("some/broken") / "model_index.json").write_text("{")
    (Path(constants.HF_HUB_CACHE) / "models--a--b").mkdir()
    found = bases.installed()
    assert [(base.name, base.pipeline) for base in found] == [
        ("mini", "StableDiffusionPipeline"),
        ("some/xl", "StableDiffusionXLPipeline"),
        ("sd15", "StableDiffusionPipeline"),
    ]
    assert all(bases.locate(base.name) == base.folder for base in found)
    assert found[0].bytes == 15 + len(json.dumps(INDEX))


LISTING = [
    "README.md",
    "model_index.json",
    "v1-5-pruned.ckpt",
    "v1-5-pruned-emaonly.safetensors",
    "scheduler/scheduler_config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "feature_extractor/preprocessor_config.json",
    "safety_checker/model.fp16.safetensors",
    "text_encoder/config.json",
    "text_encoder/pytorch_model.bin",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_flax_model.msgpack",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "vae_1_0/diffusion_pytorch_model.safetensors",
]


def test_only_what_is_needed_is_fetched_and_halves_where_there_are_any():
    assert hub.files_to_fetch(LISTING) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]


@pytest.mark.parametrize(
    "shards",
    [
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
        ["model.fp16-00001-of-00001.safetensors", "model.safetensors.index.fp16.json"],
        ["model-00001-of-00001.fp16.safetensors", "model.safetensors.index.fp16.json"],
    ],
)
def test_weights_in_several_files(shards):
    files = [f"unet/{shard}" for shard in shards]
    assert hub.files_to_fetch(files) == sorted(files)
    if "fp16" in shards[0]:
        assert hub.files_to_fetch([*files, "unet/model.safetensors"]) == sorted(files)


def test_pickled_weights_are_not_fetched():
    with pytest.raises(BaseError, match="no safetensors"):
        hub.files_to_fetch(["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.bin"])


def test_fetch_asks_the_hub_for_those_files_and_goes_offline_again(monkeypatch, tmp_path):
    asked = []

    def snapshot_download(hub_id, allow_patterns):
        asked.append((hub_id, allow_patterns, constants.HF_HUB_OFFLINE))
        return str(tmp_path / "snapshot")

    pipeline(tmp_path / "snapshot")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda self, hub_id: LISTING)
    assert bases.fetch("sd15") == tmp_path / "snapshot"
    first = bases.ALIASES["sd15"][0]
    assert asked == [(first, ["model_index.json"], False), (first, hub.files_to_fetch(LISTING), False)]
    assert constants.HF_HUB_OFFLINE


def test_a_fetch_without_a_network_is_a_sentence(monkeypatch):
    def snapshot_download(*_, **__):
        raise OSError("Name or service not known\nand much more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(NotFoundError, match="could not be fetched: Name or service not known") as caught:
        bases.fetch("sdxl")
    assert "much more" not in str(caught.value)
    assert constants.HF_HUB_OFFLINE


def describable(folder, unet=None, scheduler=None):
    pipeline(folder, parts=("vae", "text_encoder"))
    for part, table in (
        ("unet", {"cross_attention_dim": 3, "sample_size": 8} | (unet or {})),
        ("scheduler", scheduler or {}),
        ("vae", {"block_out_channels": [1, 1, 1, 1]}),
    ):
        (folder / part).mkdir(exist_ok=True)
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part / name).write_text(json.dumps(table))
    weights = {
        "down.0.attn1.to_k.weight": torch.zeros(4, 3),
        "down.0.attn2.to_k.weight": torch.zeros(4, 3),
        "down.0.attn2.to_v.weight": torch.zeros(4, 3),
        "down.0.attn2.to_q.weight": torch.zeros(4, 3),
        "up.0.attn2.to_k.weight": torch.zeros(4, 5),
        "conv.weight": torch.zeros(2, 2, 3, 3),
    }
    save_file(weights, folder / "unet" / "diffusion_pytorch_model.safetensors")
    return folder


def test_describe(tmp_path):
    sheet = bases.describe(describable(tmp_path / "base", scheduler={"prediction_type": "v_prediction"}))
    assert (sheet.matrices, sheet.numbers) == (2, 24)
    assert (sheet.resolution, sheet.prediction, sheet.text_width) == (64, "v_prediction", 3)


def test_describe_counts_attn1_where_it_takes_text(tmp_path):
    sheet = bases.describe(describable(tmp_path / "base", unet={"only_cross_attention": True}))
    assert (sheet.matrices, sheet.prediction) == (3, "epsilon")


def test_describe_a_damaged_base(tmp_path):
    folder = describable(tmp_path / "base")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no")
    with pytest.raises(BaseError, match="damaged"):
        bases.describe(folder)


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 5000 + ".safetensors"])
def test_a_name_too_long_for_a_path_is_no_base_of_this_disk(name):
    assert not bases.is_local(name)
