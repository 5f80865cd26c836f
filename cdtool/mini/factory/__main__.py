"""Make the embedded base: `python -m cdtool.mini.factory [STAGE ...]`; every stage goes on where it stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from cdtool.mini.factory.stages import STAGES, Workshop


def main() -> None:
    """Run the stages named on the command line, all of them by default."""
    options = argparse.ArgumentParser(prog="python -m cdtool.mini.factory", description=__doc__)
    options.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; all by default")
    options.add_argument("--folder", type=Path, default=Path("build"), help="where the work lies")
    options.add_argument("--minutes", type=float, default=float("inf"), help="stop each stage after so long")
    options.add_argument("--threads", type=int, default=0, help="CPU threads to use")
    options.add_argument("--shards", type=int, default=50, help="shards of 10,000 pictures in the bank")
    options.add_argument("--name", default="student", help="of the denoiser's training")
    chosen = options.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    if unknown := set(chosen.stages) - set(STAGES):
        options.error(f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    shop = Workshop(chosen.folder, chosen.minutes, chosen.shards, chosen.name)
    for stage in chosen.stages or STAGES:
        for report in STAGES[stage](shop):
            print(f"{report.name} {report.pictures:,} loss {report.loss:.4f}, {report.speed:.0f} a second", flush=True)


if __name__ == "__main__":
    main()
