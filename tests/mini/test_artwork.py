"""Getting the artwork: what is there is not fetched again, what is missing is named."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from cdtool.mini.factory import art, artwork


@pytest.fixture
def archived(tmp_path):
    """Write an npm archive with one file in it."""

    def write(name, inside, content):
        with tarfile.open(tmp_path / name, "w:gz") as tar:
            member = tarfile.TarInfo(inside)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        return tmp_path / name

    return write


def test_an_archive_at_hand_is_not_fetched_again(archived, tmp_path, monkeypatch):
    kept = archived("twemoji-svg-15.0.0.tgz", "package/1f415.svg", b"<svg/>")
    monkeypatch.setattr(artwork.subprocess, "run", lambda *_, **__: pytest.fail("fetched"))
    assert artwork.pack(artwork.TWEMOJI[0], tmp_path) == kept
    assert (artwork.unpack(kept, tmp_path) / "package" / "1f415.svg").read_text() == "<svg/>"


def test_a_missing_archive_is_asked_of_npm_by_name(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(artwork.subprocess, "run", lambda command, check: asked.append((command, check)))
    path = artwork.pack("@lobehub/fluent-emoji-3d@1.1.0", tmp_path / "new")
    assert path == tmp_path / "new" / "lobehub-fluent-emoji-3d-1.1.0.tgz"
    ((command, check),) = asked
    assert command[:3] == ["npm", "pack", "@lobehub/fluent-emoji-3d@1.1.0"]
    assert check


def test_without_the_font_its_package_is_named_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(art, "NOTO_FONT", tmp_path / "none.ttf")
    with pytest.raises(FileNotFoundError, match=artwork.FONT):
        next(artwork.make(tmp_path))


def test_drawings_are_found_by_code_point_cropped_and_kept(tmp_path, monkeypatch):
    picture = np.zeros((40, 60, 4), np.uint8)
    picture[10:20, 10:50] = (200, 30, 30, 255)
    Image.fromarray(picture).save(tmp_path / "26f5-fe0f.webp", lossless=True)
    monkeypatch.setattr(art, "NOUNS", {"boat": ("f26f5 o-arch", "o-fence")})
    monkeypatch.setattr(art.ImageFont, "truetype", lambda *_: None)
    cutouts = art.collect(tmp_path, tmp_path)
    assert cutouts["f26f5"].shape == (28, 112, 4)
    assert cutouts["f26f5"][14, 56].tolist() == [200, 30, 30, 255]
    art.save(cutouts, tmp_path / "art.npz")
    back = art.load(tmp_path / "art.npz")
    assert back.keys() == {"f26f5", "o-arch", "o-fence"}
    assert all(np.array_equal(back[name], cutouts[name]) for name in back)
