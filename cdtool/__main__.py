"""`python -m cdtool` is `cdtool`."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Run the command line; Ctrl-C or SIGTERM while it is still being loaded ends it with the same word and code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from cdtool import cli
        from cdtool.cli import threads
        from cdtool.models import libraries

        libraries.alone = True
        threads.set_wait_policy()
        return cli.main()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
