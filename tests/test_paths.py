"""Text from users as paths: what cannot be one is refused once and names no file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdtool import paths
from cdtool.errors import InputError


@pytest.mark.parametrize("text", ["x" * 300, "a\0b", "~nobody-of-that-name/x", ""])
def test_text_that_is_no_path_names_no_file(text):
    path = paths.user_path(text) if "\0" not in text else text
    assert not paths.is_file(path)


NO_PATHS = ["x" * 300, "x/" * 3000, "a\0b", "~\0", "\ud800"]


@pytest.mark.parametrize("text", NO_PATHS)
def test_what_cannot_be_a_path_is_refused_once_and_exists_nowhere(text):
    path = paths.user_path(text)
    assert not any(there(path) for there in (paths.exists, paths.is_file, paths.is_dir))
    with pytest.raises(InputError, match="cannot be a path"):
        paths.check_path(path)


@pytest.mark.parametrize("text", ["~nobody-of-this-name/x", "x", "no/such/folder", "x" * 255, "犬"])
def test_what_may_be_a_path_stays_what_it_is(text):
    paths.check_path(paths.user_path(text))
    assert str(paths.user_path(text)) == text


def test_one_function_reads_the_paths_that_users_write():
    package = Path(paths.__file__).parent
    texts = {path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    ours = {name: text for name, text in texts.items() if not name.startswith("mini/factory")}
    assert [name for name, text in ours.items() if "expanduser" in text] == ["paths.py"]
