"""The gallery: one page with every concept and its samples."""

from __future__ import annotations

from pathlib import Path

from sampled import sampled

from cdtool.store import registry
from cdtool.tokens import Token


def test_the_page_shows_concepts_scores_and_samples(cdtool, saved):
    saved("dog")
    saved("cat", tokens=(Token("cat<script>", ids=(7,)),))
    registry.add_note("dog", scores={"text": 0.712, "image": "no number"})
    sampled(Path("samples/dog"), "dog", "V* dog <b>on</b> the beach", 3)
    sampled(Path("samples/dog+cat"), "dog+cat", "V1 dog and V2 cat")
    done = cdtool("gallery")
    assert (done.code, done.out) == (0, "gallery.html\n")
    page = Path("gallery.html").read_text()
    assert page.count("<section") == 3
    assert page.count("data:image/png;base64,") == 2
    assert "V* dog &lt;b&gt;on&lt;/b&gt; the beach" in page
    assert "<b>on" not in page
    assert "<script" not in page
    assert "<dt>text</dt><dd>0.712</dd>" in page
    assert "no number" not in page
    assert 'cdtool sample cat "photo of a' in page.replace("&#34;", '"')
    assert "/home/ada" not in page


def test_only_the_chosen_ones(cdtool, saved):
    saved("dog")
    saved("cat")
    sampled(Path("samples/x"), "dog+cat", "V1 dog and V2 cat")
    assert cdtool("gallery", "dog", "-o", "dog.html").code == 0
    assert Path("dog.html").read_text().count("<section") == 1


def test_without_concepts_there_is_nothing_to_show(cdtool, saved):
    assert cdtool("gallery").code == 3
    saved("dog")
    assert cdtool("gallery", "-o", "page.txt").code == 2
