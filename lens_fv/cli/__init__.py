"""Let me run it: the command line, a thin skin over the library."""

import sys


def main() -> None:
    """The command `lens-fv`."""
    try:
        from lens_fv.cli.app import run_app
    except KeyboardInterrupt:
        sys.stderr.write("lens-fv: interrupted before it began\n")
        sys.exit(130)
    run_app()
