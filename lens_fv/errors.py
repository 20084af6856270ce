"""The one exception that lens_fv raises deliberately."""


class LensFVError(Exception):
    """An error that the user can act on.

    The one-line message states the request, what was found (names, shapes) and what to do about it. The command line
    prints exactly that line and exits with code 2.

    Example:
        >>> try:
        ...     lens_fv.load_task('antonyms')
        ... except lens_fv.LensFVError as error:
        ...     print(str(error).partition(':')[0])
        unknown task 'antonyms'
    """
