"""Exported concepts: drawn with by diffusers and PEFT, beside cdtool's own way of drawing; names and shapes."""

from __future__ import annotations

import re
from pathlib import Path

import handmade
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cdtool.errors import BaseError, InputError, NameTakenError, ResourceError, UsageError
from cdtool.interop import bundle, exporting
from cdtool.models import deltas
from cdtool.store import registry

DENSE, LOW, SHARED = {}, {"rank": 3}, {"rank": 3, "shared": True}


def write(entry, to, folder, **more):
    """Export and return the last step."""
    return list(exporting.export(entry, to, folder, base=registry.base_of(entry), **more))[-1]


def metadata(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


# ---------------------------------------------------------------- drawing with what was written


def pipeline(folder, load, sdxl):
    """A plain diffusers pipeline after running the exported lines of Python in it."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder)
    if sdxl:  # as the published SDXL is configured: its encoder takes the highest id for the end of the text
        pipe.text_encoder_2.text_model.eos_token_id = 2
    exec(load, {"pipe": pipe, "load_file": load_file})
    return pipe


@torch.no_grad()
def through_diffusers(pipe, prompt):
    z, t = handmade.latents()
    encoded = pipe.encode_prompt(prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    added = None
    if len(encoded) == 4:
        added = {"text_embeds": encoded[2], "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]])}
    return pipe.unet(z, t, encoder_hidden_states=encoded[0], added_cond_kwargs=added).sample


def loading(usage):
    """The lines of an export's Python between the pipeline and the picture."""
    lines = usage.splitlines()
    return "\n".join(lines[5 : next(n for n, line in enumerate(lines) if line.startswith("image = "))])


def kohya_loading(folder, sdxl):
    lines = [f"pipe.load_lora_weights({str(folder / 'dog.safetensors')!r})"]
    path = str(folder / "dog-v1.safetensors")
    if not sdxl:
        return "\n".join([*lines, f"pipe.load_textual_inversion({path!r}, token='<dog-v1>')"])
    lines.append("pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id")
    for key, number in (("clip_l", ""), ("clip_g", "_2")):
        place = f"text_encoder=pipe.text_encoder{number}, tokenizer=pipe.tokenizer{number}"
        lines.append(f"pipe.load_textual_inversion(load_file({path!r})[{key!r}], token='<dog-v1>', {place})")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("family", "form", "to", "near"),
    [
        ("sd", DENSE, "diffusers", 2e-3),
        ("sd", LOW, "diffusers", 2e-5),
        ("sd", SHARED, "kohya", 2e-5),
        ("sd", DENSE, "custom-diffusion", 2e-5),
        ("sdxl", DENSE, "kohya", 2e-3),
        ("sdxl", SHARED, "diffusers", 2e-5),
        ("sdxl", LOW, "custom-diffusion", 2e-5),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else None,
)
def test_diffusers_draws_with_an_export_as_cdtool_does(sd_base, sdxl_base, tmp_path, family, form, to, near):
    sdxl = family == "sdxl"
    folder = sdxl_base if sdxl else sd_base
    entry = handmade.concept(folder, **form)
    done = write(entry, to, tmp_path / "out")
    assert done.error < 1e-5
    load = kohya_loading(tmp_path / "out", sdxl) if to == "kohya" else loading(done.usage)
    word = "<new1>" if to == "custom-diffusion" else "<dog-v1>"
    found = through_diffusers(pipeline(folder, load, sdxl), f"photo of a {word} dog on the beach")
    wanted, plain = handmade.through_cdtool(folder, entry, "photo of a V* dog on the beach")
    assert (wanted - plain).abs().max() > 10 * near + 0.01  # the concept matters
    torch.testing.assert_close(found, wanted, atol=near, rtol=near)


def test_the_printed_lines_draw_cdtools_own_picture(cdtool, sd_base, tmp_path, monkeypatch):
    """The whole of the README but for its place of the base, against cdtool sample with the same seed."""
    from PIL import Image

    entry = handmade.concept(sd_base, **LOW)
    monkeypatch.chdir(tmp_path)
    write(entry, "diffusers", tmp_path / "dog-diffusers")
    code = Path("dog-diffusers/README.txt").read_text()
    assert str(sd_base.parent) not in code
    code = code.replace(f"the folder of {sd_base.name}", str(sd_base)).replace("steps=50", "steps=3")
    code = code.replace("eta=1.0", "eta=1.0, generator=__import__('torch').Generator().manual_seed(4)")
    exec(code, {})
    said = cdtool("sample", "dog", "photo of a V* dog", "-n", 1, "--seed", 4, "--steps", 3,
                  "--precision", "fp32", "--device", "cpu")  # fmt: skip
    assert said.code == 0, said.err
    ours, theirs = (np.asarray(Image.open(path).convert("RGB"), int) for path in (said.out.strip(), "dog.png"))
    assert np.abs(ours - theirs).max() <= 2
    assert ours.std() > 5


# ---------------------------------------------------------------- names, shapes, ranks


def test_peft_names_and_one_rank(sd_base, tmp_path):
    entry = handmade.concept(sd_base, **LOW)
    done = write(entry, "diffusers", tmp_path / "out")
    assert done.rank == 3
    tensors = load_file(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    base, own = handmade.load(sd_base), load_file(entry.path)
    assert set(tensors) == {f"unet.{module}.lora_{part}.weight" for module in base.kv for part in "AB"}
    for module, weight in base.kv.items():
        down, up = tensors[f"unet.{module}.lora_A.weight"], tensors[f"unet.{module}.lora_B.weight"]
        assert (down.shape, up.shape) == ((3, weight.shape[1]), (weight.shape[0], 3))
        assert torch.equal((up.float() @ down.float()), handmade.dense(own, f"{module}.weight"))
    (row,) = load_file(tmp_path / "out" / "dog-v1.safetensors").items()
    assert row[0] == "<dog-v1>"
    assert torch.equal(row[1], own["token.1.text_encoder"][None])
    assert {path.name for path in done.paths} == {
        "pytorch_lora_weights.safetensors",
        "dog-v1.safetensors",
        "README.txt",
    }


def test_kohya_files_are_as_their_readers_want_them(sd_base, tmp_path):
    """docs/differences.md 6.3 and 6.4: alpha = each rank, metadata, embedding beside it, and the bundle."""
    entry = handmade.concept(sd_base, "V1 dog", "moongate", "V3 cat", name="trio", **LOW)
    done = write(entry, "kohya", tmp_path / "out")
    out = {path.name: load_file(path) for path in done.paths}
    assert set(out) == {"trio.safetensors", "trio-v1.safetensors", "trio-v3.safetensors", "trio-bundle.safetensors"}
    lora, own = out["trio.safetensors"], load_file(entry.path)
    flat = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    assert (lora[f"{flat}.lora_down.weight"].shape, lora[f"{flat}.lora_up.weight"].shape) == ((1, 16), (16, 1))
    alphas = {name.removesuffix(".alpha"): tensor for name, tensor in lora.items() if name.endswith(".alpha")}
    assert len(alphas) == len(lora) // 3 == len(handmade.load(sd_base).kv)
    assert {float(alpha) for alpha in alphas.values()} == {1, 2, 3}
    assert all(float(alpha) == len(lora[f"{name}.lora_down.weight"]) for name, alpha in alphas.items())
    assert all(alpha.shape == () for alpha in alphas.values())
    for place in (1, 3):
        row = own[f"token.{place}.text_encoder"][None]
        assert torch.equal(out[f"trio-v{place}.safetensors"]["emb_params"], row)
        assert torch.equal(out["trio-bundle.safetensors"].pop(f"bundle_emb.trio-v{place}.string_to_param.*"), row)
    assert set(out["trio-bundle.safetensors"]) == set(lora)
    known = metadata(tmp_path / "out" / "trio.safetensors")
    assert known["ss_network_module"] == "networks.lora"
    assert known["ss_network_dim"] == "3"
    assert float(known["ss_network_alpha"]) == 3
    assert known["modelspec.title"] == "trio"
    assert known["modelspec.trigger_phrase"] == "photo of a trio-v1 dog and a moongate and a trio-v3 cat"
    assert known["modelspec.prediction_type"] == "epsilon"


def test_sdxl_for_kohya_is_spelled_as_compvis_does_with_both_rows_in_a_file(sdxl_base, tmp_path):
    entry = handmade.concept(sdxl_base, **LOW)
    write(entry, "kohya", tmp_path / "out")
    lora = load_file(tmp_path / "out" / "dog.safetensors")
    wanted = {f"lora_unet_{handmade.ldm(f'{module}.').removeprefix('model.diffusion_model.')[:-1].replace('.', '_')}"
              for module in handmade.load(sdxl_base).kv}  # fmt: skip
    assert {name.partition(".")[0] for name in lora} == wanted
    rows = load_file(tmp_path / "out" / "dog-v1.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in rows.items()} == {"clip_l": (1, 16), "clip_g": (1, 24)}
    known = metadata(tmp_path / "out" / "dog.safetensors")
    assert known["ss_base_model_version"] == "sdxl_base_v1-0"
    assert known["ss_v2"] == "False"


@pytest.mark.parametrize(
    ("family", "prediction", "version", "v2"),
    [("sd1", "epsilon", "sd_v1", "False"), ("sd2", "epsilon", "sd_v2", "True"),
     ("sd2", "v_prediction", "sd_v2_v", "True"), ("sd", "epsilon", None, "False")],
)  # fmt: skip
def test_the_metadata_tells_the_base(sd_base, monkeypatch, tmp_path, family, prediction, version, v2):
    from dataclasses import replace

    entry = handmade.concept(sd_base, **LOW)
    where = replace(entry.manifest.base, family=family)
    entry = replace(entry, manifest=replace(entry.manifest, base=where))
    monkeypatch.setattr(bundle, "base_info", lambda *_: bundle.BaseInfo("x", True, family, prediction))
    write(entry, "kohya", tmp_path / "out")
    known = metadata(tmp_path / "out" / "dog.safetensors")
    assert (known.get("ss_base_model_version"), known["ss_v2"]) == (version, v2)
    assert ("modelspec.architecture" in known) == (version is not None)


def test_the_examples_files_hold_whole_weights(sd_base, tmp_path):
    entry = handmade.concept(sd_base, **SHARED)
    write(entry, "custom-diffusion", tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "pytorch_custom_diffusion_weights.safetensors")
    base, own = handmade.load(sd_base), load_file(entry.path)
    assert set(tensors) == {handmade.example_name(f"{module}.weight") for module in base.kv}
    for module, weight in base.kv.items():
        found = tensors[handmade.example_name(f"{module}.weight")]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, weight.float() + handmade.dense(own, f"{module}.weight"))
    assert set(load_file(tmp_path / "out" / "<new1>.safetensors")) == {"<new1>"}


@pytest.mark.parametrize(("limit", "wanted"), [({"rank": 2}, 2), ({"energy": 0.5}, None)], ids=["rank", "energy"])
def test_truncation_is_numpys_and_its_error_is_told(sd_base, tmp_path, limit, wanted):
    entry = handmade.concept(sd_base)
    own = load_file(entry.path)
    done = write(entry, "diffusers", tmp_path / "out", **limit)
    tensors = load_file(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    lost = whole = 0.0
    for module in handmade.load(sd_base).kv:
        change = handmade.dense(own, f"{module}.weight")
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        rank = wanted or next(r for r in range(1, 99) if s[:r].sum() >= 0.5 * s.sum())
        best = u[:, :rank] * s[:rank] @ v[:rank]
        found = tensors[f"unet.{module}.lora_B.weight"].float() @ tensors[f"unet.{module}.lora_A.weight"].float()
        torch.testing.assert_close(found, best, atol=3e-3, rtol=0)
        lost, whole = lost + (change - best).square().sum(), whole + change.square().sum()
    assert done.error == pytest.approx(float((lost / whole).sqrt()), rel=1e-4)
    assert 0.1 < done.error < 1


def test_low_rank_changes_can_be_cut_too(sd_base, tmp_path):
    entry = handmade.concept(sd_base, **SHARED)
    done = write(entry, "kohya", tmp_path / "out", rank=1)
    assert done.rank == 1
    assert 0.1 < done.error < 1
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v.lora_up.weight"
    assert load_file(tmp_path / "out" / "dog.safetensors")[name].shape == (16, 1)


def test_a_word_alone_is_a_word_alone(sd_base, tmp_path):
    entry = handmade.concept(sd_base)
    rows = {"token.1.text_encoder": load_file(entry.path)["token.1.text_encoder"]}
    entry = registry.save(entry.manifest, rows, force=True)
    assert [path.name for path in write(entry, "kohya", tmp_path / "a").paths] == ["dog-v1.safetensors"]
    done = write(entry, "diffusers", tmp_path / "b")
    assert [path.name for path in done.paths] == ["README.txt", "dog-v1.safetensors"]
    assert "load_lora_weights" not in done.usage


# ---------------------------------------------------------------- what is refused, and what is left behind


def test_a_lora_holds_no_bias_but_the_examples_files_do(sd_base, tmp_path):
    entry = handmade.concept(sd_base, beyond=True)
    with pytest.raises(InputError, match=r"to_out\.0\.bias, which a LoRA cannot hold"):
        write(entry, "diffusers", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write(entry, "custom-diffusion", tmp_path / "out")
    found = load_file(tmp_path / "out" / "pytorch_custom_diffusion_weights.safetensors")
    stored, own = handmade.attention(handmade.load(sd_base)), load_file(entry.path)
    assert set(found) == {handmade.example_name(name) for name in stored}
    for name, weight in stored.items():
        torch.testing.assert_close(found[handmade.example_name(name)], weight + own[f"unet.{name}"].float())


def test_what_is_beyond_the_cross_attention_goes_nowhere(sd_base, tmp_path):
    entry = handmade.concept(sd_base, **LOW)
    tensors = load_file(entry.path) | {"unet.conv_in.weight": torch.zeros(8, 4, 3, 3)}
    entry = registry.save(entry.manifest, tensors, force=True)
    with pytest.raises(InputError, match=r"conv_in\.weight, which the files of the public example cannot hold"):
        write(entry, "custom-diffusion", tmp_path / "out")
    with pytest.raises(InputError, match="conv_in, which is no matrix"):
        write(entry, "kohya", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_whole_weights_have_no_rank_and_need_their_own_base(sd_base, sd_v_base, tmp_path):
    entry = handmade.concept(sd_base)
    with pytest.raises(UsageError, match="no rank"):
        write(entry, "custom-diffusion", tmp_path / "out", rank=3)
    with pytest.raises(BaseError, match="trained on"):
        list(exporting.export(entry, "custom-diffusion", tmp_path / "out", base=str(sd_v_base)))


def test_nothing_is_overwritten_without_force(sd_base, tmp_path):
    entry = handmade.concept(sd_base, **LOW)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "dog-v1.safetensors").write_text("mine")
    (folder / "other").write_text("kept")
    steps = exporting.export(entry, "diffusers", folder, base=str(sd_base))
    with pytest.raises(NameTakenError, match=r"dog-v1\.safetensors is there already"):
        next(steps)  # before any matrix is taken apart
    assert sorted(path.name for path in folder.iterdir()) == ["dog-v1.safetensors", "other"]
    write(entry, "diffusers", folder, force=True)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.txt", "dog-v1.safetensors", "other", "pytorch_lora_weights.safetensors",
    ]  # fmt: skip
    assert load_file(folder / "dog-v1.safetensors")


def test_a_disk_that_fills_up_leaves_no_half_export(sd_base, tmp_path, monkeypatch):
    import safetensors.torch

    entry = handmade.concept(sd_base, **LOW)
    real, count = safetensors.torch.save_file, []

    def fails_later(*arguments, **more):
        count.append(1)
        if len(count) > 1:
            raise OSError(28, "No space left on device")
        real(*arguments, **more)

    monkeypatch.setattr(safetensors.torch, "save_file", fails_later)
    with pytest.raises(ResourceError, match="No space left"):
        write(entry, "kohya", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_every_matrix_is_a_step(sd_base, tmp_path):
    entry = handmade.concept(sd_base)
    events = list(exporting.export(entry, "kohya", tmp_path / "out", base=str(sd_base)))
    assert len(events) == exporting.steps(entry, "kohya") == len(handmade.load(sd_base).kv) + 1
    whole = list(exporting.export(entry, "custom-diffusion", tmp_path / "whole", base=str(sd_base)))
    assert len(whole) == exporting.steps(entry, "custom-diffusion")


def test_a_base_that_is_not_here_is_named_as_the_public_one(tmp_path, sd_base):
    from dataclasses import replace

    entry = handmade.concept(sd_base, **LOW)
    where = replace(entry.manifest.base, name="sd15", family="sd1")
    entry = replace(entry, manifest=replace(entry.manifest, base=where))
    done = list(exporting.export(entry, "diffusers", tmp_path / "out", base="sd15"))[-1]
    assert 'from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5")' in done.usage
    assert re.search(r"stable-diffusion-v1-5", (tmp_path / "out" / "README.txt").read_text())


def test_the_rank_needed_is_no_more_than_that(sd_base, tmp_path):
    """A dense concept of rank 2 is a LoRA of rank 2."""
    entry = handmade.concept(sd_base, rank=2, shared=True)
    own = load_file(entry.path)
    tensors = {f"unet.{m}.weight": handmade.dense(own, f"{m}.weight") for m in handmade.load(sd_base).kv}
    entry = registry.save(entry.manifest, tensors | {"token.1.text_encoder": own["token.1.text_encoder"]}, force=True)
    done = write(entry, "kohya", tmp_path / "out")
    assert done.rank == 2
    found = load_file(tmp_path / "out" / "dog.safetensors")
    for module in handmade.load(sd_base).kv:
        flat = f"lora_unet_{module.replace('.', '_')}"
        product = deltas.dense(deltas.Factors(found[f"{flat}.lora_up.weight"], found[f"{flat}.lora_down.weight"]))
        torch.testing.assert_close(product, tensors[f"unet.{module}.weight"], atol=3e-3, rtol=0)


def test_kohya_keeps_each_rank_and_diffusers_is_padded_and_says_so(sd_base, tmp_path):
    entry = handmade.concept(sd_base, name="dog", **LOW)
    own = load_file(entry.path)
    kohya, peft = (write(entry, to, tmp_path / to) for to in ("kohya", "diffusers"))
    lora = load_file(tmp_path / "kohya" / "dog.safetensors")
    ranks = {name: len(tensor) for name, tensor in lora.items() if name.endswith(".lora_down.weight")}
    assert len(set(ranks.values())) > 1
    for name, rank in ranks.items():
        module = name.removesuffix(".lora_down.weight")
        assert float(lora[f"{module}.alpha"]) == rank == lora[f"{module}.lora_up.weight"].shape[1]
    assert (kohya.rank, kohya.padding) == (max(ranks.values()), 0)
    padded = load_file(tmp_path / "diffusers" / "pytorch_lora_weights.safetensors")
    assert {len(tensor) for name, tensor in padded.items() if "lora_A" in name} == {kohya.rank}
    assert peft.padding == sum(kohya.rank - rank for rank in ranks.values())
    name = next(
        name for name in own if name.endswith("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight.up")
    )
    module = name.removeprefix("unet.").removesuffix(".weight.up")
    flat = "lora_unet_" + module.replace(".", "_")
    low = lora[f"{flat}.lora_up.weight"].float() @ lora[f"{flat}.lora_down.weight"].float()
    other = padded[f"unet.{module}.lora_B.weight"].float() @ padded[f"unet.{module}.lora_A.weight"].float()
    assert torch.allclose(low, other, atol=1e-6)
