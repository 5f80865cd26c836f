"""The flags of cdtool eval that choose scores: which ones, against what, and what they have to reach."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cdtool.errors import UsageError

if TYPE_CHECKING:
    from cdtool.evaluation.metrics import MetricRequest

Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics", metavar="LIST", help="Of text, image, dino, kid, fid, with commas.  [default: text,image]"
    ),
]
Forgetting = Annotated[
    bool, typer.Option("--forgetting", help="Also how far plain and unrelated pictures moved, and what leaked.")
]
Sheet = Annotated[
    Path | None,
    typer.Option("--sheet", metavar="FILE", help="Also write what --forgetting looked at, base above concept."),
]
Kid = Annotated[
    Path | None,
    typer.Option("--kid", metavar="DIR", help="KID against these: class pictures, or a captioned corpus."),
]
Fid = Annotated[
    Path | None,
    typer.Option("--fid", metavar="DIR", help="FID against these: a captioned corpus, such as COCO's folder."),
]
FidCount = Annotated[
    int | None, typer.Option("--fid-count", metavar="N", min=3, help="Pictures drawn for FID.  [default: 100]")
]
Encoder = Annotated[
    str | None, typer.Option("--encoder", metavar="CLIP", help="Another CLIP to measure with: a hub id or folder.")
]
Least = Annotated[
    str, typer.Option("--min", metavar="LIST", help="Exit with 6 for a score below, like text=0.7,image=0.6.")
]
Most = Annotated[
    str, typer.Option("--max", metavar="LIST", help="Exit with 6 for a score above, like kid=30,leak=0.05.")
]


@dataclass(frozen=True)
class Asked:
    """The values of these flags."""

    metrics: str | None = None
    forgetting: bool = False
    sheet: Path | None = None
    kid: Path | None = None
    fid: Path | None = None
    fid_count: int | None = None
    encoder: str | None = None
    least: str = ""
    most: str = ""

    def wanted(self, metrics: str | None = None) -> MetricRequest:
        """The scores asked for; `metrics` take the place of --metrics, and --kid and --fid ask for their metric too.

        Raises UsageError for an unknown metric and for flags that belong to nothing.
        """
        from cdtool.evaluation.metrics import MetricRequest, metric_names

        if self.sheet is not None and not self.forgetting:
            raise UsageError("--sheet shows what --forgetting looked at.", "Add --forgetting.")
        listed = metrics or self.metrics
        names = metric_names(listed) if listed is not None else MetricRequest.metrics
        sets = {"kid": self.kid, "fid": self.fid}
        names += tuple(name for name, path in sets.items() if path is not None and name not in names)
        if self.fid_count is not None and "fid" not in names:
            raise UsageError("--fid-count is about FID, which is not measured.", "Add fid to --metrics.")
        return MetricRequest(
            names, self.forgetting, self.kid, self.fid, self.fid_count or MetricRequest.fid_count, self.encoder or ""
        )
