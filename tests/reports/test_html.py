"""Pages: what is escaped, what a picture carries, what is refused."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cdtool.errors import NotFoundError, UsageError
from cdtool.reports import html
from cdtool.reports.html import Markup, joined, tag


def test_text_is_escaped_and_markup_is_not():
    assert tag("p", "a < b & c", tag("b", "<script>")) == "<p>a &lt; b &amp; c<b>&lt;script&gt;</b></p>"
    assert joined("<", Markup("<br>")) == "&lt;<br>"


def test_attributes_are_escaped_and_none_is_left_out():
    assert tag("i", class_="x", aria_label='a "b" <c>', title=None) == (
        '<i class="x" aria-label="a &quot;b&quot; &lt;c&gt;"></i>'
    )
    assert tag("img", src="data:,") == '<img src="data:,"/>'


def test_a_template_is_filled_once_and_holds_its_styles(monkeypatch, tmp_path):
    (tmp_path / "a.html").write_text("{{title}}|{{look_css}}")
    (tmp_path / "look.css").write_text("p { color: {{title}} }")
    monkeypatch.setattr(html, "_TEMPLATES", tmp_path)
    assert html.fill("a.html", title="{{look_css}} <") == "{{look_css}} &lt;|p { color: {{title}} }"


def test_data_in_a_script_cannot_end_it():
    hostile = {"prompt": "</script><script>alert(1)</script><!-- &amp;", "snow": "☃"}
    text = html.data(hostile)
    assert "<" not in text
    assert json.loads(text) == hostile


def pixels_of(uri):
    kind, _, coded = uri.partition(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(coded)))


def test_a_small_picture_keeps_its_pixels_and_nothing_else(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "V* secret")
    Image.fromarray(noise).save(tmp_path / "a.png", pnginfo=info, dpi=(72, 72))
    with Image.open(tmp_path / "a.png") as image:
        kind, found = pixels_of(html.data_uri(image))
    assert kind == "data:image/png"
    assert (np.asarray(found) == noise).all()
    assert not found.info


def test_a_large_picture_is_scaled_and_left_as_it_was():
    image = Image.new("RGBA", (800, 400), (255, 0, 0, 255))
    kind, found = pixels_of(html.data_uri(image, side=200))
    assert kind == "data:image/jpeg"
    assert found.size == (200, 100)
    assert image.size == (800, 400)


def test_where_a_page_cannot_go_is_told_before(tmp_path):
    with pytest.raises(UsageError, match="page"):
        html.check(tmp_path / "a.pdf", "--report")
    with pytest.raises(NotFoundError):
        html.check(tmp_path / "no" / "a.html", "--report")
    html.check(tmp_path / "a.HTML", "--report")


def test_a_page_is_written_over_an_older_one_and_leaves_nothing_beside(tmp_path):
    for text in ("one", "zwölf"):
        html.save(text, tmp_path / "a.html")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == "zwölf"


def test_differences_have_a_true_minus():
    assert [html.signed(value) for value in (0.12, -0.5, 408.118)] == ["+0.120", "−0.500", "+408"]


def test_a_figure_has_as_many_places_as_tell_something():
    assert [html.figure(value) for value in (0.12, -9.5, 27.4211, 1299.143)] == ["0.120", "−9.500", "27.42", "1,299"]
