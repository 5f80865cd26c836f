"""Pictures as `cdtool sample` writes them, without sampling."""

from __future__ import annotations

from dataclasses import asdict

from PIL import Image

from cdtool.sampling import records
from cdtool.settings import SampleSettings


def sampled(folder, subject, prompt, seed=0, colour=(200, 30, 30)):
    """Write one picture of a subject, with its record; returns its path."""
    image = records.SampledImage()
    image.__setstate__(Image.new("RGB", (32, 24), colour).__getstate__())
    chosen = {name: value for name, value in asdict(SampleSettings()).items() if name not in ("count", "seed", "batch")}
    chosen["precision"] = "fp32"
    image.prompt, image.seed = prompt, seed
    image.record = records.Record(prompt, seed, subject, "/home/ada/models/mine", "f00d" * 8, chosen, {"cdtool": "1"})
    return records.save(image, folder)
