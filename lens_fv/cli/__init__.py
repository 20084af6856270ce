"""Command line: a thin layer over the library."""

import signal
import sys


def main() -> None:
    """Run the command `lens-fv` and exit with its code."""
    try:
        from lens_fv.cli.app import execute
    except KeyboardInterrupt:
        sys.stderr.write("lens-fv: interrupted before it began\n")
        sys.exit(130)
    code = execute()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing left to interrupt
    sys.exit(code)
