"""Charts: where marks lie in a page's own colours, bars as long as their means, heat where the map is high."""

from __future__ import annotations

import re

import numpy as np
import pytest
from htmlpages import Page
from PIL import Image

from cdtool.errors import NotFoundError, UsageError
from cdtool.reports import charts
from cdtool.reports.charts import Mark


def places(svg):
    """Where each mark lies, in the order in which they were given: the use of its shape."""
    found = re.findall(r"<g><title>([^<]*)</title>.*?<use [^>]*x=\"([\d.]+)\" y=\"([\d.]+)\"", svg, re.DOTALL)
    return {label: (float(x), float(y)) for label, x, y in found}


def test_higher_is_up_and_more_is_right():
    base, own = Mark("base <1>", 0.2, 2.0, False), Mark("own", 0.4, 1.7, True)
    svg = charts.scatter([base, own], [(base, own)], "image & more", "text", "words & more")
    (left, high), (right, low) = places(svg)["base &lt;1&gt;"], places(svg)["own"]
    assert left < right
    assert high < low
    page = Page(svg)
    assert page.all("svg")[0]["aria-label"] == "words & more"
    assert "image & more" in page.text
    assert not page.faults


def test_marks_are_linear_in_their_values_and_inside():
    marks = [Mark(str(n), n**2, -n, n % 2 == 0) for n in range(9)]
    svg = charts.scatter(marks, [], "x", "y", "text")
    found = [places(svg)[str(n)] for n in range(9)]
    width, height = map(float, Page(svg).all("svg")[0]["viewbox"].split()[2:])
    assert all(0 < x < width and 0 < y < height for x, y in found)
    assert np.polyfit([mark.x for mark in marks], [x for x, _ in found], 1, full=True)[1][0] < 1e-3
    assert np.polyfit([mark.y for mark in marks], [y for _, y in found], 1, full=True)[1][0] < 1e-3


def test_one_mark_alone_has_axes_too():
    assert places(charts.scatter([Mark("one", 0.5, 0.5, True)], [], "x", "y", "text")).keys() == {"one"}


def test_a_curve_goes_through_its_points_in_order():
    svg = charts.curve([(100, 0.5), (0, 0.1), (50, 0.4)], "steps", "image", "text")
    line = re.search(r'<g id="line">\s*<path d="([^"]+)"', svg)[1]
    drawn = [tuple(map(float, pair)) for pair in re.findall(r"[ML] ([\d.]+) ([\d.]+)", line)]
    assert drawn == sorted(drawn)
    np.testing.assert_allclose(drawn, list(places(svg).values()), atol=1e-3)
    assert list(places(svg)) == ["steps 0: 0.100", "steps 50: 0.400", "steps 100: 0.500"]


def test_a_chart_has_the_colours_of_its_page_fetches_nothing_and_is_always_the_same():
    marks = [Mark("a", 0, 0, True), Mark("b", 1, 1, False)]
    svg, again = (charts.scatter(marks, [(marks[1], marks[0])], "x", "y", "text") for _ in range(2))
    assert svg == again
    assert {name for name in charts._PAGE if f"var(--{name})" in svg} == set(charts._PAGE)
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)
    assert "font-family" not in svg
    assert not Page(svg).fetched


# ---------------------------------------------------------------- files


def blue(image):
    """Lengths in px of the bars, from the top."""
    wanted = np.array([int(charts._BLUE[at : at + 2], 16) for at in (1, 3, 5)])
    rows = (np.abs(np.asarray(image).astype(int) - wanted) < 3).all(axis=2).sum(axis=1)
    starts = np.flatnonzero((rows > 0) & (np.roll(rows, 1) == 0))
    return [int(rows[start + 10]) for start in starts]


def test_bars_are_in_proportion_to_their_means():
    groups = {"one": [0.1, 0.3], "two": [0.4], "three": [0.05, 0.05, 0.05]}
    lengths = blue(charts.bars("title", groups, "change"))
    assert len(lengths) == 3
    np.testing.assert_allclose(np.array(lengths) / lengths[1], np.array([0.2, 0.4, 0.05]) / 0.4, atol=0.02)


def test_nothing_changed_and_nothing_there_are_drawn_too():
    assert min(charts.bars("title", {"one": [0.0, 0.0], "two": []}, "change").size) > 200


@pytest.mark.parametrize("ending", charts.SUFFIXES)
def test_plots_are_written_in_each_format(tmp_path, ending):
    path = tmp_path / f"plot{ending}"
    charts.spectra("dog", {"mid.to_k.x": [3.0, 1.0], "mid.to_v.x": [2.0, 0.5], "other": [0.0]}, path)
    assert path.stat().st_size > 1000
    charts.size_and_error("dog", [(0.5, 10**6, 0.5), (0.9, 3 * 10**6, 0.1)], path)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_where_a_plot_cannot_go_is_told_before(tmp_path):
    with pytest.raises(UsageError, match=r"\.gif"):
        charts.check(tmp_path / "a.gif")
    with pytest.raises(NotFoundError):
        charts.check(tmp_path / "no" / "a.png")


def test_heat_is_where_the_map_is():
    values = np.zeros((4, 4), np.float32)
    values[0, 3] = 0.2
    warm = np.asarray(charts.heat(Image.new("RGB", (16, 16), "white"), values, side=64), dtype=int)
    assert warm.shape == (64, 64, 3)
    assert tuple(warm[2, 61]) == (255, 230, 30)
    cold = warm[40, 10]
    assert cold[0] == cold[1] == cold[2] < 200
    assert charts.heat(Image.new("RGB", (32, 16)), values, side=64).size == (128, 64)


def test_an_empty_map_is_the_picture_in_grey():
    plain = np.asarray(charts.heat(Image.new("RGB", (8, 8), "white"), np.zeros((2, 2), np.float32), side=8))
    assert (plain == plain[0, 0]).all()
