"""Let me run it: the command line, a thin skin over the library."""


def main() -> None:
    """The command `lens-fv`."""
    from lens_fv.cli.app import run_app

    run_app()
