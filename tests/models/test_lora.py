"""LoRA files of other tools: every spelling means its layer, scaled as it says; anything else is refused."""

from __future__ import annotations

import json
from pathlib import Path

import ldm_files
import numpy as np
import pytest
import tiny_pipelines
import torch
from safetensors.torch import save_file

from cdtool.errors import BaseError, InputError, NotFoundError, SettingsError
from cdtool.models import adapter, lora, pipelines
from cdtool.sampling import run as sampling
from cdtool.store import loras

RANK = 2


def factors(weight, seed):
    """Two factors for a weight [o, i, ...]; a convolution's kernel lies in the lower one."""
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(len(weight), RANK, generator=generator) * 0.1
    down = torch.randn(RANK, *weight.shape[1:], generator=generator) * 0.1
    return (up[..., None, None] if weight.ndim == 4 else up), down


def product(up, down):
    return (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])


@pytest.fixture
def layers(sd_base):
    """A few layers of each kind of a tiny pipeline, and the base they are of."""
    base = pipelines.load(str(sd_base), precision="fp32", device="cpu")
    names = ["conv_in", "down_blocks.0.resnets.0.conv1", "down_blocks.0.downsamplers.0.conv", "time_embedding.linear_1",
             "up_blocks.0.upsamplers.0.conv", "mid_block.resnets.1.time_emb_proj",
             "mid_block.attentions.0.proj_in"]  # fmt: skip
    known = lora.layers_of(base.unet)
    attention = [name for name in known if "attn" in name or ".ff." in name]
    assert len(attention) > 20
    return base, [name for name in names if name in known] + attention


def kohya(base, names):
    made = {}
    for seed, name in enumerate(names):
        up, down = factors(base.unet.get_submodule(name).weight, seed)
        flat = f"lora_unet_{name.replace('.', '_')}"
        made |= {f"{flat}.lora_up.weight": up, f"{flat}.lora_down.weight": down, f"{flat}.alpha": torch.tensor(1.0)}
    return made


def compvis(base, names):
    """The same under CompVis names, by the mapping made by hand."""
    pairs = sorted(ldm_files.unet_pairs(base.unet), key=lambda pair: -len(pair[0]))
    made = {}
    for seed, name in enumerate(names):
        up, down = factors(base.unet.get_submodule(name).weight, seed)
        new, old = next(pair for pair in pairs if name == pair[0] or name.startswith(pair[0] + "."))
        flat = f"lora_unet_{(old + name[len(new) :]).replace('.', '_')}"
        made |= {f"{flat}.lora_up.weight": up, f"{flat}.lora_down.weight": down, f"{flat}.alpha": torch.tensor(1.0)}
    return made


def peft(base, names):
    made = {}
    for seed, name in enumerate(names):
        up, down = factors(base.unet.get_submodule(name).weight, seed)
        made |= {f"unet.{name}.lora_B.weight": up, f"unet.{name}.lora_A.weight": down}
    return made


def dotted(base, names):
    made = {}
    for seed, name in enumerate(names):
        up, down = factors(base.unet.get_submodule(name).weight, seed)
        place = f"unet.{name}"
        if ".to_" in name:  # the oldest files: in the attention's processor, to_out without its number
            owner, _, leaf = name.partition(".to_")
            place = f"unet.{owner}.processor.to_{leaf.removesuffix('.0')}_lora"
            made |= {f"{place}.up.weight": up, f"{place}.down.weight": down}
        else:
            made |= {f"{place}.lora.up.weight": up, f"{place}.lora.down.weight": down}
    return made


@pytest.mark.parametrize(
    ("spelling", "scale", "metadata"),
    [
        (kohya, 1 / RANK, {}),
        (compvis, 1 / RANK, {}),
        (dotted, 1.0, {}),
        (peft, 1.0, {}),
        (peft, 4 / RANK, {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 4, "unet.r": RANK})}),
    ],
)
def test_every_spelling_changes_the_layer_it_means(layers, sd_base, tmp_path, spelling, scale, metadata):
    base, names = layers
    save_file(spelling(base, names), tmp_path / "style.safetensors", metadata)
    told = f"{tmp_path / 'style.safetensors'}:0.5"
    changed = pipelines.load(str(sd_base), precision="fp32", device="cpu", lora_files=told)
    for name, before in base.unet.named_parameters():
        module = name.removesuffix(".weight")
        expected = before
        if module in names:
            expected = before + 0.5 * scale * product(*factors(before, names.index(module)))
        torch.testing.assert_close(changed.unet.get_parameter(name), expected, msg=name)
        if module in base.kv:
            torch.testing.assert_close(changed.kv[module].float(), base.kv[module].float() + (expected - before))
    assert changed.fingerprint == base.fingerprint  # concepts are the base's own


@pytest.mark.parametrize("prefix", ["lora_te{}_text_model_", "text_encoder{}.text_model."])
def test_text_encoders_are_changed_each_by_its_own(sdxl_base, tmp_path, prefix):
    base = pipelines.load(str(sdxl_base), precision="fp32", device="cpu", parts=("text",))
    name, made, expected = "encoder.layers.0.self_attn.q_proj", {}, []
    for place, encoder in enumerate(base.text_encoders):
        weight = encoder.get_submodule(name).weight
        up, down = factors(weight, place)
        expected.append(weight + product(up, down))
        if "lora_te" in prefix:
            flat = prefix.format(place + 1) + name.replace(".", "_")
            made |= {f"{flat}.lora_up.weight": up, f"{flat}.lora_down.weight": down}
        else:
            flat = prefix.format("_2" if place else "") + name
            made |= {f"{flat}.lora_B.weight": up, f"{flat}.lora_A.weight": down}
    save_file(made, tmp_path / "words.safetensors")
    changed = pipelines.load(str(sdxl_base), precision="fp32", device="cpu", parts=("text",),
                             lora_files=str(tmp_path / "words.safetensors"))  # fmt: skip
    for encoder, weight in zip(changed.text_encoders, expected, strict=True):
        torch.testing.assert_close(encoder.get_submodule(name).weight, weight)


def test_pictures_are_those_of_a_base_with_the_changes_in_its_weights(layers, sd_base, tmp_path):
    import shutil

    from diffusers import UNet2DConditionModel

    base, names = layers
    save_file(kohya(base, names), tmp_path / "style.safetensors")
    merged = shutil.copytree(sd_base, tmp_path / "merged")
    unet = UNet2DConditionModel.from_pretrained(sd_base / "unet")
    with torch.no_grad():
        for seed, name in enumerate(names):
            weight = unet.get_submodule(name).weight
            weight += product(*factors(weight, seed)) / RANK
    unet.save_pretrained(merged / "unet")
    how = {"n": 1, "steps": 2, "precision": "fp32", "device": "cpu"}
    told = str(tmp_path / "style.safetensors")
    (with_lora,), (plain,), (by_hand,) = (
        sampling.sample(str(one), "a dog", **how, **more)
        for one, more in ((sd_base, {"lora": told}), (sd_base, {}), (merged, {}))
    )
    assert np.abs(np.asarray(with_lora, int) - np.asarray(by_hand, int)).max() <= 1
    assert np.abs(np.asarray(with_lora, int) - np.asarray(plain, int)).max() > 1
    (twice,) = sampling.sample(str(sd_base), "a dog", **how, lora=f"{told}:0.25,{told}:0.75")
    assert np.abs(np.asarray(with_lora, int) - np.asarray(twice, int)).max() <= 1
    assert with_lora.record.lora == loras.digest(told)
    assert (plain.record.lora, plain.record.settings["lora"]) == ("", "")


def test_a_concept_that_changes_a_layer_changes_it_from_that_with_the_lora(layers, sd_base, tmp_path):
    base, names = layers
    save_file(kohya(base, names), tmp_path / "style.safetensors")
    changed = pipelines.load(str(sd_base), precision="fp32", device="cpu",
                             lora_files=str(tmp_path / "style.safetensors"))  # fmt: skip
    name = next(name for name in names if name.endswith("attn2.to_q"))
    weight = base.unet.get_submodule(name).weight
    change = torch.full_like(weight, 0.25)
    concept = adapter.ConceptWeights(others={f"{name}.weight": change})
    expected = weight + product(*factors(weight, names.index(name))) / RANK + change
    torch.testing.assert_close(adapter.changed_parameters(changed, concept)[f"{name}.weight"], expected)


def test_a_picture_is_made_again_with_the_same_file_only(cdtool, layers, sd_base, tmp_path):
    base, names = layers
    path = tmp_path / "style.safetensors"
    save_file(kohya(base, names), path)
    quick = ["-n", 1, "--steps", 2, "--precision", "fp32", "--device", "cpu"]
    said = cdtool("sample", sd_base, "a dog", "--lora", path, *quick, "--out", tmp_path / "out", "-q")
    assert said.code == 0, said.err
    picture = said.out.strip()
    assert "Largest difference" in cdtool("sample", "--replay", picture, "--device", "cpu").err
    save_file(kohya(base, names[:3]), path)
    said = cdtool("sample", "--replay", picture, "--device", "cpu")
    assert said.code == 4
    assert "is not what it was" in said.err


def test_what_was_made_with_another_file_or_before_there_were_any_is_told_apart(cdtool, layers, sd_base, tmp_path):
    base, names = layers
    path, out = tmp_path / "style.safetensors", tmp_path / "out"
    save_file(kohya(base, names), path)
    quick = ["-n", 1, "--steps", 2, "--precision", "fp32", "--device", "cpu", "--out", out, "--skip-existing"]
    plain = ["sample", sd_base, "a dog", *quick]
    styled = [*plain, "--lora", path]
    assert "1 image." in cdtool(*plain).err
    records = out / "samples.jsonl"
    line = json.loads(records.read_text())
    del line["lora"], line["settings"]["lora"]  # as an earlier version wrote it
    records.write_text(json.dumps(line) + "\n")
    assert "0 images. 1 more were there already." in cdtool(*plain).err
    assert "1 image." in cdtool(*styled).err
    assert "0 images." in cdtool(*styled).err
    save_file(kohya(base, names[:3]), path)
    assert "1 image." in cdtool(*styled).err


@pytest.mark.parametrize("config", [tiny_pipelines.SD1_UNET, tiny_pipelines.SDXL_UNET], ids=["SD 1.x", "SDXL"])
def test_every_layer_of_the_public_denoisers_is_found_by_each_name(config):
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    names = lora.layers_of(unet)
    flat = {"unet": {name.replace(".", "_"): name for name in names}}
    pairs = sorted(ldm_files.unet_pairs(unet), key=lambda pair: -len(pair[0]))
    assert len(names) > 200
    for name in names:
        new, old = next(pair for pair in pairs if name == pair[0] or name.startswith(pair[0] + "."))
        for told in (name, old + name[len(new) :]):
            key = f"lora_unet_{told.replace('.', '_')}.lora_up.weight"
            assert lora._parse_key(key, [], flat, config["layers_per_block"]) == ("unet", name, "up")


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["lora_unet_conv_in.hada_w1_a"], "LoHa"),
        (["lora_unet_conv_in.lokr_w1"], "LoKr"),
        (["lora_unet_conv_in.dora_scale"], "DoRA"),
        (["lora_unet_nothing.lora_up.weight"], "does not have"),
        (["lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"], "does not have"),
        (["transformer.single_transformer_blocks.0.lora_A.weight"], "does not have"),
        (["lora_unet_conv_in.lora_up.weight"], "do not fit each other"),
    ],
)
def test_what_is_no_lora_of_this_base_is_refused(sd_base, tmp_path, names, told):
    save_file({name: torch.ones(2, 2) for name in names}, tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match=told):
        pipelines.load(str(sd_base), device="cpu", lora_files=str(tmp_path / "odd.safetensors"))


def test_another_base_and_bad_numbers_are_refused(layers, sd_base, tmp_path):
    base, names = layers
    path = tmp_path / "odd.safetensors"
    made = kohya(base, names[-1:])
    up = next(name for name in made if name.endswith("up.weight"))
    save_file(made | {up: torch.full_like(made[up], torch.nan)}, path)
    with pytest.raises(InputError, match="no usable numbers"):
        pipelines.load(str(sd_base), device="cpu", lora_files=str(path))
    save_file(made | {up: torch.ones(3, RANK)}, path)
    with pytest.raises(BaseError, match="numbers where this base has") as raised:
        pipelines.load(str(sd_base), device="cpu", lora_files=str(path))
    assert "base show" in raised.value.hint
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(InputError, match="cannot be read"):
        pipelines.load(str(sd_base), device="cpu", lora_files=str(path))


def test_what_is_asked_for(tmp_path):
    (tmp_path / "a:b.safetensors").write_bytes(b"")
    (tmp_path / "c.ckpt").write_bytes(b"")
    one = str(tmp_path / "a:b.safetensors")
    assert loras.parse(f"{one}, {one}:0.5 ,") == [(Path(one), 1.0), (Path(one), 0.5)]
    assert (loras.parse(""), loras.digest("")) == ([], "")
    with pytest.raises(NotFoundError, match="no LoRA"):
        loras.parse("none.safetensors:0.5")
    with pytest.raises(InputError, match=r"no \.safetensors file"):
        loras.parse(str(tmp_path / "c.ckpt"))
    with pytest.raises(SettingsError, match="no number"):
        loras.parse(f"{one}:nan")
