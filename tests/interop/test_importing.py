"""Imported concepts: what export writes comes back; other tools' files, made by hand after docs/differences.md 6."""

from __future__ import annotations

import json
import math
import pickle
from collections import OrderedDict
from pathlib import Path

import handmade
import pytest
import torch
from safetensors.torch import load_file, save_file

from cdtool.errors import BaseError, InputError, NotFoundError, TokenError
from cdtool.interop import exporting, importing
from cdtool.interop import files as foreign
from cdtool.store import registry
from cdtool.tokens import parse_specs

HALF = {"rtol": 1e-3, "atol": 4e-4}  # what fp16 leaves of changes of about 0.2


def bring(folder, paths, *specs):
    """Import files on a tiny base."""
    files = foreign.files([Path(path) for path in paths])
    return importing.bring(files, handmade.load(folder), parse_specs(specs or ("V* dog",)), "back")


def save(path, content):
    """Write a file as its ending wants it."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)
    else:
        torch.save(content, path)
    return path


def same_changes(brought, wanted, **near):
    """Whether a concept's changes are these, by parameter."""
    assert wanted
    for name, change in wanted.items():
        torch.testing.assert_close(handmade.dense(brought.tensors, name), change, **(near or HALF))


@pytest.fixture
def base(sd_base):
    return handmade.load(sd_base)


@pytest.fixture
def trained(base):
    """Whole K/V as a training left them, and their changes."""
    w = handmade.trained(base)
    return w, {name: w[name] - base.kv[name.removesuffix(".weight")] for name in w}


def row(seed=1, width=16):
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize(
    ("family", "form"),
    [("sd", {}), ("sd", {"rank": 3, "shared": True}), ("sdxl", {"rank": 3})],
    ids=["dense", "shared", "xl"],
)
@pytest.mark.parametrize(("to", "label"), [("diffusers", "diffusers LoRA, embedding"),
                                           ("kohya", "embedding, kohya LoRA"),
                                           ("custom-diffusion", "Custom Diffusion example, embedding")])  # fmt: skip
def test_what_export_writes_comes_back(sd_base, sdxl_base, tmp_path, family, to, label, form):
    folder = sdxl_base if family == "sdxl" else sd_base
    specs = ("V1 dog", "moongate", "V3 cat")
    entry = handmade.concept(folder, *specs, name="trio", **form)
    list(exporting.export(entry, to, tmp_path / "out", base=str(folder)))
    brought = bring(folder, [tmp_path / "out"], *specs)
    own = load_file(entry.path)
    kv = handmade.load(folder).kv
    same_changes(brought, {f"{module}.weight": handmade.dense(own, f"{module}.weight") for module in kv})
    rows = {name: tensor for name, tensor in own.items() if name.startswith("token.")}
    assert {name for name in brought.tensors if name.startswith("token.")} == set(rows)
    assert all(torch.equal(brought.tensors[name], tensor) for name, tensor in rows.items())
    assert brought.manifest.method == "kv"
    assert brought.manifest.tokens == entry.manifest.tokens
    assert brought.manifest.base.fingerprint == entry.manifest.base.fingerprint
    assert set(brought.label.split(", ")) == set(label.split(", "))


def test_low_rank_comes_back_without_the_padding_and_to_the_digit(sd_base, tmp_path):
    entry = handmade.concept(sd_base, rank=3)
    list(exporting.export(entry, "kohya", tmp_path / "out", base=str(sd_base)))
    brought, own = bring(sd_base, [tmp_path / "out"]), load_file(entry.path)
    factors = [name for name in own if name.endswith((".up", ".down"))]
    assert factors
    assert all(torch.equal(brought.tensors[name], own[name]) for name in factors)


def test_a_whole_matrix_comes_back_whole_not_as_larger_factors(sd_base, tmp_path):
    entry = handmade.concept(sd_base)
    list(exporting.export(entry, "diffusers", tmp_path / "out", base=str(sd_base)))
    brought = bring(sd_base, [tmp_path / "out"])
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in brought.tensors.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in load_file(entry.path).items()
    }


def test_the_bundle_alone_is_all_of_it(sd_base, tmp_path):
    entry = handmade.concept(sd_base, rank=2)
    list(exporting.export(entry, "kohya", tmp_path / "out", base=str(sd_base)))
    brought = bring(sd_base, [tmp_path / "out" / "dog-bundle.safetensors"])
    whole = bring(sd_base, [tmp_path / "out"])
    assert brought.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(tensor, whole.tensors[name]) for name, tensor in brought.tensors.items())


def test_all_of_the_cross_attention_comes_back(sd_base, tmp_path):
    entry = handmade.concept(sd_base, beyond=True)
    list(exporting.export(entry, "custom-diffusion", tmp_path / "out", base=str(sd_base)))
    brought, own = bring(sd_base, [tmp_path / "out"]), load_file(entry.path)
    assert brought.manifest.method == "crossattn"
    assert set(brought.tensors) == set(own)
    same_changes(brought, {name.removeprefix("unet."): own[name].float() for name in own if name.startswith("unet.")})


# ---------------------------------------------------------------- the public example's files


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_the_public_example(sd_base, tmp_path, trained, suffix):
    w, changes = trained
    weights = {handmade.example_name(name): tensor for name, tensor in w.items()}
    table = torch.stack([row(seed) for seed in range(20)])
    words = {"<new1>": table[7], "<new2>": table[9], "<new10>": table[11]}
    if suffix == "bin":  # an empty entry for every self-attention; the rows are views of a whole table
        weights |= {name.rpartition(".processor.")[0].replace("attn2", "attn1") + ".processor": {} for name in weights}
    save(tmp_path / f"pytorch_custom_diffusion_weights.{suffix}", weights)
    for word, tensor in words.items():
        save(tmp_path / f"{word}.{suffix}", {word: tensor})
    brought = bring(sd_base, [tmp_path], "V1 dog", "V2 cat", "V3 car")
    same_changes(brought, changes)
    for place, seed in enumerate((7, 9, 11), 1):
        tensor = brought.tensors[f"token.{place}.text_encoder"]
        assert torch.equal(tensor, table[seed])
        assert tensor.untyped_storage().nbytes() == 4 * 16
    (parent,) = brought.manifest.parents
    assert parent["by"] == "import"
    assert "Custom Diffusion example" in parent["format"]
    assert f"pytorch_custom_diffusion_weights.{suffix}" in parent["file"]
    assert str(tmp_path) not in json.dumps(parent)
    assert {token.initializer for token in brought.manifest.tokens} == {"ktn", "pll", "ucd"}


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_the_public_examples_whole_cross_attention(sd_base, base, tmp_path, suffix):
    w = handmade.trained(base, beyond=True)
    stored = handmade.attention(base)
    path = save(tmp_path / f"w.{suffix}", {handmade.example_name(name): tensor for name, tensor in w.items()})
    brought = bring(sd_base, [path], "dog")
    assert brought.manifest.method == "crossattn"
    same_changes(brought, {name: w[name] - stored[name] for name in w})
    assert f"unet.{base_owner(base)}.to_out.0.bias" in brought.tensors


def base_owner(base):
    return next(iter(base.kv)).rpartition(".")[0]


# ---------------------------------------------------------------- Adobe's files


@pytest.mark.parametrize("compressed", [False, True], ids=["dense", "compressed"])
def test_delta_bin(sd_base, base, tmp_path, trained, compressed):
    w, changes = trained
    if compressed:
        w = {name: handmade.thin(w[name], base.kv[name.removesuffix(".weight")]) for name in w}
        changes = {name: pair["u"] @ pair["v"] for name, pair in w.items()}
    content = {"unet": w, "modifier_token": OrderedDict({"<new2>": row(2), "<new1>": row(1)})}
    brought = bring(sd_base, [save(tmp_path / "delta.bin", content)], "V1 dog", "V2 cat")
    same_changes(brought, changes, **({"rtol": 1e-5, "atol": 1e-6} if compressed else HALF))
    assert torch.equal(brought.tensors["token.1.text_encoder"], row(1))
    assert torch.equal(brought.tensors["token.2.text_encoder"], row(2))
    assert brought.label == "Adobe delta.bin"
    assert any(name.endswith(".up") for name in brought.tensors) == compressed


def test_delta_bin_without_a_word(sd_base, tmp_path, trained):
    w, changes = trained
    brought = bring(sd_base, [save(tmp_path / "delta.bin", {"unet": w})], "moongate")
    same_changes(brought, changes)
    assert not [name for name in brought.tensors if name.startswith("token.")]


def test_delta_bin_of_sdxl_has_two_rows_a_word(sdxl_base, tmp_path):
    w = handmade.trained(handmade.load(sdxl_base))
    content = {"unet": w, "modifier_token": {"<new1>": [row(1, 16), row(2, 24)]}}
    brought = bring(sdxl_base, [save(tmp_path / "delta.bin", content)])
    assert torch.equal(brought.tensors["token.1.text_encoder"], row(1, 16))
    assert torch.equal(brought.tensors["token.1.text_encoder_2"], row(2, 24))
    assert len(brought.manifest.tokens[0].ids) == 2


@pytest.mark.parametrize("beyond", [False, True], ids=["kv", "crossattn"])
def test_delta_bin_with_more_than_kv(sd_base, base, tmp_path, beyond):
    w, stored = handmade.trained(base, beyond=beyond), handmade.attention(base)
    brought = bring(sd_base, [save(tmp_path / "delta.bin", {"unet": w, "modifier_token": {"<new1>": row()}})])
    assert brought.manifest.method == ("crossattn" if beyond else "kv")
    same_changes(brought, {name: w[name] - stored[name] for name in w})


@pytest.mark.parametrize("compressed", [False, True], ids=["dense", "compressed"])
@pytest.mark.parametrize("inside", [True, False], ids=["embed-inside", "embed-beside"])
def test_delta_ckpt(sd_base, base, tmp_path, trained, compressed, inside):
    w, changes = trained
    if compressed:
        w = {name: handmade.thin(w[name], base.kv[name.removesuffix(".weight")]) for name in w}
        changes = {name: pair["u"] @ pair["v"] for name, pair in w.items()}
    state, embed = {handmade.ldm(name): value for name, value in w.items()}, torch.stack([row(1), row(2)])
    content = {"state_dict": state | ({"embed": embed} if inside else {})} | ({} if inside else {"embed": embed})
    brought = bring(sd_base, [save(tmp_path / "delta_epoch=000004.ckpt", content)], "V1 dog", "V2 cat")
    same_changes(brought, changes)
    for place in (1, 2):
        assert torch.equal(brought.tensors[f"token.{place}.text_encoder"], row(place))
    assert brought.label == "Adobe delta.ckpt"


# ---------------------------------------------------------------- LoRAs and embeddings of others


def factors(base, rank=2):
    draw = torch.Generator().manual_seed(8)

    def some(*shape):
        return torch.randn(shape, generator=draw)

    return {module: (some(weight.shape[0], rank), some(rank, weight.shape[1])) for module, weight in base.kv.items()}


@pytest.mark.parametrize("compvis", [False, True], ids=["diffusers", "compvis"])
def test_kohyas_alpha_scales(sd_base, base, tmp_path, compvis):
    content = {}
    for module, (up, down) in factors(base).items():
        name = (
            handmade.ldm(f"{module}.weight").removeprefix("model.diffusion_model.") if compvis else f"{module}.weight"
        )
        flat = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
        content |= {f"{flat}.lora_up.weight": up, f"{flat}.lora_down.weight": down, f"{flat}.alpha": torch.tensor(0.5)}
    brought = bring(sd_base, [save(tmp_path / "theirs.safetensors", content)], "dog")
    same_changes(
        brought, {f"{m}.weight": 0.25 * up @ down for m, (up, down) in factors(base).items()}, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("style", "settings", "scale"),
    [
        ("unet.{m}.lora_{AB}.weight", None, 1.0),
        ("unet.{m}.lora_{AB}.weight", {"unet.r": 2, "unet.lora_alpha": 8}, 4.0),
        ("unet.{m}.lora_{AB}.weight", {"unet.r": 2, "unet.lora_alpha": 8, "unet.use_rslora": True}, 8 / math.sqrt(2)),
        ("unet.{m}.lora.{du}.weight", None, 1.0),
        ("{owner}.processor.{leaf}_lora.{du}.weight", None, 1.0),
    ],
)
def test_lora_spellings_of_diffusers(sd_base, base, tmp_path, style, settings, scale):
    content = {}
    for module, pair in factors(base).items():
        owner, _, leaf = module.rpartition(".")
        for tensor, letter, way in zip(pair, "BA", ("up", "down"), strict=True):
            content[style.format(m=module, AB=letter, du=way, owner=owner, leaf=leaf)] = tensor
    metadata = {"lora_adapter_metadata": json.dumps(settings)} if settings else None
    save_file(content, tmp_path / "theirs.safetensors", metadata=metadata)
    brought = bring(sd_base, [tmp_path / "theirs.safetensors"], "dog")
    same_changes(
        brought, {f"{m}.weight": scale * up @ down for m, (up, down) in factors(base).items()}, rtol=1e-4, atol=1e-4
    )


def test_peft_writes_what_is_read(sd_base, base, tmp_path):
    """A LoRA on K/V made and saved by PEFT and diffusers themselves, alpha twice the rank; one module left alone."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = handmade.load(sd_base, "unet").unet
    *chosen, left = base.kv
    unet.add_adapter(LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=chosen))
    state = get_peft_model_state_dict(unet)
    meta = {"r": 2, "lora_alpha": 4, "target_modules": chosen}
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=state, unet_lora_adapter_metadata=meta)
    brought = bring(sd_base, [tmp_path], "dog")
    with torch.no_grad():
        wanted = {f"{m}.weight": unet.get_submodule(m).get_delta_weight("default") for m in chosen}
    same_changes(brought, wanted, rtol=1e-4, atol=1e-5)
    assert not handmade.dense(brought.tensors, f"{left}.weight").any()


@pytest.mark.parametrize(
    "content",
    [
        {"emb_params": row()[None]},
        {"<thing>": row()},
        {"string_to_token": {"*": 265}, "string_to_param": {"*": row()[None]}, "name": "thing", "step": 3},
    ],
    ids=["kohya", "diffusers", "a1111"],
)
def test_an_embedding_alone_is_a_word_alone(sd_base, tmp_path, content):
    brought = bring(sd_base, [save(tmp_path / "thing.pt", content)])
    assert set(brought.tensors) == {"token.1.text_encoder"}
    assert torch.equal(brought.tensors["token.1.text_encoder"], row())
    assert brought.manifest.method == "textual-inversion"


def test_both_rows_of_sdxl_in_any_order(sdxl_base, tmp_path):
    pair = {"clip_g": row(2, 24)[None], "clip_l": row(1, 16)[None]}
    brought = bring(sdxl_base, [save(tmp_path / "thing.safetensors", pair)])
    assert torch.equal(brought.tensors["token.1.text_encoder"], row(1, 16))
    assert torch.equal(brought.tensors["token.1.text_encoder_2"], row(2, 24))


# ---------------------------------------------------------------- what is refused


def lora(*modules):
    return {f"unet.{m}.lora_{part}.weight": torch.ones(2, 2) for m in modules for part in "AB"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lora("mid_block.attentions.0.transformer_blocks.0.attn1.to_k"), r"changes mid_block\S+attn1\.to_k;"),
        (lora("mid_block.attentions.0.transformer_blocks.0.attn2.to_q"), r"attn2\.to_q; that is more than K/V"),
        (lora("down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k"), "belongs to another base"),
        (lora("conv_in", "conv_out"), "changes conv_in and 1 more"),
        ({"lora_unet_conv_in.lora_down.weight": torch.ones(2, 2)}, "changes lora_unet_conv_in;"),
        ({"lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": torch.ones(1)}, "changes lora_te_text_model"),
        ({"lora_unet_input_blocks_8_1_transformer_blocks_0_attn2_to_k.alpha": torch.ones(1)}, "another base"),
        ({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, "in no format cdtool reads"),
        ({"<new1>": torch.ones(3, 16)}, "3 rows for one word"),
        ({"<new1>": torch.full((16,), torch.nan)}, "not finite"),
        ({"<new1>": torch.ones(17)}, "has 17 numbers, a word of .* 16"),
    ],
)
def test_files_that_hold_no_concept_are_named_and_why(sd_base, tmp_path, content, told):
    with pytest.raises(InputError, match=told) as refused:
        bring(sd_base, [save(tmp_path / "theirs.safetensors", content)])
    assert refused.value.hint


def test_a_trained_text_encoder_is_refused(sd_base, tmp_path, trained):
    content = {"unet": trained[0], "text_encoder": {"final_layer_norm.weight": torch.ones(2)}}
    with pytest.raises(InputError, match="changes text_encoder; a concept leaves the text encoder as it is"):
        bring(sd_base, [save(tmp_path / "delta.bin", content)], "dog")


def test_weights_of_another_base_are_told_by_their_shapes(sd_base, tmp_path, trained):
    w = {name: torch.zeros(tensor.shape[0], 1024) for name, tensor in trained[0].items()}
    with pytest.raises(
        BaseError, match=r"belongs to another base: its .* is 16x1024, that of .*tiny-sd 16x16"
    ) as refused:
        bring(sd_base, [save(tmp_path / "delta.bin", {"unet": w})], "dog")
    assert "--base sd2" in refused.value.hint


def test_weights_that_lack_a_layer(sd_base, tmp_path, trained):
    w = dict(list(trained[0].items())[1:])
    with pytest.raises(InputError, match=r"delta\.bin holds no weights of"):
        bring(sd_base, [save(tmp_path / "delta.bin", {"unet": w})], "dog")


def test_weights_far_from_the_base_are_remarked_upon(sd_base, sd_v_base, tmp_path, trained):
    assert not bring(sd_base, [save(tmp_path / "delta.bin", {"unet": trained[0]})], "dog").remarks
    (remark,) = bring(sd_v_base, [tmp_path / "delta.bin"], "dog").remarks
    assert "were they trained on another base?" in remark


def test_two_sets_of_weights(sd_base, tmp_path, trained):
    for name in ("delta-100.bin", "delta-200.bin"):
        save(tmp_path / name, {"unet": trained[0]})
    with pytest.raises(InputError, match=r"delta-100\.bin and delta-200\.bin both hold weights"):
        bring(sd_base, [tmp_path], "dog")


@pytest.mark.parametrize(
    ("rows", "specs", "told", "hint"),
    [
        (1, ("dog",), "one learned word", 'Write --token "V* dog".'),
        (2, ("V* dog",), "2 learned words", 'Write --token "V1 dog" --token "V2 NOUN".'),
        (0, ("V* dog",), "no learned word", 'Write --token "dog".'),
        (1, ("V1 dog", "V2 cat"), "one learned word", 'Write --token "V* dog".'),
    ],
)
def test_tokens_must_be_as_many_as_the_words(sd_base, tmp_path, trained, rows, specs, told, hint):
    content = {"unet": trained[0], "modifier_token": {f"<new{n}>": row(n) for n in range(1, rows + 1)}}
    with pytest.raises(TokenError, match=told) as refused:
        bring(sd_base, [save(tmp_path / "delta.bin", content)], *specs)
    assert refused.value.hint == hint


class Bomb:
    def __reduce__(self):
        return (print, ("boom",))


def test_a_pickle_that_would_run_code_is_not_read(sd_base, tmp_path, capsys):
    (tmp_path / "a.bin").write_bytes(pickle.dumps({"unet": Bomb()}))
    torch.save({"unet": Bomb()}, tmp_path / "b.bin")
    for name in ("a.bin", "b.bin"):
        with pytest.raises(InputError, match="holds more than tensors"):
            bring(sd_base, [tmp_path / name], "dog")
    assert "boom" not in capsys.readouterr().out


@pytest.mark.parametrize("cut", [0, 5, 60, -9])
@pytest.mark.parametrize("suffix", ["bin", "safetensors", "ckpt"])
def test_damaged_files(sd_base, tmp_path, suffix, cut):
    whole = save(tmp_path / f"whole.{suffix}", {"<new1>": row()}).read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(whole[:cut])
    with pytest.raises(InputError, match=rf"^cut\.{suffix} is damaged"):
        bring(sd_base, [tmp_path / f"cut.{suffix}"])


@pytest.mark.parametrize("content", [[1, 2], {3: torch.ones(2)}, torch.ones(3)], ids=["list", "numbers", "tensor"])
def test_pickles_without_names(sd_base, tmp_path, content):
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(InputError, match="no named tensors"):
        bring(sd_base, [tmp_path / "x.bin"])


@pytest.mark.parametrize("broken", ["up", "down"])
def test_half_a_lora(sd_base, base, tmp_path, broken):
    content = lora(next(iter(base.kv)))
    content.pop(next(name for name in content if ("lora_A" in name) == (broken == "down")))
    with pytest.raises(InputError, match="two factors of"):
        bring(sd_base, [save(tmp_path / "x.safetensors", content)], "dog")


# ---------------------------------------------------------------- which files of a folder


def test_a_folder_gives_each_thing_once(tmp_path):
    tensors = ("w", "dog", "dog-bundle", "lone-bundle")
    for name in (*(f"{stem}.safetensors" for stem in tensors), "w.bin", "x.bin", "notes.txt", "image.png"):
        (tmp_path / name).touch()
    (tmp_path / "checkpoint-250").mkdir()
    found = [path.name for path in foreign.files([tmp_path, tmp_path / "x.bin"])]
    assert found == ["dog.safetensors", "lone-bundle.safetensors", "w.safetensors", "x.bin"]


def test_no_file_and_no_folder(tmp_path):
    with pytest.raises(NotFoundError, match="There is no"):
        foreign.files([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="holds no file that can be imported"):
        foreign.files([tmp_path])


def test_cdtools_own_files_are_told_from_others(sd_base, tmp_path):
    entry = handmade.concept(sd_base)
    assert foreign.is_concept(entry.path)
    (tmp_path / "cut.safetensors").write_bytes(entry.path.read_bytes()[:-100])
    assert foreign.is_concept(tmp_path / "cut.safetensors")
    assert not foreign.is_concept(save(tmp_path / "theirs.safetensors", {"cdtool": torch.ones(1)}))
    assert not foreign.is_concept(save(tmp_path / "theirs.bin", {"cdtool": torch.ones(1)}))


def test_an_imported_concept_draws_as_the_one_it_was(sd_base, tmp_path):
    """All the way: out as whole weights, in again, saved, and drawn with."""
    entry = handmade.concept(sd_base)
    list(exporting.export(entry, "custom-diffusion", tmp_path / "out", base=str(sd_base)))
    brought = bring(sd_base, [tmp_path / "out"])
    again = registry.save(brought.manifest, brought.tensors)
    first, plain = handmade.through_cdtool(sd_base, entry, "photo of a V* dog")
    second, _ = handmade.through_cdtool(sd_base, again, "photo of a V* dog")
    torch.testing.assert_close(first, second, atol=2e-3, rtol=2e-3)
    assert (first - plain).abs().max() > 0.02
