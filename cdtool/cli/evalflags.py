"""Options that `cdtool eval`, `suite run` and `study make` share: which scores, and against what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cdtool.cli import options
from cdtool.cli.parsing import BASICS, METHOD
from cdtool.settings import SampleSettings

METRICS = ("text", "image", "dino", "dinov2", "cutout", "rank", "scr", "kid", "fid")
_MOVED = {"--suite": "cdtool suite run SUITE", "--compare": "cdtool study make A B -o FILE.html",
          "--study": "cdtool study make A B -o FILE.html", "--answers": "cdtool study score FILE..."}  # fmt: skip


def complete_metrics(incomplete: str) -> list[str]:
    """Names of metrics, also behind the comma of a list."""
    return options.complete_list(METRICS, incomplete)


def moved(arguments: list[str]) -> str:
    """The command that an old option of `cdtool eval` became, or ""."""
    if arguments[:1] != ["eval"]:
        return ""
    return next((_MOVED[word.partition("=")[0]] for word in arguments if word.partition("=")[0] in _MOVED), "")


Photos = Annotated[
    list[Path] | None,
    typer.Option("--photos", metavar="DIR", rich_help_panel=BASICS, help="Photos to compare with, once per token."),
]
Count = Annotated[
    int | None,
    options.setting(SampleSettings, "count", "--count", "-n", help="Images per prompt.", metavar="N", panel=BASICS),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics", metavar="LIST", rich_help_panel=BASICS, autocompletion=complete_metrics,
        help=f"Of {', '.join(METRICS)}.  [default: text,image]",
    ),
]  # fmt: skip
Kid = Annotated[
    Path | None,
    typer.Option("--kid", metavar="DIR", rich_help_panel=METHOD, help="Real images of the class for KID, or a corpus."),
]
Fid = Annotated[
    Path | None,
    typer.Option("--fid", metavar="DIR", rich_help_panel=METHOD, help="A captioned corpus for FID, such as COCO."),
]
FidCount = Annotated[
    int | None,
    typer.Option(
        "--fid-count", metavar="N", min=3, rich_help_panel=METHOD, help="Images sampled for FID.  [default: 100]"
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option("--encoder", metavar="CLIP", rich_help_panel=METHOD, help="Another CLIP: a hub id or folder."),
]
Lookalikes = Annotated[
    Path | None,
    typer.Option(
        "--lookalikes", metavar="DIR", rich_help_panel=METHOD, help="Folders of look-alikes, for rank and scr."
    ),
]


@dataclass(frozen=True)
class Sampling:
    """How the samples that are scored or shown are generated."""

    count: Count = None
    seed: options.Seed = None
    steps: options.Steps = None
    guidance: options.Guidance = None
    precision: options.Precision = None


@dataclass(frozen=True)
class Scoring:
    """Which scores, and against what."""

    metrics: Metrics = None
    kid: Kid = None
    fid: Fid = None
    fid_count: FidCount = None
    encoder: Encoder = None
    lookalikes: Lookalikes = None
