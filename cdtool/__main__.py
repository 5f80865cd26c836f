"""`python -m cdtool` is `cdtool`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; Ctrl-C while it is still being loaded ends it without a traceback."""
    try:
        from cdtool import cli
        from cdtool.models import libraries

        libraries.alone = True
        return cli.main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
