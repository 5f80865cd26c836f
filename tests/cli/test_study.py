"""cdtool study make and score, with pictures made by hand."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from cdtool.cli import output
from cdtool.research import answers
from cdtool.research import study as questionnaire
from cdtool.research.answers import Answers


@pytest.fixture
def study(saved, tmp_path, monkeypatch):
    """Concepts `dog` and `hound`, and a comparison that ends at once with four pairs; returns the page's path."""
    saved("dog")
    saved("hound")
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (40, 40)).save(folder / "1.png")
    pairs = [
        questionnaire.ImagePair(f"a dog, {place}", Image.new("RGB", (8, 8), (place, 0, 0)), Image.new("RGB", (8, 8)))
        for place in range(4)
    ]

    def run(asked):
        yield from range(asked.pictures)
        subjects = (asked.a.composition.text, asked.b.composition.text)
        yield questionnaire.build(subjects, pairs, {"dog": [Image.new("RGB", (8, 8))]}, seed=asked.a.settings.seed)

    monkeypatch.setattr(questionnaire, "run", run)
    monkeypatch.setattr(output, "quiet_libraries", lambda: None)
    return tmp_path / "pairs.html"


def make(cdtool, study, *more):
    asked = ("--photos", study.parent / "photos", "-o", study)
    return cdtool("study", "make", "dog", "hound", *asked, *more)


def answered(study, name, choose):
    """A file as the page makes it, with `choose(item)` giving each choice."""
    key = answers.read_key(answers.key_path(study))
    found = Answers(name, {item.id: choose(item) for item in key.items})
    table = {"format": 1, "study": key.study, "rater": name, "answers": found.choices}
    path = study.parent / f"{name}.json"
    path.write_text(json.dumps(table | {"check": answers.checksum(key.study, found)}))
    return path


def test_a_study_is_a_page_and_a_key(cdtool, study):
    said = make(cdtool, study)
    assert said.code == 0
    assert said.out == f"{study}\n"
    assert "8 questions about 4 pairs" in said.err
    assert "pairs.key.json" in said.err
    assert "hound" not in study.read_text()
    assert "hound" in answers.key_path(study).read_text()


def test_json_names_page_and_key(cdtool, study):
    data = json.loads(make(cdtool, study, "--json").out)
    assert (data["path"], data["key"]) == (str(study), str(answers.key_path(study)))
    assert data["questions"] == 8


def test_what_is_wrong_is_told_before_anything_is_drawn(cdtool, study, monkeypatch):
    assert make(cdtool, study).code == 0
    again = make(cdtool, study)
    assert again.code == 4
    assert "--force" in again.err
    assert make(cdtool, study, "--force").code == 0
    monkeypatch.setattr(questionnaire, "run", None)
    assert cdtool("study", "make", "dog", "hound").code == 2
    assert cdtool("study", "make", "dog", "huond", "-o", "a.html").code == 3
    assert cdtool("study", "make", "dog", "dog", "-o", "a.html").code == 2
    assert cdtool("study", "make", "dog", "hound", "-o", "a.html").code == 3


def test_answers_are_counted(cdtool, study):
    make(cdtool, study)
    files = [answered(study, "x", lambda item: item.a), answered(study, "y", lambda item: item.b if item.pair else "")]
    said = cdtool("study", "score", *files)
    assert said.code == 0
    head, text, photos = said.out.splitlines()
    assert head.split() == ["dog", "cannot", "tell", "hound", "share", "for", "dog", "95%", "interval"]
    assert text.split()[:5] == ["text", "4", "1", "3", "56.2%"]
    assert photos.split()[:5] == ["photos", "4", "1", "3", "56.2%"]
    assert "2 people, 8 questions each" in said.err
    assert "Neither clearly fits the text better." in said.err
    assert "a dog" not in said.out


def test_a_clear_choice_is_said_and_json_holds_the_counts(cdtool, study):
    make(cdtool, study)
    file, key = answered(study, "x", lambda item: item.b), answers.key_path(study)
    assert "hound fits the text better." in cdtool("study", "score", file, "--key", key).err
    data = json.loads(cdtool("study", "score", file, "--json").out)
    assert (data["a"], data["b"], data["people"]) == ("dog", "hound", 1)
    assert data["questions"]["text"]["b"] == 4
    assert data["questions"]["text"]["share"] == 0
    assert data["questions"]["text"]["high"] == pytest.approx(answers.wilson(0, 4)[1])
    assert cdtool("study", "score", file, "-q").out.splitlines() == ["text 0.0000", "photos 0.0000"]


def test_bad_answers_have_their_exit_codes(cdtool, study, tmp_path):
    make(cdtool, study)
    file = answered(study, "x", lambda item: item.a)
    assert cdtool("study", "score", tmp_path / "lost.json").code == 3
    assert cdtool("study", "score", file, "--key", tmp_path / "lost.key.json").code == 3
    twice = tmp_path / "again.json"
    twice.write_bytes(file.read_bytes())
    said = cdtool("study", "score", file, twice)
    assert said.code == 4
    assert "the same person" in said.err
    file.write_text("{")
    assert cdtool("study", "score", file).code == 4
    answers.key_path(study).unlink()
    assert cdtool("study", "score", twice).code == 3
