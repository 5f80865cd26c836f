"""The words that modifier tokens begin as on bases with CLIP's vocabulary.

    python -m tests.benchmarks.rare_words > cdtool/assets/initializers-clip.txt

The words of that file are the rare entries of the vocabulary (`initializers.rare`) that pictures do not show.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from cdtool.models import initializers
from tests import clip_vocabulary

# Things, brands, people and file formats that captions of pictures name; and what nobody wants to read in `show`.
KNOWN = {
    "bjj", "bmc", "bnp", "brb", "cgc", "crt", "cvs", "dbz", "dmx", "dprk", "drm", "dslr", "dvds", "dvr", "fdr",
    "fgm", "flwx", "fml", "fpv", "gmbh", "gmc", "gtx", "hdd", "hgtv", "hmv", "hpv", "hrh", "hrw", "hsbc", "hsv",
    "jdm", "jpg", "khz", "klm", "kpmg", "ktm", "lbj", "lrt", "lsd", "mbps", "mhz", "mlm", "msl", "ndtv", "npc",
    "pcb", "pff", "pkk", "pms", "psd", "psp", "psst", "rgb", "scp", "sdk", "sfx", "smb", "smd", "spf", "tmnt",
    "tmz", "vfx", "vpn", "xxl",
}  # fmt: skip


def known_rare_words() -> list[str]:
    """The list, most frequent first."""
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = clip_vocabulary.tokenizer(Path(folder)).get_vocab()
    return [word for word in initializers.rare(vocabulary) if word not in KNOWN]


if __name__ == "__main__":
    print("\n".join(known_rare_words()))
