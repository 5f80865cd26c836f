"""cdtool compress, and show --spectrum."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from cdtool.store import registry

K, V = "unet.mid.attn2.to_k.weight", "unet.mid.attn2.to_v.weight"


@pytest.fixture
def dog(manifest):
    generator = torch.Generator().manual_seed(0)
    fall = 1 / torch.arange(1.0, 25.0)
    tensors = {
        name: (torch.randn((40, 24), generator=generator) * fall @ torch.randn((24, 32), generator=generator)).half()
        for name in (K, V)
    }
    return registry.save(manifest("dog"), tensors | {"token.1.text_encoder": torch.ones(32)})


def test_the_paper_s_share_by_default(cdtool, dog):
    said = cdtool("compress", "dog")
    assert (said.code, said.out) == (0, "dog-small\n")
    assert "before" in said.err
    assert "matrix 2/2" in said.err
    entry = registry.find("dog-small")
    assert entry.bytes < dog.bytes
    assert entry.manifest.parents[0]["how"] == "energy 0.6"
    assert 0.6 <= entry.manifest.parents[0]["kept"] < 0.8
    facts = dict(line.split(None, 1) for line in cdtool("show", "dog-small").out.splitlines())
    assert facts["made"].startswith("from  dog (compressed by energy 0.6, relative error 0.")
    assert facts["weights"].startswith("low-rank")


def test_json(cdtool, dog):
    said = cdtool("compress", "dog", "--max-size", "3.2KB", "-o", "tiny", "--json")
    data = json.loads(said.out)
    entry = registry.find("tiny")
    assert (data["name"], data["path"], data["bytes"]) == ("tiny", str(entry.path), entry.bytes)
    assert data["from"] == {"name": "dog", "bytes": dog.bytes}
    assert entry.bytes <= 3200
    assert data["ranks"].keys() == {K, V}
    assert 0 < data["error"] < 1
    assert cdtool("compress", "dog", "-q").out == "dog-small\n"


def test_settings_decide_where_no_flag_does(cdtool, dog, monkeypatch):
    monkeypatch.setenv("CDTOOL_COMPRESS_ENERGY", "0.9")
    cdtool("compress", "dog")
    cdtool("compress", "dog", "--energy", "0.5", "-o", "less")
    assert registry.find("dog-small").manifest.parents[0]["how"] == "energy 0.9"
    assert registry.find("less").manifest.parents[0]["how"] == "energy 0.5"
    cdtool("compress", "dog", "--rank", "3", "-o", "three")
    assert registry.find("three").manifest.parents[0]["how"] == "rank 3"


def test_nothing_gets_larger(cdtool, dog):
    said = cdtool("compress", "dog", "--rank", "24")
    assert (said.code, said.out) == (0, "dog-small\n")
    assert "all stay as they were" in said.err
    assert registry.find("dog-small").bytes - dog.bytes < 400  # the manifest names its parent


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["dgo"], 3, "Did you mean dog?"),
        (["dog", "--rank", "3", "--energy", "0.5"], 2, "--energy and --rank exclude each other"),
        (["dog", "--energy", "1.5"], 2, "up to 1"),
        (["dog", "--energy", "0"], 2, "above 0"),
        (["dog", "--rank", "0"], 2, "--rank"),
        (["dog", "--max-size", "big"], 2, "2MB"),
        (["dog", "--max-size", "0.1B"], 2, "2MB"),
        (["dog", "--max-size", "100"], 2, "Give at least --max-size"),
        (["dog", "-o", "../dog"], 4, "lower-case"),
        (["dog", "-o", "dog"], 4, "--force"),
        (["dog", "curve.png"], 2, "--curve curve.png"),
        (["dog", "--curve", "curve.txt"], 2, ".png"),
        (["dog", "--curve", "nowhere/curve.png"], 3, "nowhere"),
    ],
)
def test_mistakes(cdtool, dog, arguments, code, told):
    said = cdtool("compress", *arguments)
    assert said.code == code
    assert told in said.err
    assert said.out == ""
    assert registry.names() == ["dog"]


@pytest.mark.parametrize(("text", "most"), [("3kb", 3000), ("3 KiB", 3072), ("3000", 3000), ("0.003MB", 3000)])
def test_sizes(cdtool, dog, text, most):
    said = cdtool("compress", "dog", "--max-size", text)
    assert said.code == 0, said.err
    entry = registry.find("dog-small")
    assert most - 300 < entry.bytes <= most
    assert entry.manifest.parents[0]["how"] == f"bytes {most}"


def test_the_least_size_it_names_is_enough(cdtool, dog):
    hint = cdtool("compress", "dog", "--max-size", "100").err.split("--max-size ")[1].strip(". \n")
    assert cdtool("compress", "dog", "--max-size", hint).code == 0


def test_names(cdtool, dog):
    cdtool("compress", "dog")
    before = registry.find("dog-small").path.read_bytes()
    taken = cdtool("compress", "dog", "--rank", "1")
    assert taken.code == 4
    assert "dog-small-2" in taken.err
    there = cdtool("compress", "dog", "--rank", "1", "--if-missing", "--json")
    assert (there.code, json.loads(there.out)["name"]) == (0, "dog-small")
    assert registry.find("dog-small").path.read_bytes() == before
    assert cdtool("compress", "dog", "--rank", "1", "--force").code == 0
    assert registry.find("dog-small").path.read_bytes() != before
    registry.add_note("dog", base="there")
    assert cdtool("compress", "dog", "-o", "dog", "--force").out == "dog\n"  # in place
    assert registry.find("dog").bytes < dog.bytes
    assert registry.note("dog") == {"base": "there"}
    file = registry.find("dog").path.rename(registry.concepts_dir().parent / "shared.safetensors")
    assert cdtool("compress", str(file), "--rank", "1").out == "shared-small\n"


def test_the_curve_saves_nothing_unless_a_name_is_given(cdtool, dog):
    said = cdtool("compress", "dog", "--curve")
    lines = [line.split() for line in said.out.splitlines()]
    assert lines[0] == ["SPECTRUM", "SIZE", "ERROR", "RANK"]
    assert [line[0] for line in lines[1:]] == ["100%", "80%", "60%", "40%", "20%", "10%", "5%"]
    assert registry.names() == ["dog"]
    data = json.loads(cdtool("compress", "dog", "--curve", "--json").out)
    assert (data["name"], len(data["curve"])) == ("dog", 7)
    data = json.loads(cdtool("compress", "dog", "--curve", "-o", "less", "--json").out)
    assert (data["name"], data["from"]["name"], len(data["curve"])) == ("less", "dog", 7)
    assert registry.names() == ["dog", "less"]


def test_damaged(cdtool, dog):
    dog.path.write_bytes(dog.path.read_bytes()[:-5])
    assert cdtool("compress", "dog").code == 4
    assert cdtool("show", "dog", "--spectrum").code == 4


def test_plots(cdtool, dog, tmp_path):
    for arguments in (["compress", "dog", "--curve"], ["show", "dog", "--spectrum"]):
        path = tmp_path / f"{arguments[0]}.png"
        said = cdtool(*arguments, path)
        assert said.code == 0, said.err
        assert str(path) in said.err
        with Image.open(path) as image:
            assert min(image.size) > 400
            assert len(image.convert("RGB").getcolors(10**6)) > 20
        assert sorted(tmp_path.glob(".*")) == []


def test_spectrum(cdtool, dog):
    lines = [line.split() for line in cdtool("show", "dog", "--spectrum").out.splitlines()]
    assert lines[0] == ["MATRIX", "1", "2", "4", "8", "16", "32"]
    assert [line[0] for line in lines[1:]] == ["mid.attn2.to_k", "mid.attn2.to_v"]
    shares = [int(cell.rstrip("%")) for cell in lines[1][1:]]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    data = json.loads(cdtool("show", "dog", "--spectrum", "--json").out)
    assert data["spectrum"].keys() == {K, V}
    assert data["spectrum"][K] == sorted(data["spectrum"][K], reverse=True)
    assert cdtool("show", "dog", "plot.png").code == 2
