"""The concept file: what is written is read again, and a damaged, foreign or newer file ends in a sentence."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cdtool.errors import ConceptError, ResourceError
from cdtool.settings import TrainSettings
from cdtool.store import concept
from cdtool.store.headers import Shape
from cdtool.tokens import Token


@pytest.fixture
def file(tmp_path, manifest, tensors):
    path = tmp_path / "dog.safetensors"
    concept.write(path, manifest(settings={"steps": 3}, photos=("ab",), parents=({"name": "a"},)), tensors)
    return path


def raw(path, header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return path


def test_round_trip(file, manifest, tensors):
    found, shapes = concept.read_header(file)
    assert found == manifest(settings={"steps": 3}, photos=("ab",), parents=({"name": "a"},))
    assert isinstance(found.tokens[0], Token)
    assert shapes == {
        "unet.mid.attn2.to_k.weight": Shape("F16", (4, 3)),
        "unet.mid.attn2.to_v.weight": Shape("F16", (4, 3)),
        "token.1.text_encoder": Shape("F32", (3,)),
    }
    again = concept.read_tensors(file)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)
    assert concept.numbers(shapes) == sum(tensor.numel() for tensor in tensors.values())


def test_a_file_cut_short_anywhere(file, tmp_path):
    whole = file.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for end in range(len(whole)):
        cut.write_bytes(whole[:end])
        with pytest.raises(ConceptError):
            concept.read_header(cut)


def test_a_file_with_something_behind_it(file):
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ConceptError, match="cut short"):
        concept.read_header(file)


def test_a_byte_changed_anywhere_in_the_header_is_read_or_refused(file, tmp_path):
    whole = bytearray(file.read_bytes())
    bent = tmp_path / "bent.safetensors"
    refused = 0
    for place in range(8 + struct.unpack("<Q", whole[:8])[0]):
        changed = whole.copy()
        changed[place] ^= 0x15
        bent.write_bytes(changed)
        try:
            concept.read_header(bent)
        except ConceptError:
            refused += 1
    assert refused > 100


FOREIGN = [
    b"",
    b"not json",
    b"\xff\xfe",
    b"[" * 100_000,
    [],
    3,
    None,
    {"a": 1},
    {"a": {"dtype": "F32", "shape": [1]}},
    {"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 0]}},
    {"a": {"dtype": "F32", "shape": [1], "data_offsets": []}},
    {"__metadata__": {"format": "pt"}},
    {"__metadata__": "cdtool"},
    {"__metadata__": ["cdtool"]},
    {"__metadata__": {"cdtool": 3}},
    {"__metadata__": {"cdtool": "null"}},
    {"__metadata__": {"cdtool": "{}"}},
    {"__metadata__": {"cdtool": "[1]"}},
    {"__metadata__": {"cdtool": "[" * 100_000}},
    {"__metadata__": {"cdtool": '{"format": 1}'}},
    {"__metadata__": {"cdtool": '{"format": 1, "base": {}, "tokens": ["V*"]}'}},
]


@pytest.mark.parametrize("header", FOREIGN, ids=lambda header: repr(header)[:40])
def test_foreign_files(tmp_path, header):
    with pytest.raises(ConceptError):
        concept.read_header(raw(tmp_path / "foreign.safetensors", header))


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**40, 10**8 + 1])
def test_a_huge_header_length_reserves_no_memory(tmp_path, length):
    with pytest.raises(ConceptError):
        concept.read_header(raw(tmp_path / "huge.safetensors", {}, length=length))


def test_someone_elses_safetensors_file(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    with pytest.raises(ConceptError, match="not a concept") as caught:
        concept.read_header(tmp_path / "lora.safetensors")
    assert "cdtool import" in caught.value.hint


def test_a_newer_format_names_the_file_and_the_way_out(tmp_path, manifest, tensors):
    path = tmp_path / "new.safetensors"
    concept.write(path, replace(manifest(), format=concept.FORMAT + 1), tensors)
    with pytest.raises(ConceptError, match="newer than this cdtool reads") as caught:
        concept.read_header(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint == "Update cdtool."


def test_entries_a_later_version_adds_are_ignored(manifest):
    table = asdict(manifest()) | {"mood": "sunny"}
    assert concept.from_json(json.dumps(table)) == manifest()


def test_damaged_tensors(file):
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ConceptError, match="cannot be read"):
        concept.read_tensors(file)


def test_a_place_that_cannot_be_written(tmp_path, manifest, tensors):
    with pytest.raises(ResourceError, match="could not be written"):
        concept.write(tmp_path / "nowhere" / "dog.safetensors", manifest(), tensors)


def test_tensors_that_are_views_are_written_as_they_look(tmp_path, manifest):
    path = tmp_path / "view.safetensors"
    tensor = torch.arange(6.0).reshape(2, 3).T
    concept.write(path, manifest(), {"token.1.text_encoder": tensor})
    assert torch.equal(concept.read_tensors(path)["token.1.text_encoder"], tensor)


@pytest.mark.parametrize("name", ["dog", 'chien "élevé"\n犬'])
def test_the_size_of_a_file_is_known_before(tmp_path, manifest, tensors, name):
    several = tensors | {f"unet.{n}.up": torch.ones(n, 2) for n in range(1, 12)} | {"down": torch.ones(2, 2).double()}
    made = manifest(parents=({"name": name},))
    concept.write(tmp_path / "it", made, several)
    shapes = concept.read_header(tmp_path / "it")[1]
    assert concept.file_size(made, shapes) == (tmp_path / "it").stat().st_size


def test_names_and_forms():
    assert concept.weight_name("mid_block.attn2.to_k") == "unet.mid_block.attn2.to_k.weight"
    assert concept.row_name(0, "text_encoder_2") == "token.1.text_encoder_2"
    dense = {"unet.a.weight": Shape("F16", (4, 3))}
    low = {"unet.a.weight.up": Shape("F16", (4, 1)), "unet.a.weight.down": Shape("F16", (1, 3))}
    assert not concept.is_low_rank(dense)
    assert concept.is_low_rank(low)
    assert (concept.numbers(dense), concept.numbers(low)) == (12, 7)


@pytest.mark.parametrize(
    "bad",
    [{"created": 0}, {"parents": [1]}, {"tokens": []}, {"tokens": [{"noun": " "}]}, {"tokens": [{"noun": 3}]},
     {"base": "mini"}, {"base": {"name": "mini"}}, {"settings": []}, {"photos": "abc"}, {"format": "1"},
     {"format": True}, {"report": 1}, {"tokens": [{"noun": "dog", "ids": [1.5]}]}, {"method": None}],
    ids=str,
)  # fmt: skip
def test_a_manifest_with_one_value_of_another_type(manifest, bad):
    with pytest.raises(ConceptError, match="manifest cannot be read"):
        concept.from_json(json.dumps(asdict(manifest()) | bad))


def test_what_steers_a_terminal_is_cleaned_on_reading(manifest):
    table = asdict(manifest(tokens=(Token("d\x1b[31mog"),), settings={"a": "\x07", "\x1b": 1}))
    found = concept.from_json(json.dumps(table))
    assert found.tokens[0].noun == "d\ufffd[31mog"
    assert found.settings == {"a": "\ufffd", "\ufffd": 1}


WEIGHT = "unet.mid.attn2.to_k.weight"


@pytest.mark.parametrize(
    "bad",
    [
        {"other": torch.zeros(2)},
        {"unet.a b": torch.zeros(2, 2)},
        {"token.1.text_encoder": torch.zeros(())},
        {"token.1.text_encoder": torch.zeros(2, 2)},
        {"token.1.text_encoder": torch.zeros(0)},
        {"token.2.text_encoder": torch.zeros(2)},
        {"token.1.text_encoder": torch.zeros(2, dtype=torch.int64)},
        {"token.1.text_encoder": torch.zeros(2).to(torch.float8_e4m3fn)},
        {WEIGHT: torch.zeros(())},
        {f"{WEIGHT}.up": torch.zeros(2, 3), f"{WEIGHT}.down": torch.zeros(2, 2)},
        {f"{WEIGHT}.up": torch.zeros(2, 0), f"{WEIGHT}.down": torch.zeros(0, 2)},
        {f"{WEIGHT}.up": torch.zeros(2, 3)},
        {f"{WEIGHT}.down": torch.zeros(2, 2)},
        {f"{WEIGHT}.up": torch.zeros(2), f"{WEIGHT}.down": torch.zeros(2, 2)},
        {WEIGHT: torch.zeros(2, 2), f"{WEIGHT}.up": torch.zeros(2, 1), f"{WEIGHT}.down": torch.zeros(1, 2)},
    ],
    ids=lambda bad: ", ".join(f"{name} {tensor.dtype} {list(tensor.shape)}" for name, tensor in bad.items()),
)
def test_tensors_that_are_no_concepts(tmp_path, manifest, bad):
    concept.write(tmp_path / "bad.safetensors", manifest(), bad)
    with pytest.raises(ConceptError):
        concept.read_header(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_numbers_that_are_not_finite(tmp_path, manifest, number, dtype):
    bad = torch.zeros(8, dtype=dtype)
    bad[5] = number
    concept.write(tmp_path / "bad.safetensors", manifest(), {"token.1.text_encoder": bad})
    with pytest.raises(ConceptError, match=r"not finite \(token.1.text_encoder\)"):
        concept.read_tensors(tmp_path / "bad.safetensors")


def test_a_pipe_where_a_concept_is_expected(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(ConceptError, match="regular file"):
        concept.read_header(tmp_path / "pipe.safetensors")


def test_a_concept_file_has_the_rights_of_any_new_file(file, tmp_path):
    (tmp_path / "any").touch()
    assert file.stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_file_of_an_earlier_version_is_read_with_the_names_of_today():
    """Trained by 0.1 before its settings were renamed; the file is never written again."""
    path = Path(__file__).parents[1] / "frozen" / "concept-format-1.safetensors"
    manifest, shapes = concept.read_header(path)
    assert manifest.settings["preserve_uncond"] == 0.01
    assert manifest.settings.keys() <= TrainSettings.__dataclass_fields__.keys()
    assert (manifest.name, manifest.method, manifest.tokens[0].words()) == ("old", "textual-inversion", "V* dog")
    assert shapes.keys() == concept.read_tensors(path).keys() == {"token.1.text_encoder"}
