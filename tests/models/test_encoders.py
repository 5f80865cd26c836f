"""Encoders: which one a base gets, and features against transformers' own path on a small random CLIP."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cdtool.errors import BaseError, NotFoundError
from cdtool.models import encoders

B32 = {
    "size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 20}, "resample": 3,
    "image_mean": [0.48, 0.45, 0.4], "image_std": [0.26, 0.26, 0.27],
}  # fmt: skip


def pictures(count=3, size=(50, 37)):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random CLIP of transformers with a tokenizer of letters, on disk."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    path = tmp_path_factory.mktemp("base") / "eval"
    path.mkdir()
    letters = [chr(code) for code in range(97, 123)]
    ids = {
        word: at
        for at, word in enumerate([*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"])
    }
    (path / "vocab.json").write_text(json.dumps(ids))
    (path / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt")).save_pretrained(path)
    ends = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    text = {"vocab_size": 54, "max_position_embeddings": 12, **sizes, **ends}
    vision = {"image_size": 20, "patch_size": 5, **sizes}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(B32))
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    """Without a fingerprint, so that nothing comes from the cache."""
    return replace(encoders.load(encoders.EncoderSpec("small", str(folder), 0.8)), fingerprint="")


def test_pictures_are_prepared_as_transformers_prepares_them(folder):
    pil = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    theirs = pil.CLIPImageProcessorPil.from_pretrained(folder)
    how = encoders.read_preprocessing(folder / "preprocessor_config.json")
    for size in ((50, 37), (31, 90), (24, 24), (10, 11)):
        image = pictures(1, size)[0]
        expected = np.asarray(theirs(image, return_tensors="np")["pixel_values"][0])
        assert np.abs(encoders.preprocess(image, how) - expected).max() < 1e-5


def test_features_have_unit_length_and_equal_the_model_one_by_one(folder, encoder, monkeypatch):
    import torch
    from transformers import CLIPModel, CLIPTokenizer

    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    monkeypatch.setattr(encoders, "BATCH", 2)
    texts = ["dog", "a cat", "far away"]
    made = encoders.text_features(encoder, texts)
    assert made.dtype == np.float32
    assert made.shape == (3, 8)
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-6)
    for text, row in zip(texts, made, strict=True):
        with torch.no_grad():
            state = model.text_model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1]
            plain = model.text_projection(state).numpy()
        assert np.allclose(row, plain / np.linalg.norm(plain), atol=1e-5)


def test_image_features_do_not_depend_on_the_batch(encoder, monkeypatch):
    images = pictures(5)
    together = encoders.image_features(encoder, images)
    monkeypatch.setattr(encoders, "BATCH", 2)
    assert np.allclose(together, encoders.image_features(encoder, images), atol=1e-5)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    assert not np.allclose(together[0], together[1], atol=1e-3)


def test_a_long_text_is_cut_and_nothing_is_no_rows(encoder):
    assert encoders.text_features(encoder, ["dog " * 200]).shape == (1, 8)
    assert len(encoders.text_features(encoder, [])) == 0


def test_unit_leaves_zero_rows_alone():
    rows = encoders.unit(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32))
    assert np.allclose(rows, [[0.6, 0.8], [0, 0]])


def test_a_base_with_an_encoder_of_its_own_gets_it(folder):
    base = folder.parent
    prior = '[prior]\ncorpus = "corpus.tar"\nfloor = 0.7\nasked = ["{} here"]\n'
    (base / "cdtool.toml").write_text(f'[eval]\nencoder = "eval"\n{prior}')
    spec = encoders.encoder_for(base)
    assert spec.where == str(folder)
    assert (spec.floor, spec.asked) == (0.7, ("{} here",))
    (base / "cdtool.toml").write_text('[eval]\nencoder = "lost"\n')
    with pytest.raises(BaseError, match="lost"):
        encoders.encoder_for(base)


def test_other_bases_get_clip_and_a_missing_one_names_its_command(tmp_path, monkeypatch):
    spec = encoders.encoder_for(tmp_path)
    assert spec == encoders.ENCODERS["clip-vit-b32"]
    assert spec.floor == 0.85
    assert encoders.encoder_for(None) == spec
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    lost = encoders.EncoderSpec("lost", "nobody/never-made-this", 0.5)
    with pytest.raises(NotFoundError) as raised:
        encoders.load(lost)
    assert raised.value.hint == "hf download nobody/never-made-this"


def test_a_damaged_encoder_is_a_base_error(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BaseError, match="cannot be loaded"):
        encoders.load(encoders.EncoderSpec("broken", str(tmp_path), 0.5))


def test_an_encoder_is_loaded_only_for_what_is_not_in_the_cache(folder, monkeypatch):
    spec = encoders.EncoderSpec("small", str(folder), 0.8)
    texts = ["dog", "a cat"]
    first = encoders.text_features(encoders.load(spec), texts)
    loads = []
    real = encoders.load
    monkeypatch.setattr(encoders, "load", lambda spec: loads.append(spec) or real(spec))
    again = encoders.lazy(spec)
    assert np.array_equal(encoders.text_features(again, texts), first)
    assert not loads
    other = encoders.text_features(again, texts[::-1])
    assert np.allclose(other, first[::-1], atol=1e-5)
    encoders.image_features(again, pictures(1))
    assert len(loads) == 1
