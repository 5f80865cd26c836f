"""Small captioned corpora in every form, and an encoder whose space is a circle."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
from PIL import Image

from cdtool.models import encoders

SPEC = encoders.EncoderSpec("fake", "nowhere", 0.85)


def angle(text):
    """Captions name their angle to the prompt in degrees: "dog 30" lies 30 degrees from "photo of a dog"."""
    return float(text.split()[-1]) if text.split()[-1].isdigit() else 0.0


def encoder():
    def text(texts):
        angles = np.radians([angle(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) * 3

    return encoders.Encoder(SPEC, text, None)


def picture(grey, kind="PNG", side=40, **more):
    file = io.BytesIO()
    Image.new("RGB", (side, side), (grey, grey, grey)).save(file, kind, **more)
    return file.getvalue()


def noise(seed, kind="PNG", side=40, **more):
    """A picture like no other."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST).save(file, kind, **more)
    return file.getvalue()


def tar(path, members, mode="w"):
    with tarfile.open(path, mode) as made:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return path


def lines(*pairs):
    return "".join(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in pairs)


def coco(path, captions):
    """A COCO captions file of (file name, caption) pairs."""
    names = list(dict.fromkeys(name for name, _ in captions))
    table = {
        "images": [{"id": 100 + number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"image_id": 100 + names.index(name), "caption": text} for name, text in captions],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table))
    return path
