"""DINO on a small random ViT in the published form; Inception on a small TorchScript network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cdtool.errors import BaseError, NotFoundError
from cdtool.models import encoders, vision


def pictures(count=3, size=(50, 37)):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base") / "dino"
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(image_size=28, patch_size=7, **sizes)).save_pretrained(folder)
    return folder


def test_dino_is_the_class_token_of_the_centre(vit):
    from transformers import ViTModel

    encoder = vision.load_dino(encoders.EncoderSpec("dino", str(vit), 0.0))
    (image,) = pictures(1, (40, 32))
    found = encoders.image_features(encoder, [image])
    centre = image.crop((4, 0, 36, 32)).crop((2, 2, 30, 30))  # 32 px is 8/7 of 28
    pixels = (np.asarray(centre, np.float32) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    with torch.no_grad():
        shown = torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32)
        token = ViTModel.from_pretrained(vit)(shown).last_hidden_state[0, 0].numpy()
    assert found[0] == pytest.approx(token / np.linalg.norm(token), abs=1e-5)
    with pytest.raises(TypeError):
        encoders.text_features(encoder, ["a dog"])


def test_a_base_may_bring_its_own_dino(vit):
    base = vit.parent
    assert vision.dino_for(base) == vision.DINO
    (base / "cdtool.toml").write_text('[eval]\ndino = "dino"\n')
    assert vision.dino_for(base).where == str(vit)


def test_dinov2_is_read_from_its_published_form(tmp_path):
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = tmp_path / "dinov2-small"
    config = Dinov2Config(image_size=518, patch_size=14, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    model = Dinov2Model(config)
    model.save_pretrained(folder)
    how = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 3,
           "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}  # fmt: skip
    processor = BitImageProcessor(**how)
    processor.save_pretrained(folder)
    encoder = vision.load_dino(encoders.EncoderSpec("dinov2", str(folder), 0.0))
    shown = pictures(2, (300, 280))
    found = encoders.image_features(encoder, shown)
    with torch.no_grad():
        pixels = processor(shown, return_tensors="pt")["pixel_values"]
        expected = model.eval()(pixel_values=pixels).last_hidden_state[:, 0].numpy()
    assert found == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=2e-3)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}


def test_what_is_missing_names_its_command(home):
    with pytest.raises(NotFoundError) as raised:
        vision.load_dino(vision.DINO)
    assert raised.value.hint == "hf download facebook/dino-vits16"
    with pytest.raises(NotFoundError, match="Inception") as raised:
        vision.load_inception()
    assert raised.value.hint.startswith(f"curl --create-dirs -o {home / 'cache' / vision.INCEPTION} https://")


def test_what_is_damaged_is_a_base_error(home, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(BaseError, match="ViT"):
        vision.load_dino(encoders.EncoderSpec("dino", str(tmp_path), 0.0))
    (home / "cache").mkdir(parents=True)
    (home / "cache" / vision.INCEPTION).write_bytes(b"nothing")
    with pytest.raises(BaseError, match="cannot be loaded"):
        vision.load_inception()


class Layers(torch.nn.Module):
    """The mean of each channel, as the pool at the end leaves it."""

    def forward(self, x):
        return x.mean(dim=[2, 3], keepdim=True)


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = Layers()

    def forward(self, x):
        return self.layers(x)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_inception_sees_pictures_as_published(home):
    (home / "cache").mkdir(parents=True)
    torch.jit.script(Network()).save(str(home / "cache" / vision.INCEPTION))
    encoder = vision.load_inception()
    flat = Image.new("RGB", (64, 48), (128, 0, 255))
    found = encoders.raw_image_features(encoder, [flat])
    assert found[0] == pytest.approx([0, -1, 127 / 128], abs=1e-5)
    assert np.array_equal(vision.set_features(encoder, found), found)


def test_features_of_a_pair_are_brought_to_one_size():
    pair = encoders.Encoder(encoders.ENCODERS["clip-vit-b32"], None, None)
    found = vision.set_features(pair, np.random.default_rng(1).normal(size=(3, 9)).astype(np.float32))
    assert np.linalg.norm(found, axis=1) == pytest.approx([3, 3, 3])
