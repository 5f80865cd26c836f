"""Files of prompts, read as every command reads them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from cdtool import files
from cdtool.errors import InputError, NotFoundError

FILE = "# two of them\na {} at sea\n\n  # not this one\n\t  the # beach  \r\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "prompts.txt"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_prompt_a_line_without_comments(path, encoding):
    path.write_bytes((FILE + "crème brûlée").encode(encoding))
    assert files.read_prompts(path) == ["a {} at sea", "the # beach", "crème brûlée"]


def test_a_dash_is_standard_input(path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(FILE))
    assert files.read_prompts(Path("-")) == ["a {} at sea", "the # beach"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\x00a"), encoding="utf-8"))
    with pytest.raises(InputError, match="of standard input are not UTF-8"):
        files.read_prompts(Path("-"))


@pytest.mark.parametrize("content", [b"", b"# nothing\n \n"])
def test_a_file_without_prompts_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"There is no prompt in .*prompts\.txt"):
        files.read_prompts(path)


def test_what_is_no_text_is_refused_in_one_sentence(path, tmp_path):
    with pytest.raises(NotFoundError, match=r"There is no file of prompts .*prompts\.txt"):
        files.read_prompts(path)
    with pytest.raises(InputError, match="is a folder"):
        files.read_prompts(tmp_path)
    path.write_bytes(b"a dog\n\xff\xfe\x00a")
    with pytest.raises(InputError, match="are not UTF-8"):
        files.read_prompts(path)
    with pytest.raises(InputError, match=r"cannot be read \(Not a directory\)"):
        files.read_prompts(path / "deeper.txt")


@pytest.mark.parametrize("command", ["sample", "eval"])
def test_every_command_says_the_same(cdtool, saved, path, tmp_path, command):
    saved("dog")
    Image.new("RGB", (40, 40)).save(tmp_path / "1.png")
    photos = ("--photos", tmp_path) if command == "eval" else ()
    lost = cdtool(command, "dog", "--prompts", path, *photos)
    folder = cdtool(command, "dog", "--prompts", tmp_path, *photos)
    path.touch()
    empty = cdtool(command, "dog", "--prompts", path, *photos)
    told = [f"no file of prompts {path}", f"{tmp_path} is a folder", f"no prompt in {path}"]
    for said, code, sentence in zip((lost, folder, empty), (3, 4, 4), told, strict=True):
        assert (said.code, said.out) == (code, "")
        assert sentence in " ".join(said.err.split())
