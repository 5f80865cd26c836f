"""Pictures of every kind decoded to RGB, against values worked out by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cdtool.errors import PhotoError
from cdtool.images.pictures import decode, formats


def decoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return decode(file)


def grey_ramp(dtype, top):
    return np.linspace(0, top, 256).astype(dtype).reshape(16, 16)


def test_16_bit_grey_is_scaled_and_not_clipped():
    ramp = grey_ramp(np.uint16, 65535)
    picture, note = decoded(Image.fromarray(ramp))
    assert picture.mode == "RGB"
    assert note == ""
    assert np.array_equal(np.asarray(picture)[..., 0].ravel(), np.arange(256))


def test_dark_16_bit_grey_stays_dark():
    picture, _ = decoded(Image.fromarray(grey_ramp(np.uint16, 6553)))
    assert np.asarray(picture).max() == 25  # a tenth of white


def test_big_endian_16_bit_tiff():
    image = Image.frombytes("I;16B", (16, 16), grey_ramp(np.uint16, 65535).astype(">u2").tobytes())
    picture, _ = decoded(image, "TIFF")
    assert np.array_equal(np.asarray(picture)[..., 1].ravel(), np.arange(256))


@pytest.mark.parametrize(("top", "kind"), [(65535, np.int32), (1.0, np.float32), (255.0, np.float32)])
def test_32_bit_grey_reaches_from_black_to_white(top, kind):
    picture, _ = decoded(Image.fromarray(grey_ramp(kind, top)), "TIFF")
    assert np.array_equal(np.asarray(picture)[..., 2].ravel(), np.arange(256))


def test_transparent_parts_become_white_and_half_transparent_ones_are_mixed():
    image = Image.new("RGBA", (2, 1))
    image.putdata([(200, 0, 0, 0), (100, 50, 0, 128)])
    picture, note = decoded(image)
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    mixed = [round(colour * 128 / 255 + 255 * 127 / 255) for colour in (100, 50, 0)]
    assert np.abs(np.array(picture.getpixel((1, 0))) - mixed).max() <= 1
    assert "white" in note


def test_alpha_that_hides_nothing_is_not_mentioned():
    picture, note = decoded(Image.new("RGBA", (2, 2), (9, 8, 7, 255)))
    assert picture.getpixel((1, 1)) == (9, 8, 7)
    assert note == ""


def test_palette_with_a_transparent_colour():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    picture, _ = decoded(image, transparency=0)
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (40, 50, 60)]


def test_cmyk_jpeg():
    picture, _ = decoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    red, green, blue = picture.getpixel((8, 8))
    assert red > 240
    assert green < 15
    assert blue < 15


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown rotated clockwise
    picture, _ = decoded(image, exif=exif)
    assert picture.size == (20, 40)
    assert picture.getpixel((10, 5)) == (0, 0, 255)
    assert picture.getpixel((10, 35)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame_and_says_so(kind):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue")]
    picture, note = decoded(frames[0], kind, save_all=True, append_images=frames[1:])
    red, green, blue = picture.getpixel((5, 5))
    assert red > 240
    assert green < 15
    assert blue < 15
    assert "first of 3 frames" in note


def test_damage_has_one_short_reason():
    file = io.BytesIO()
    Image.effect_noise((200, 200), 90).save(file, "JPEG")
    with pytest.raises(PhotoError, match="cut short"):
        decode(io.BytesIO(file.getvalue()[: len(file.getvalue()) // 2]))
    with pytest.raises(PhotoError, match="not an image"):
        decode(io.BytesIO(b"Dear diary, today I saw a dog."))


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PhotoError, match="too large"):
        decoded(Image.new("L", (20, 20)))


def test_postscript_is_never_run():
    file = io.BytesIO()
    Image.new("RGB", (40, 40)).save(file, "EPS")
    with pytest.raises(PhotoError, match="not an image"):
        decode(io.BytesIO(file.getvalue()))
    assert "EPS" not in formats()
