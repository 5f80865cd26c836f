"""Plots of a concept's matrices: their singular values, and size against error."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdtool.errors import NotFoundError, ResourceError, UsageError
from cdtool.files import workplace

SUFFIXES = (".png", ".pdf", ".svg")
_KINDS = {".to_k.": ("keys", "#1f6fb4"), ".to_v.": ("values", "#d1622b")}
_OTHER = ("other", "#6b6b6b")
_GREY = "#555555"


def check(path: Path) -> None:
    """Whether a plot can be written there, told before the work: UsageError, NotFoundError or ResourceError."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f'"{path}" is no picture this can write.', f"End its name in {' or '.join(SUFFIXES)}.")
    if not path.absolute().parent.is_dir():
        raise NotFoundError(f"There is no folder {path.parent} for the plot.", "Make it, or choose another.")
    if importlib.util.find_spec("matplotlib") is None:
        raise ResourceError("Plots need matplotlib, which is not installed.", 'Install it: pip install "cdtool[eval]"')


def spectra(name: str, values: Mapping[str, Sequence[float]], path: Path) -> None:
    """The paper's figure 14: singular values of each matrix over its largest, falling, keys and values apart."""
    figure, axes = _empty(f"{name}: singular values of the change of each matrix", "rank", "share of the largest")
    told = set()
    for matrix, falling in values.items():
        kind, colour = next((look for part, look in _KINDS.items() if part in matrix), _OTHER)
        largest = max(falling) or 1.0
        axes.plot(
            range(1, len(falling) + 1), [value / largest for value in falling], color=colour, alpha=0.45, linewidth=1,
            label=None if kind in told else kind,
        )  # fmt: skip
        told.add(kind)
    axes.set_ylim(0, 1.03)
    axes.set_xlim(0, None)
    legend = axes.legend(frameon=False)
    for handle in legend.legend_handles:
        handle.set(alpha=1, linewidth=2)
    _save(figure, path)


def curve(name: str, points: Sequence[tuple[float, int, float]], path: Path) -> None:
    """Error against size for (share, bytes, error) points, each labelled with its share of the spectrum."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    labels: dict[tuple[int, float], list[str]] = {}
    for share, size, error in points:
        labels.setdefault((size, error), []).append(f"{share:.0%}")  # shares below the first rank coincide
    figure, axes = _empty(f"{name}: size and error by share of the spectrum", "size, MB", "relative error")
    sizes, errors = [size / 1e6 for size, _ in labels], [error for _, error in labels]
    axes.plot(sizes, errors, color=_KINDS[".to_k."][1], marker="o", markersize=4.5, linewidth=1.4)
    for shares, point in zip(labels.values(), zip(sizes, errors, strict=True), strict=True):
        axes.annotate(", ".join(shares), point, xytext=(6, 5), textcoords="offset points", fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.2, max(sizes) * 1.6)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(-0.02, max(errors) * 1.12 + 0.02)
    _save(figure, path)


def _empty(title: str, across: str, up: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no window, nothing global to close

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
    with workplace(path.absolute().parent) as work:
        figure.savefig(work / path.name, dpi=160)
        (work / path.name).replace(path)
