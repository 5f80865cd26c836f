"""Contact sheets, found again pixel for pixel."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cdtool.images.sheets import GAP, Row, contact_sheet, labelled, stacked


def colour(name, size=(8, 8)):
    return Image.new("RGB", size, name)


def areas(sheet):
    """How many pixels each pure colour has."""
    pixels = np.asarray(sheet).reshape(-1, 3)
    names = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}
    return {name: int((pixels == value).all(axis=1).sum()) for name, value in names.items()}


def test_every_picture_has_its_place_at_the_same_height():
    rows = [Row("two", [colour("red"), colour("lime", (4, 8))]), Row("one", [colour("blue", (16, 8))])]
    sheet = contact_sheet(rows, side=32)
    assert areas(sheet) == {"red": 32 * 32, "lime": 16 * 32, "blue": 64 * 32}
    assert sheet.width == GAP + 64 + GAP  # of the widest row


def test_rows_side_by_side_have_a_line_between_them_at_the_same_place():
    pair = (Row("before", [colour("red")]), Row("after", [colour("lime"), colour("blue")]))
    wide = (Row("before", [colour("red", (16, 8))]), Row("after", [colour("lime")]))
    sheet = np.asarray(contact_sheet([Row("photos", [colour("blue")]), pair, wide], side=32))
    assert areas(Image.fromarray(sheet)) == {"red": 3 * 32 * 32, "lime": 2 * 32 * 32, "blue": 2 * 32 * 32}
    assert sheet.shape[1] == GAP + 64 + GAP + (64 + GAP) + GAP
    line = (sheet == 170).all(axis=2)
    (column,) = np.flatnonzero(line.sum(axis=0) > 64)  # through both pairs
    assert GAP + 64 <= column < GAP + 64 + GAP
    green = np.flatnonzero((sheet == (0, 255, 0)).all(axis=2).any(axis=0))
    assert green.min() == GAP + 64 + GAP


def test_small_pictures_keep_hard_edges_and_large_ones_shrink():
    half = colour("red", (2, 2))
    half.paste((0, 255, 0), (1, 0, 2, 2))
    assert areas(contact_sheet([Row("", [half])], side=64)) == {"red": 32 * 64, "lime": 32 * 64, "blue": 0}
    assert areas(contact_sheet([Row("", [colour("blue", (500, 500))])], side=20))["blue"] == 400


def test_a_long_label_is_cut_to_the_sheet():
    narrow = contact_sheet([Row("a very long prompt indeed " * 9, [colour("red")])], side=64)
    assert narrow.width == 64 + 2 * GAP
    margin = np.asarray(narrow)[:, -GAP // 2 :]
    assert (margin == 255).all()


def test_labelled_pictures_stand_in_rows_of_columns():
    cells = [("one", colour("red")), ("a label far too long for its picture", colour("lime")), ("", colour("blue"))]
    sheet = labelled(cells, side=32, columns=2)
    assert areas(sheet) == {"red": 32 * 32, "lime": 32 * 32, "blue": 32 * 32}
    assert sheet.width == 2 * (32 + GAP) + GAP
    pixels = np.asarray(sheet)
    assert (pixels[GAP + 32 :, 2 * GAP + 64 :] == 255).all()  # no label leaves its column, no third picture
    first = np.flatnonzero((pixels == (0, 0, 255)).all(axis=2).any(axis=1))[0]
    assert first > GAP + 32


def test_sheets_are_stacked_on_white():
    whole = stacked([Image.new("RGB", (4, 2), "red"), Image.new("RGB", (6, 3), "blue")])
    assert whole.size == (6, 5)
    assert [whole.getpixel(place) for place in ((0, 1), (5, 0), (5, 4))] == [(255, 0, 0), (255, 255, 255), (0, 0, 255)]
