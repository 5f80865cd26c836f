"""Pages: what is escaped, what a picture carries, what is refused."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from jinja2 import UndefinedError
from markupsafe import Markup
from PIL import Image, PngImagePlugin

from cdtool.errors import NotFoundError, UsageError
from cdtool.reports import html


def test_values_are_escaped_and_sources_are_not(monkeypatch, tmp_path):
    (tmp_path / "a.html").write_text("<b title=\"{{ title }}\">{{ title }}</b>|{{ mark }}|{{ source('look.css') }}")
    (tmp_path / "look.css").write_text("p > a { color: red }")
    monkeypatch.setattr(html, "_TEMPLATES", tmp_path)
    html._environment.cache_clear()
    found = html.render("a.html", title='a < "b"', mark=Markup("<br>"))
    html._environment.cache_clear()
    assert found == '<b title="a &lt; &#34;b&#34;">a &lt; &#34;b&#34;</b>|<br>|p > a { color: red }'


def test_a_template_that_lacks_a_value_is_an_error():
    with pytest.raises(UndefinedError):
        html.render("study.html")


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
