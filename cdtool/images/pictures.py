"""Any picture file as upright 8-bit RGB, or one short reason why it cannot be."""

from __future__ import annotations

import contextlib
import functools
import importlib
import struct
import warnings
import zlib
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cdtool.errors import PhotoError

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM", "QOI")
# What PIL raises on damaged files.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error,
           zlib.error)  # fmt: skip


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats photos come in, as far as this installation reads them."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def decode(file: BinaryIO) -> tuple[Image.Image, str]:
    """An encoded picture as upright RGB, and what was done to it: 16 bits scaled, alpha on white, the first frame.

    Raises PhotoError with a short reason, PermissionError where the file may not be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and odd EXIF, which matter to nobody here
            image = Image.open(file, formats=formats())
            note = _frames(image)
            image.load()
            upright = ImageOps.exif_transpose(image)
            flat, transparent = _flatten(upright)
            return flat, ", ".join(filter(None, (note, transparent)))
    except UnidentifiedImageError:
        raise PhotoError("not an image cdtool can open") from None
    except Image.DecompressionBombError:
        raise PhotoError("too large; export it with fewer pixels") from None
    except PermissionError:
        raise
    except _DAMAGE:
        raise PhotoError("damaged or cut short") from None


def _frames(image: Image.Image) -> str:
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a phone's MPO holds previews
    if frames > 1:
        image.seek(0)
        return f"first of {frames} frames"
    return ""


def _flatten(image: Image.Image) -> tuple[Image.Image, str]:
    if image.mode.startswith(("I", "F")):
        return _eight_bits(image).convert("RGB"), ""
    if not image.has_transparency_data:
        return image.convert("RGB"), ""
    rgba = image.convert("RGBA")
    canvas = Image.new("RGBA", rgba.size, "white")
    opaque = np.asarray(rgba)[..., 3].min() == 255
    return Image.alpha_composite(canvas, rgba).convert("RGB"), "" if opaque else "transparent parts made white"


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits or floats as 8 bits; PIL's own conversion clips everything above 255."""
    grey = np.nan_to_num(np.asarray(image).astype(np.float64)).clip(0)
    top = grey.max(initial=0)
    if image.mode.startswith("I;16"):
        full = 65535.0
    else:  # the file does not say what white is: the least usual white that no pixel exceeds
        full = next((white for white in _whites(image.mode) if top <= white), top)
    return Image.fromarray((grey / full * 255).round().astype(np.uint8))


def _whites(mode: str) -> tuple[float, ...]:
    return (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0, 2.0**31 - 1)
