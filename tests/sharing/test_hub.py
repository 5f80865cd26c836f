"""Pushing and pulling, against a stand-in of the hub's API on this machine (tests/hub_standin.py)."""

from __future__ import annotations

from dataclasses import replace

import hub_standin
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from sampled import sampled

import cdtool as api
from cdtool.errors import ConceptError, InputError, NameTakenError, NotFoundError, ResourceError, UsageError
from cdtool.store import concept, registry
from cdtool.store.concept import BaseRef


@pytest.fixture
def hub(monkeypatch):
    found = hub_standin.Hub()
    monkeypatch.setattr(constants, "ENDPOINT", found.address)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, found.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: "hf_test")
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: "hf_test")
    yield found
    found.shutdown()
    found.server_close()


def test_what_was_pushed_is_pulled(cdtool, hub, saved, tmp_path):
    entry = saved("dog", base=BaseRef("/home/ada/models/mine", "sd1", "f00d" * 8), settings={"prior": "/home/ada/cats"})
    sampled(tmp_path, "dog", "V* dog on the beach")
    done = cdtool("push", "dog", "ada/dog", "--images", tmp_path, "--licence", "cc-by-4.0")
    assert (done.code, done.out) == (0, f"{hub.address}/ada/dog\n")
    files = hub.files["ada/dog"]
    assert set(files) == {"README.md", "dog.safetensors", "images/1.png"}
    assert hub.made[0]["visibility" if "visibility" in hub.made[0] else "private"] in (True, "private")
    for content in files.values():
        assert b"ada/models" not in content
        assert b"/home" not in content
    cdtool("remove", "dog", "--yes")
    assert cdtool("pull", "ada/dog", "--name", "rex").out == "rex\n"
    rex = registry.find("rex")
    assert rex.manifest.base == BaseRef("mine", "sd1", "f00d" * 8)
    assert rex.manifest.settings == {"prior": "cats"}
    assert rex.manifest.tokens == entry.manifest.tokens


def test_the_tensors_survive(hub, saved, tensors):
    api.push(saved("dog"), "ada/dog", public=True)
    pulled = api.pull("ada/dog", name="twin")
    found = load_file(pulled.path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    with pytest.raises(NameTakenError):
        api.pull("ada/dog")
    assert api.pull("ada/dog", force=True).name == "dog"
    assert [each for each in registry.concepts_dir().iterdir() if each.name.startswith(".")] == []


def test_of_several_files_the_concepts_are_known_by_their_headers(cdtool, hub, saved, tmp_path):
    dog = saved("dog").path.read_bytes()
    save_file({"big": torch.zeros(4)}, tmp_path / "model.safetensors")
    model = (tmp_path / "model.safetensors").read_bytes()
    hub.files["ada/pets"] = {"unet/model.safetensors": model, "pets/rex.safetensors": dog}
    assert cdtool("pull", "ada/pets").out == "rex\n"
    assert "GET /ada/pets/resolve/main/unet/model.safetensors" in hub.asked  # its header
    assert "HEAD /ada/pets/resolve/main/unet/model.safetensors" not in hub.asked  # and no download
    hub.files["ada/pets"]["cat.safetensors"] = dog
    with pytest.raises(UsageError, match=r"holds 2 concepts: pets/rex\.safetensors, cat\.safetensors"):
        api.pull("ada/pets")
    assert api.pull("ada/pets", file="cat.safetensors").name == "cat"
    hub.files["ada/model"] = {"model.safetensors": model}
    with pytest.raises(InputError, match="ada/model holds no concept of cdtool"):
        api.pull("ada/model")


def test_a_pulled_file_passes_the_checks_of_an_import(hub, saved, tmp_path):
    dog = saved("dog")
    content, bad = dog.path.read_bytes(), load_file(dog.path)
    concept.write(tmp_path / "new.safetensors", replace(dog.manifest, format=9), bad)
    hub.files["eve/dog"] = {"dog.safetensors": (tmp_path / "new.safetensors").read_bytes()}
    with pytest.raises(ConceptError, match="format 9"):
        api.pull("eve/dog", name="bad")
    bad["unet.mid.attn2.to_k.weight"][0, 0] = float("nan")
    concept.write(tmp_path / "nan.safetensors", dog.manifest, bad)
    hub.files["eve/dog"] = {"dog.safetensors": (tmp_path / "nan.safetensors").read_bytes()}
    with pytest.raises(ConceptError, match="not finite"):
        api.pull("eve/dog", name="bad")
    hub.files["eve/dog"] = {"dog.safetensors": b"\xff" * 200}
    with pytest.raises(InputError, match="damaged or no safetensors file"):
        api.pull("eve/dog", name="bad")
    hub.files["eve/dog"] = {"../../dog.safetensors": content}
    with pytest.raises((InputError, ResourceError, NotFoundError, UsageError)):
        api.pull("eve/dog", name="bad")
    assert registry.names() == ["dog"]


def test_what_the_hub_does_not_do_is_said(cdtool, hub, saved, monkeypatch):
    saved("dog")
    missing = cdtool("pull", "ada/nothing")
    assert (missing.code, "The hub has no ada/nothing that you may see" in missing.err) == (3, True)
    hub.refuse = 403
    refused = cdtool("push", "dog", "ada/dog")
    assert (refused.code, "does not let you" in refused.err, "hf auth login" in refused.err) == (5, True, True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing answers
    gone = cdtool("pull", "ada/dog")
    assert (gone.code, "when you are online" in gone.err) == (5, True)
    assert cdtool("push", "dog", "dog").code == 2
    assert cdtool("pull", "https://x/y").code == 2
    assert cdtool("push", "dog", "ada/dog", "--licence", "do what you want!").code == 2


def test_nothing_is_asked_of_the_network_where_the_concept_is_there(cdtool, hub, saved):
    saved("dog")
    done = cdtool("pull", "ada/dog", "--if-missing")
    assert (done.code, done.out, hub.asked) == (0, "dog\n", [])
