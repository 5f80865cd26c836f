"""Records in images and beside them: names of files, and what is not a record."""

from __future__ import annotations

import pytest
from PIL import Image

from cdtool.errors import InputError
from cdtool.models import pipelines
from cdtool.sampling import records, sample
from cdtool.settings import SampleSettings

SETTINGS = SampleSettings(count=2, seed=7, steps=6, guidance=5.0, precision="fp32")


@pytest.fixture(scope="module")
def sd(sd_base):
    return pipelines.load(str(sd_base), precision="fp32", device="cpu")


def test_files_are_named_after_the_prompt_and_never_replaced(sd, tmp_path):
    image = Image.new("RGB", (4, 4))
    names = []
    for prompt in ('Ein "V* Hünd", fast: / und..', "***", "x" * 200, "***"):
        path = records.save(records.sampled(sample.Generated(image, prompt, 3), "dog", sd, SETTINGS), tmp_path / "out")
        names.append(path.name)
        about, settings = records.read(path)
        assert (about.prompt, settings.seed, settings.count, settings.batch) == (prompt, 3, 1, 1)
        assert (settings.steps, settings.guidance) == (6, 5.0)
    assert names == ["ein-v-hünd-fast-und-3.png", "picture-3.png", f"{'x' * 60}-3.png", "picture-3-2.png"]


@pytest.mark.parametrize("chunk", ["[]", "{}", "no json", '{"prompt": 1}'])
def test_a_record_that_makes_no_sense_is_refused(tmp_path, chunk):
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_itxt("cdtool", chunk)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(InputError, match="no record"):
        records.read(tmp_path / "a.png")
