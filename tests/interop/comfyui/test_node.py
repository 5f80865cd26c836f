"""The nodes for ComfyUI beside cdtool's own denoiser, on a stand-in of ComfyUI's interface (tests/comfy_standin.py)."""

from __future__ import annotations

import ast
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import comfy_standin
import handmade
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from cdtool.models import adapter, diffusion
from cdtool.sampling import sample
from cdtool.store import registry
from cdtool.tokens import bind, bind_weighted

NEAR = {"atol": 2e-5, "rtol": 0}


@pytest.fixture
def comfyui(tmp_path, monkeypatch):
    """Where ComfyUI is installed, and the node module after an export into it: `comfyui(entry, ...)`."""
    (tmp_path / "custom_nodes").mkdir()
    comfy_standin.install(monkeypatch, tmp_path)

    def install(cdtool, *entries):
        for entry in entries:
            assert cdtool("export", entry.name, "--to", "comfyui-node", "--into", tmp_path).code == 0
        path = tmp_path / "custom_nodes" / "cdtool_concepts.py"
        spec = importlib.util.spec_from_file_location("cdtool_concepts", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "cdtool_concepts", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return install


def graph(nodes, folder, *names, strength=1.0):
    """The model and CLIP behind the nodes, and the plain ones."""
    base = handmade.load(folder, "unet", "text")
    sdxl = base.family.name == "sdxl"
    keys = ("g", "l") if sdxl else ("l",)  # ComfyUI lists SDXL's second encoder first
    order = (1, 0) if sdxl else (0,)
    kinds = (CLIPTextModel, CLIPTextModelWithProjection)  # transformers', not cdtool's own
    encoders = [kind.from_pretrained(Path(folder) / name)
                for kind, name in zip(kinds, base.family.encoders, strict=False)]  # fmt: skip
    clip = comfy_standin.CLIP({key: base.tokenizers[at] for key, at in zip(keys, order, strict=True)},
                              {key: encoders[at] for key, at in zip(keys, order, strict=True)},
                              base.family.penultimate)  # fmt: skip
    sizes = diffusion.size_condition(base, 16, 16, 1)
    added = None if sizes is None else {"time_ids": sizes, "text_embeds": torch.zeros(1, 16)}
    model = comfy_standin.ModelPatcher(comfy_standin.BaseModel(base.unet, added))
    concepts = ()
    for name in names:
        (concepts,) = nodes.LoadConcept().load(f"{name}.safetensors", strength, concepts)
    return base, *nodes.ApplyConcepts().apply(model, clip, concepts), model, clip


@torch.no_grad()
def through_cdtool(base, entries, prompt, weights=()):
    """The denoiser's output for a prompt with concepts, as `cdtool sample` runs it."""
    loaded = sample.sampler(base, entries, weights)
    encoded = loaded.encode(bind_weighted(prompt, loaded.tokens))
    condition = encoded.condition
    if condition.pooled is not None:  # the stand-in does not carry it
        condition = type(condition)(condition.features, torch.zeros_like(condition.pooled))
    with adapter.precomputed_kv(base) as give:
        give(loaded.keys_and_values(condition.features, encoded.share))
        return diffusion.predict(base, *handmade.latents(), condition, diffusion.size_condition(base, 16, 16, 1))


FORMS = {"dense": {}, "low-rank": {"rank": 3}, "merged": {"rank": 3, "shared": True}}


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("form", FORMS)
def test_one_concept_draws_as_in_cdtool(cdtool, comfyui, sd_base, sdxl_base, family, form):
    folder = {"sd": sd_base, "sdxl": sdxl_base}[family]
    specs = ("V1 dog", "V2 cat") if form == "merged" else ("V* dog",)
    entry = handmade.concept(folder, *specs, **FORMS[form])
    base, model, clip, plain, _ = graph(comfyui(cdtool, entry), folder, "dog", strength=0.8)
    prompt = "photo of a V1 dog and a V2 cat" if form == "merged" else "photo of a V* dog on the beach"
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))  # as ComfyUI's own text node does
    (made,) = model.run(*handmade.latents(), [conditioning])
    expected = through_cdtool(base, [entry], prompt, [0.8])
    torch.testing.assert_close(made, expected, **NEAR)
    (untouched,) = plain.run(*handmade.latents(), [conditioning])
    assert (untouched - expected).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_several_concepts_change_their_own_words(cdtool, comfyui, sd_base, sdxl_base, family):
    folder = {"sd": sd_base, "sdxl": sdxl_base}[family]
    dog = handmade.concept(folder, "V* dog")
    gate = handmade.concept(folder, "moongate", name="gate", rank=3)
    nodes = comfyui(cdtool, dog, gate)
    base, model, clip, plain, bare = graph(nodes, folder, "dog", "gate")
    prompt = "a V1 dog in front of a moongate on the beach"
    (told,) = nodes.Prompt().encode(clip, prompt)
    nothing = bare.encode_from_tokens_scheduled(bare.tokenize(""))
    made, unasked = model.run(*handmade.latents(), [told, nothing], batch=2)
    expected = through_cdtool(base, [dog, gate], prompt)
    torch.testing.assert_close(made, expected.repeat(2, 1, 1, 1), **NEAR)
    (before,) = plain.run(*handmade.latents(), [nothing], batch=2)
    torch.testing.assert_close(unasked, before)  # a prompt without a share meets the base
    assert (expected - through_cdtool(base, [dog], "a V* dog in front of a moongate on the beach")).abs().max() > 1e-3


def test_a_concept_that_keeps_to_its_words_does_so_alone(cdtool, comfyui, sd_base):
    entry = handmade.concept(sd_base, "V* dog", settings={"focus": True})
    nodes = comfyui(cdtool, entry)
    base, model, clip, plain, bare = graph(nodes, sd_base, "dog")
    prompt = "photo of a V* dog on the beach"
    (told,) = nodes.Prompt().encode(clip, prompt)
    nothing = bare.encode_from_tokens_scheduled(bare.tokenize(""))
    made, unasked = model.run(*handmade.latents(), [told, nothing])
    torch.testing.assert_close(made, through_cdtool(base, [entry], prompt), **NEAR)
    (before,) = plain.run(*handmade.latents(), [nothing])
    torch.testing.assert_close(unasked, before)


def test_what_is_forgotten_is_forgotten_everywhere(cdtool, comfyui, sd_base):
    manifest, tensors = handmade.concept(sd_base, "cat", name="no-cat", rank=2, save=False)
    gone = registry.save(replace(manifest, tokens=(replace(manifest.tokens[0], erased=True),)), tensors)
    dog = handmade.concept(sd_base, "V* dog")
    nodes = comfyui(cdtool, dog, gone)
    base, model, clip, _, bare = graph(nodes, sd_base, "dog", "no-cat")
    prompt = "photo of a V1 dog and a cat"
    (told,) = nodes.Prompt().encode(clip, prompt)
    nothing = bare.encode_from_tokens_scheduled(bare.tokenize(""))
    made, unasked = model.run(*handmade.latents(), [told, nothing])
    torch.testing.assert_close(made, through_cdtool(base, [dog, gone], prompt), **NEAR)
    torch.testing.assert_close(unasked, through_cdtool(base, [gone], ""), **NEAR)


def test_a_long_prompt_is_bound_in_every_chunk(cdtool, comfyui, sd_base):
    dog, cat = handmade.concept(sd_base, "V* dog"), handmade.concept(sd_base, "V* cat", name="cat", rank=2)
    nodes = comfyui(cdtool, dog, cat)
    _, _, clip, _, _ = graph(nodes, sd_base, "dog", "cat")
    tokens, share = clip.tokenizer.bind("a V1 dog " + "on the beach " * 26 + "(a V2 cat:1.3)")
    assert [len(chunk) for chunk in tokens["l"]] == [77, 77]
    assert share.shape == (1, 154, 2)
    stop = tokens["l"][0][76][0]
    ends = [[None if torch.is_tensor(token) else token for token, _ in chunk].index(stop) for chunk in tokens["l"]]
    assert share[0, :77, 0].nonzero().flatten().tolist() == [2, 3, *range(ends[0], 77)]
    assert not share[0, :77, 1].any()
    own = [at for at, (_, weight) in enumerate(tokens["l"][1]) if weight == 1.3][1:]
    assert share[0, 77:, 1].nonzero().flatten().tolist() == [*own, *range(ends[1], 77)]
    embedding = load_file(dog.path)["token.1.text_encoder"]
    assert torch.equal(tokens["l"][0][2][0], embedding)


def test_clips_own_vocabulary_binds_words_of_several_entries(cdtool, comfyui, sd_base, clip_tokenizer):
    entry = handmade.concept(sd_base, "V* dog")
    nodes = comfyui(cdtool, entry)
    gate = nodes.Concept("gate", {"tokens": [{"noun": "moongate", "modifier": False}], "format": 1}, {})
    bound = nodes.Tokenizer(comfy_standin.SDTokenizer({"l": clip_tokenizer}), [gate])
    tokens, share = bound.bind("a Moongate's ktn, two moongates")
    ids = [token for token, _ in tokens["l"][0]]
    expected = clip_tokenizer("a Moongate's ktn, two moongates")["input_ids"]
    assert ids[: len(expected)] == expected
    gate_ids = clip_tokenizer("moongate", add_special_tokens=False)["input_ids"]
    assert len(gate_ids) > 1
    assert share[0, : len(expected) - 1, 0].nonzero().flatten().tolist() == list(range(2, 2 + len(gate_ids)))


@pytest.mark.parametrize("prompt", ["photo of a V* dog", "V1 dog, the V* DOG", "a dog", r"\V8 V1  dog", "V1 cat"])
def test_words_are_parted_as_in_cdtool(cdtool, comfyui, sd_base, prompt):
    from cdtool.tokens import own_words

    entry = handmade.concept(sd_base, "V* dog")
    nodes = comfyui(cdtool, entry)
    pieces = nodes.pieces(prompt, [vars(token) for token in entry.manifest.tokens])
    ours = own_words(bind(prompt, entry.manifest.tokens), entry.manifest.tokens)
    written = [("V" if isinstance(piece, int) else piece, owner) for piece, owner in ours]
    assert [
        ("V" if piece in ("V*", "V1") and owner is not None else piece, owner) for piece, owner in pieces
    ] == written


def test_what_cannot_be_is_said(cdtool, comfyui, sd_base, sdxl_base, tmp_path):
    entry = handmade.concept(sd_base, "V* dog")
    nodes = comfyui(cdtool, entry)
    _, _, clip, _, bare = graph(nodes, sd_base, "dog")
    with pytest.raises(ValueError, match=r"names V2, but the concepts here are: V1 dog\."):
        clip.tokenize("a V2 dog")
    with pytest.raises(ValueError, match='Connect the CLIP of "Apply cdtool concepts"'):
        nodes.Prompt().encode(bare, "a dog")
    file = tmp_path / "models" / "cdtool" / "dog.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="dog is no concept of cdtool in format 1"):
        nodes.read_concept(str(file))
    handmade.concept(sd_base, "V* cat", name="cat", beyond=True)
    assert cdtool("export", "cat", "--to", "comfyui-node", "--into", tmp_path).code == 0
    assert cdtool("export", "dog", "--to", "comfyui-node", "--into", tmp_path, "--force").code == 0
    with pytest.raises(ValueError, match="for the whole picture: it cannot be joined"):
        graph(nodes, sd_base, "dog", "cat")


def test_more_than_keys_and_values_is_patched_too(cdtool, comfyui, sd_base):
    entry = handmade.concept(sd_base, "V* dog", beyond=True)
    base, model, clip, _, _ = graph(comfyui(cdtool, entry), sd_base, "dog")
    (made,) = model.run(*handmade.latents(), [clip.encode_from_tokens_scheduled(clip.tokenize("a V* dog"))])
    loaded = sample.sampler(base, [entry])
    with adapter.override_parameters(base.unet, loaded.parameters):
        torch.testing.assert_close(made, through_cdtool(base, [entry], "a V* dog"), **NEAR)


def test_the_nodes_need_nothing_of_cdtool(root):
    tree = ast.parse((root / "cdtool" / "interop" / "comfyui" / "node.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= {
        *sys.stdlib_module_names,
        "comfy",
        "folder_paths",
        "safetensors",
        "torch",
    }


def test_files_go_where_the_program_looks(cdtool, sd_base, tmp_path):
    handmade.concept(sd_base, "V* dog", rank=2)
    (tmp_path / "ui" / "custom_nodes").mkdir(parents=True)
    done = cdtool("export", "dog", "--to", "kohya", "--into", tmp_path / "ui")
    assert done.code == 0
    models = tmp_path / "ui" / "models"
    assert sorted(path.relative_to(models).as_posix() for path in models.rglob("*.safetensors")) == [
        "embeddings/dog-v1.safetensors", "loras/dog.safetensors",
    ]  # fmt: skip
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "webui.py").touch()
    assert cdtool("export", "dog", "--to", "kohya", "--into", tmp_path / "web").code == 0
    assert (tmp_path / "web" / "models" / "Lora" / "dog.safetensors").is_file()
    assert (tmp_path / "web" / "embeddings" / "dog-v1.safetensors").is_file()
    again = cdtool("export", "dog", "--to", "kohya", "--into", tmp_path / "web")
    assert (again.code, again.err.count("is there already")) == (4, 1)
    wrong = cdtool("export", "dog", "--to", "comfyui-node", "--into", tmp_path / "web")
    assert "A1111 or Forge does not read comfyui-node" in wrong.err
    nowhere = cdtool("export", "dog", "--to", "kohya", "--into", tmp_path)
    assert (nowhere.code, "is not the folder of ComfyUI" in nowhere.err) == (3, True)


def test_the_export_is_the_concept(cdtool, sd_base):
    entry = handmade.concept(sd_base, "V* dog", rank=2)
    done = cdtool("export", "dog", "--to", "comfyui-node", "-o", "out")
    assert "Prompt: photo of a V* dog" in done.err
    assert sorted(path.name for path in Path("out").iterdir()) == ["cdtool_concepts.py", "dog.safetensors"]
    assert cdtool("import", "out/dog.safetensors", "--name", "twin").code == 0
    ours, theirs = load_file(entry.path), load_file("out/dog.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
