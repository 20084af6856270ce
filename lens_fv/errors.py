"""The one exception that lens_fv raises on purpose."""


class LensFVError(Exception):
    """Something the user can act on.

    A message says what was asked, what was found (names, shapes) and what to do about it, in one line: the command line
    prints exactly that line and exits with code 2.
    """
