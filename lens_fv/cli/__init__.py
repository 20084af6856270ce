"""Command line: a thin layer over the library."""

import sys


def main() -> None:
    """Run the command `lens-fv`."""
    try:
        from lens_fv.cli.app import run_app
    except KeyboardInterrupt:
        sys.stderr.write("lens-fv: interrupted before it began\n")
        sys.exit(130)
    run_app()
