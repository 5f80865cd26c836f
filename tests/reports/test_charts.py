"""Charts: where marks and ticks lie."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from htmlpages import Page

from cdtool.reports import charts
from cdtool.reports.charts import Axis, Mark


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.31, 0.12), (1.64, 1.99), (0, 250), (-3, 1e4), (0.5, 0.5001)])
def test_ticks_are_round_evenly_apart_and_inside(low, high):
    found = charts.ticks(low, high)
    steps = {round((b - a) / (found[1] - found[0]), 6) for a, b in itertools.pairwise(found)}
    step = found[1] - found[0]
    lead = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert steps == {1.0}
    assert any(lead == pytest.approx(round_one) for round_one in (1, 2, 5, 10))
    assert low - 1e-9 <= found[0]
    assert found[-1] <= high + 1e-9
    assert low > found[0] - step
    assert high < found[-1] + step


def test_an_axis_is_linear_either_way():
    axis = Axis("y", 1, 3, 300, 100)
    assert [axis.at(value) for value in (1, 2, 3)] == [300, 200, 100]


def places(svg):
    circles = [(float(one["cx"]), float(one["cy"])) for one in Page(svg).all("circle")]
    squares = [
        (float(one["x"]) + float(one["width"]) / 2, float(one["y"]) + float(one["height"]) / 2)
        for one in Page(svg).all("rect")
    ]
    return circles, squares


def test_higher_is_up_and_more_is_right_and_lines_join_the_marks():
    base, own = Mark("base <1>", 0.2, 2.0, False), Mark("own", 0.4, 1.7, True)
    svg = charts.scatter([base, own], [(base, own)], "image", "text", "words & more")
    [(right, low)], [(left, high)] = places(svg)
    assert left < right
    assert high < low
    (move,) = [one for one in Page(svg).all("line") if one["class"] == "move"]
    assert [float(move[key]) for key in ("x1", "y1", "x2", "y2")] == pytest.approx([left, high, right, low], abs=0.01)
    assert "<title>base &lt;1&gt;</title>" in svg
    assert Page(svg).all("svg")[0]["aria-label"] == "words & more"
    assert not Page(svg).faults


def test_all_marks_stay_inside_the_frame():
    marks = [Mark(str(place), place**2, -place, place % 2 == 0) for place in range(9)]
    circles, squares = places(charts.scatter(marks, [], "x", "y", "told"))
    assert len(circles + squares) == 9
    assert all(0 < x < charts.WIDTH and 0 < y < charts.HEIGHT for x, y in circles + squares)


def test_one_mark_alone_has_axes_too():
    assert places(charts.scatter([Mark("one", 0.5, 0.5, True)], [], "x", "y", "told"))[0]


def test_a_curve_goes_through_its_points_in_order():
    svg = charts.curve([(100, 0.5), (0, 0.1), (50, 0.4)], "steps", "image", "told")
    (path,) = Page(svg).all("path")
    drawn = [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", path["d"])]
    assert drawn == sorted(drawn) == places(svg)[0]
    assert "steps 50: 0.400" in svg


def test_an_interval_lies_beside_its_zero():
    lines = Page(charts.interval(0.2, 0.1, 0.3, 0.4)).all("line")
    (zero,) = [one for one in lines if one["class"] == "zero"]
    (reach,) = [one for one in lines if one["class"] == "reach"]
    assert float(zero["x1"]) == 80
    assert [float(reach["x1"]), float(reach["x2"])] == [80 + 76 / 4, 80 + 76 * 3 / 4]
