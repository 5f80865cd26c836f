"""Attack everything that cdtool reads: `python -m tests.attack [--cases N] [--seed N] [AREA...]` prints the table."""

from __future__ import annotations

import argparse
import collections
import os
import re
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.attack import areas
from tests.attack.areas import Ground, attack
from tests.attack.places import PLACES

AREAS = areas.AREAS | PLACES


def main() -> int:
    reader = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    reader.add_argument("areas", nargs="*", metavar="AREA", help=f"of: {', '.join(AREAS)}; all unless given")
    reader.add_argument("--cases", type=int, default=1000, help="of each area; each goes through several commands")
    reader.add_argument("--seed", type=int, default=0)
    reader.add_argument("--show", type=int, default=3, help="examples of each way to fall")
    chosen = reader.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    whole = 0
    for name in chosen.areas or AREAS:
        with tempfile.TemporaryDirectory() as folder:
            os.environ.pop("CDTOOL_HOME", None)
            ground, began = Ground(Path(folder)), time.monotonic()
            attack(AREAS[name], ground, chosen.cases, chosen.seed)
        print(f"| {name} | {ground.tried} | {len(ground.fallen)} | {time.monotonic() - began:.0f} s |", flush=True)
        ways = collections.defaultdict(list)
        for text in ground.fallen:
            ways[re.findall(r"\w*(?:Error|Exception|Exit)\b.*|$", text)[-1][:80] or text[-80:]].append(text)
        for way, texts in ways.items():
            print(f"  {len(texts)} x {way}", file=sys.stderr)
            for text in texts[: chosen.show]:
                print(f"      {text}", file=sys.stderr, flush=True)
        whole += len(ground.fallen)
    return int(whole > 0)


if __name__ == "__main__":
    sys.exit(main())
