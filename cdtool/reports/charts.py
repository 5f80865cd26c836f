"""Every chart, by matplotlib: SVG inside a page, in the page's own colours, and figures as files."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from cdtool.errors import NotFoundError, UsageError
from cdtool.files import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".png", ".pdf", ".svg")
_BLUE, _ORANGE, _GREY = "#1f6fb4", "#d1622b", "#555555"
_KINDS = {".to_k.": ("keys", _BLUE), ".to_v.": ("values", _ORANGE)}
_OTHER = ("other", "#6b6b6b")
# Colours that stand for the page's own, so that a chart is legible on a dark page too.
_PAGE = {"first": "#010101", "second": "#020202", "soft": "#030303", "line": "#040404", "text": "#050505",
         "ground": "#060606"}  # fmt: skip
_ROOM = 0.08  # of the data's range, left free beside it
_DIMMED = 0.55  # how much of the image's brightness stays under a heat map


# ---------------------------------------------------------------- inside a page


@dataclass(frozen=True)
class Mark:
    """A point: its tooltip, where it lies, and its series; a mean is larger."""

    label: str
    x: float
    y: float
    first: bool  # of the first series, else of the second
    is_mean: bool = False


def scatter(marks: Sequence[Mark], moves: Sequence[tuple[Mark, Mark]], across: str, up: str, text: str) -> Markup:
    """Marks in the plane, with a line for each move from one to another; `text` says in words what is seen."""
    figure, axes = _page_axes(across, up, height=3.6)
    for a, b in moves:
        width, alpha = (2.0, 1.0) if a.is_mean else (1.0, 0.45)
        axes.plot([a.x, b.x], [a.y, b.y], color=_PAGE["soft"], linewidth=width, alpha=alpha, clip_on=False)
    for number, mark in enumerate(marks):
        _dot(axes, mark, f"mark{number}")
    _limits(axes, [mark.x for mark in marks], [mark.y for mark in marks])
    return _svg(figure, text, {f"mark{number}": mark.label for number, mark in enumerate(marks)})


def curve(points: Sequence[tuple[float, float]], across: str, up: str, text: str, *, first: bool = True) -> Markup:
    """A line through points in the order of x, each with its values as a tooltip."""
    ordered = sorted(points)
    figure, axes = _page_axes(across, up, height=2.6)
    x, y = [point[0] for point in ordered], [point[1] for point in ordered]
    axes.plot(x, y, color=_PAGE["first" if first else "second"], linewidth=2, clip_on=False, gid="line")
    labels = {f"mark{number}": f"{across} {px:g}: {py:.3f}" for number, (px, py) in enumerate(ordered)}
    for name, (px, py) in zip(labels, ordered, strict=True):
        _dot(axes, Mark("", px, py, first), name)
    _limits(axes, x, y)
    return _svg(figure, text, labels)


def _page_axes(across: str, up: str, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no window, nothing global to close

    figure = Figure(figsize=(4.8, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(across, color=_PAGE["text"], fontsize=10)
    axes.set_ylabel(up, color=_PAGE["text"], fontsize=10)
    axes.spines[:].set_visible(False)
    axes.grid(color=_PAGE["line"], linewidth=0.8, clip_on=False)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=9, labelcolor=_PAGE["soft"])
    axes.locator_params(nbins=6)
    return figure, axes


def _limits(axes: Any, x: Sequence[float], y: Sequence[float]) -> None:
    for values, set_limits in ((x, axes.set_xlim), (y, axes.set_ylim)):
        room = _ROOM * (max(values) - min(values)) or 0.05
        set_limits(min(values) - room, max(values) + room)


def _dot(axes: Any, mark: Mark, name: str) -> None:
    """A circle for the first series and a diamond for the second: another shape as well as another colour."""
    size = 11 if mark.is_mean else 6.5
    axes.plot(
        [mark.x], [mark.y], marker="o" if mark.first else "D", markersize=size if mark.first else size * 0.85,
        color=_PAGE["first" if mark.first else "second"], markeredgecolor=_PAGE["ground"],
        markeredgewidth=1.4 if mark.is_mean else 0.8, clip_on=False, gid=name, zorder=3 + mark.is_mean,
    )  # fmt: skip


def _svg(figure: Any, text: str, labels: Mapping[str, str]) -> Markup:
    """The figure as an element of a page: its texts are text, its colours the page's, nothing is fetched."""
    import matplotlib

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": text}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    head = f'<svg class="chart" role="img" aria-label="{escape(text)}" viewBox="{_viewbox(svg)}">'
    svg = head + svg[svg.index(">") + 1 :]
    svg = re.sub(r"<style type=\"text/css\">.*?</style>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]+;? ?", "", svg)  # in the page's own
    svg = re.sub(r'<g id="(figure|patch|axes|[xy]tick|line2d|text|matplotlib)[^"]*"', "<g", svg)  # ids are a page's own
    for name, colour in _PAGE.items():
        svg = svg.replace(colour, f"var(--{name})")
    for name, label in labels.items():
        svg = svg.replace(f'<g id="{name}">', f"<g><title>{escape(label)}</title>", 1)
    return Markup(svg)  # matplotlib escapes its texts, and ours are escaped above


def _viewbox(svg: str) -> str:
    found = re.search(r'viewBox="([^"]+)"', svg)
    assert found is not None
    return found[1]


# ---------------------------------------------------------------- files


def check(path: Path) -> None:
    """Whether a plot can be written there, told before the work: UsageError or NotFoundError."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f'"{path}" is no picture this can write.', f"End its name in {' or '.join(SUFFIXES)}.")
    if not path.absolute().parent.is_dir():
        raise NotFoundError(f"There is no folder {path.parent} for the plot.", "Make it, or choose another.")


def spectra(name: str, values: Mapping[str, Sequence[float]], path: Path) -> None:
    """The paper's figure 14: singular values of each matrix over its largest, falling, keys and values apart."""
    figure, axes = _axes(f"{name}: singular values of the change of each matrix", "rank", "share of the largest")
    named = set()
    for matrix, falling in values.items():
        kind, colour = next((look for part, look in _KINDS.items() if part in matrix), _OTHER)
        largest = max(falling) or 1.0
        axes.plot(
            range(1, len(falling) + 1), [value / largest for value in falling], color=colour, alpha=0.45, linewidth=1,
            label=None if kind in named else kind,
        )  # fmt: skip
        named.add(kind)
    axes.set_ylim(0, 1.03)
    axes.set_xlim(0, None)
    legend = axes.legend(frameon=False)
    for handle in legend.legend_handles:
        handle.set(alpha=1, linewidth=2)
    _save(figure, path)


def size_and_error(name: str, points: Sequence[tuple[float, int, float]], path: Path) -> None:
    """Error against size for (share, bytes, error) points, each labelled with its share of the spectrum."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    labels: dict[tuple[int, float], list[str]] = {}
    for share, size, error in points:
        labels.setdefault((size, error), []).append(f"{share:.0%}")  # shares below the first rank coincide
    figure, axes = _axes(f"{name}: size and error by share of the spectrum", "size, MB", "relative error")
    sizes, errors = [size / 1e6 for size, _ in labels], [error for _, error in labels]
    axes.plot(sizes, errors, color=_BLUE, marker="o", markersize=4.5, linewidth=1.4)
    for shares, point in zip(labels.values(), zip(sizes, errors, strict=True), strict=True):
        axes.annotate(", ".join(shares), point, xytext=(6, 5), textcoords="offset points", fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.2, max(sizes) * 1.6)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(-0.02, max(errors) * 1.12 + 0.02)
    _save(figure, path)


def bars(title: str, groups: Mapping[str, Sequence[float]], unit: str) -> Image.Image:
    """A horizontal bar per group at the mean of its values, every value a tick on it, on one scale from 0."""
    figure, axes = _axes(title, unit, "")
    names = [f"{name}\n{len(values)} layers" for name, values in groups.items()]
    means = [sum(values) / max(len(values), 1) for values in groups.values()]
    axes.barh(names, means, height=0.5, color=_BLUE)
    for row, (values, mean) in enumerate(zip(groups.values(), means, strict=True)):
        axes.plot(values, [row + 0.36] * len(values), "|", color=_GREY, alpha=0.5, markersize=7)
        axes.annotate(f"{mean:.3g}", (mean, row), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, 1.08 * max((value for values in groups.values() for value in values), default=0.0) or 1.0)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return Image.open(buffer).convert("RGB")


def _axes(title: str, across: str, up: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(across, color=_GREY)
    axes.set_ylabel(up, color=_GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_GREY, length=3)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160)


def heat(image: Image.Image, values: NDArray[np.float32], *, side: int = 256, top: float | None = None) -> Image.Image:
    """A heat map [h, w] over an image in grey, both at `side` px height: zero clear, `top` (or the largest) yellow."""
    size = (round(image.width * side / image.height), side)
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BICUBIC), dtype=np.float32)[..., None]
    strength = values / max(float(values.max(initial=0)) if top is None else top, 1e-12)
    smooth = Image.fromarray(strength.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    share = np.asarray(smooth)[..., None].clip(0, 1)
    colour = np.concatenate([np.full_like(share, 255), 40 + 190 * share, 20 + 10 * share], axis=-1)
    mixed = (1 - share) * grey * _DIMMED + share * colour
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
