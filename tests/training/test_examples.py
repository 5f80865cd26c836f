"""What a training learns from: captions that fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdtool.errors import PhotoError
from cdtool.images.photos import Photo
from cdtool.models import pipelines
from cdtool.settings import TrainSettings
from cdtool.tokens import Token
from cdtool.training import examples, run
from cdtool.training.job import Job


def test_a_caption_that_loses_its_modifier_is_an_error_any_other_cut_a_note(sd_base):
    base = pipelines.load(str(sd_base), precision="fp32", device="cpu", parts=("text",))

    def cut(caption):
        photo = Photo(Path("1.png"), "1", (8, 8), caption)
        job = Job("dog", "tiny", (Token("dog"),), ((photo,),), (), TrainSettings(), ())
        return examples.truncated_captions(run.with_initializers(job, base), base)

    assert cut("a V* dog on the beach") == cut("") == []
    assert cut("a V* dog " + "on the beach " * 30) == ["1.png"]
    with pytest.raises(PhotoError, match=r"1\.png is too long") as caught:
        cut("on the beach " * 30 + "a V* dog")
    assert "first" in caught.value.hint
