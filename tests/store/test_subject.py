"""Subjects as users write them: what they are taken apart into, and what is refused."""

from __future__ import annotations

import shutil
import sys

import pytest

from cdtool.errors import BaseError, ConceptError, NotFoundError, TokenError, UsageError
from cdtool.store import subject
from cdtool.store.concept import BaseRef
from cdtool.store.subject import Part
from cdtool.tokens import Token

CAT = (Token("cat", initializer="pll", ids=(8,)),)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("dog", [("dog", 1)]),
        ("dog+cat", [("dog", 1), ("cat", 1)]),
        ("dog:0.8+cat", [("dog", 0.8), ("cat", 1)]),
        ("dog:.5+cat:1.5+a-b_c.2:0", [("dog", 0.5), ("cat", 1.5), ("a-b_c.2", 0)]),
        (" dog : 2 + cat ", [("dog", 2), ("cat", 1)]),
        ("dog+dog", [("dog", 1), ("dog", 1)]),
        ("./far/off.safetensors:0.5", [("./far/off.safetensors", 0.5)]),
    ],
)
def test_subjects_are_taken_apart(text, parts):
    assert [(part.name.strip(), part.weight) for part in subject.parse(text)] == parts


@pytest.mark.parametrize("text", ["dog+", "+dog", "dog++cat", "", ":0.5", "dog+:1", " + "])
def test_a_part_without_a_name_is_refused(text):
    with pytest.raises(UsageError, match="without a name"):
        subject.parse(text)


@pytest.mark.parametrize("weight", ["x", "", "-1", "nan", "inf", "0.8.1", "1e999"])
def test_a_weight_is_a_number_from_zero(weight):
    with pytest.raises(UsageError, match="not a weight"):
        subject.parse(f"dog:{weight}+cat")


def test_a_file_with_signs_in_its_path_is_one_part(saved, tmp_path):
    folder = tmp_path / "a+b:c"
    folder.mkdir()
    path = shutil.copy(saved("dog").path, folder / "my+dog.safetensors")
    assert subject.parse(str(path)) == (Part(str(path)),)
    assert subject.find(str(path)).label == "my+dog"


def test_tokens_of_all_parts_are_numbered_in_order(saved):
    saved("dog")
    saved("pair", tokens=(*CAT, Token("moongate", modifier=False)))
    found = subject.find("dog:0.5+pair")
    assert [token.noun for token in found.tokens] == ["dog", "cat", "moongate"]
    assert (found.base, found.weights, found.label, found.text) == ("mini", (0.5, 1.0), "dog-0.5+pair", "dog:0.5+pair")
    assert subject.find("dog", "elsewhere").base == "elsewhere"


def test_only_one_whole_concept_of_the_registry_is_as_it_is_stored(saved, tmp_path):
    path = shutil.copy(saved("dog").path, tmp_path / "given.safetensors")
    told = {text: subject.find(text).is_stored for text in ("dog", "dog:1", "dog:0.5", "dog+dog", str(path), "mini")}
    assert list(told.values()) == [True, True, False, False, False, False]


def test_a_base_stands_for_itself_and_joins_nothing(saved, sd_base):
    saved("dog")
    for base in ("mini", str(sd_base), "some/hub-id"):
        found = subject.find(base)
        assert (found.base, found.parts, found.tokens, found.weights) == (base, (), (), ())
    assert subject.find(str(sd_base)).label == "tiny-sd"
    for text in ("dog+mini", "mini:0.5", f"{sd_base}+dog"):
        with pytest.raises(UsageError, match="is a base"):
            subject.find(text)


def test_an_unknown_part_is_told_with_the_nearest_names(saved):
    saved("dog")
    with pytest.raises(NotFoundError, match='no concept "dgo"') as told:
        subject.find("dog+dgo")
    assert "dog" in told.value.hint


def test_parts_of_different_bases_do_not_meet(saved):
    saved("dog")
    saved("cat", tokens=CAT, base=BaseRef("sd15", "sd1", "beef" * 8))
    saved("old", tokens=CAT, base=BaseRef("mini", "sd", "beef" * 8))
    with pytest.raises(BaseError, match="mini and sd15"):
        subject.find("dog+cat")
    with pytest.raises(BaseError, match="two different versions of mini"):
        subject.find("dog+old")
    assert len(subject.find("dog+cat", "mini", force=True).parts) == 2


def test_what_changes_more_than_keys_and_values_cannot_be_joined(saved):
    saved("dog")
    for method in ("crossattn", "full", "dreambooth"):
        saved(method, method=method, tokens=CAT)
        assert subject.find(f"{method}:0.5").weights == (0.5,)
        with pytest.raises(ConceptError, match=f'"{method}" .* cannot be joined') as told:
            subject.find(f"dog+{method}")
        assert "--method kv" in told.value.hint
    for method in ("textual-inversion", "lora", "merge"):
        saved(method, method=method, tokens=CAT)
        assert len(subject.find(f"dog+{method}").concepts) == 2


def test_a_word_alone_has_no_weight(saved):
    saved("dog")
    saved("word", method="textual-inversion", tokens=CAT)
    assert subject.find("word:1+dog").weights == (1.0, 1.0)
    for text in ("word:0.5", "dog+word:2"):
        with pytest.raises(UsageError, match="has no weight"):
            subject.find(text)


def test_two_equal_plain_words_are_refused_and_two_modifiers_are_not(saved):
    saved("gate", tokens=(Token("moongate", modifier=False),))
    saved("dog")
    with pytest.raises(TokenError, match='plain word "moongate"'):
        subject.find("gate+dog+gate")
    assert len(subject.find("dog+dog").tokens) == 2


def test_no_torch_is_needed_to_read_a_subject(saved, monkeypatch):
    saved("dog")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert subject.find("dog+dog").label == "dog+dog"
