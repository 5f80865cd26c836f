"""Kept features: the same as fresh ones, by content, and made again where damaged."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cdtool import cache
from cdtool.models import encoders
from cdtool.settings import cache_dir


def pictures(count=5):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture
def seen():
    return []


@pytest.fixture
def encoder(seen):
    """Mean colours, each picture noted."""

    def image(images):
        seen.extend(images)
        return np.stack([np.asarray(one, np.float32).mean(axis=(0, 1)) for one in images])

    return encoders.Encoder(encoders.EncoderSpec("fake", "nowhere", 0.8), None, image, "f00d")


def kept():
    return sorted(path for path in cache_dir().rglob("*") if path.is_file())


def test_what_was_seen_is_not_shown_again(encoder, seen, monkeypatch):
    monkeypatch.setattr(encoders, "BATCH", 2)
    images = pictures()
    fresh = encoders.raw_image_features(encoder, iter(images))
    assert len(seen) == len(kept()) == 5
    again = encoders.raw_image_features(encoder, [image.copy() for image in reversed(images)])
    assert np.array_equal(again, fresh[::-1])
    assert len(seen) == 5
    mixed = encoders.raw_image_features(encoder, [images[0], Image.new("RGB", (6, 6)), images[1]])
    assert len(seen) == 6
    assert np.array_equal(mixed, np.stack([fresh[0], np.zeros(3), fresh[1]]))


@pytest.mark.parametrize("damage", [lambda old: b"", lambda old: old[:-1], lambda old: old[:-1] + b"\x07"])
def test_a_damaged_entry_is_made_again(encoder, seen, damage):
    fresh = encoders.raw_image_features(encoder, pictures(2))
    for path in kept():
        path.write_bytes(damage(path.read_bytes()))
    assert np.array_equal(encoders.raw_image_features(encoder, pictures(2)), fresh)
    assert len(seen) == 4
    assert np.array_equal(encoders.raw_image_features(encoder, pictures(2)), fresh)
    assert len(seen) == 4


def test_another_encoder_sees_for_itself(encoder, seen, tmp_path):
    from dataclasses import replace

    encoders.raw_image_features(encoder, pictures(1))
    encoders.raw_image_features(replace(encoder, fingerprint="beef"), pictures(1))
    encoders.raw_image_features(replace(encoder, fingerprint=""), pictures(1))
    assert len(seen) == 3
    assert len(kept()) == 2


def test_a_cache_that_cannot_be_written_is_done_without(encoder, seen):
    cache_dir().parent.mkdir(parents=True, exist_ok=True)
    cache_dir().write_text("in the way")
    assert encoders.raw_image_features(encoder, pictures(2)).shape == (2, 3)


def test_a_fingerprint_is_of_the_content(tmp_path):
    for name, weights in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        (tmp_path / name / "README.md").write_text(name)
    one, same, other = (cache.fingerprint(tmp_path / name) for name in "abc")
    assert one == same != other
    assert cache.fingerprint(tmp_path / "a" / "model.safetensors") == one
