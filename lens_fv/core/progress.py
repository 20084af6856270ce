"""Progress of long runs: a bar in a terminal or notebook, log lines elsewhere, or nothing."""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import monotonic
from typing import Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SHARE = 0.1
LONGEST, SHORTEST = 30.0, 2.0
"""Maximum and minimum seconds between log lines. In between, a line is due after each tenth of the work."""
_log = logging.getLogger(__name__)


@contextmanager
def progress_bar(what: str, total: int, *, show: bool) -> Generator[Callable[[], None], None, None]:
    """Yield a function that advances the bar by one step.

    The bar goes to standard error, so that a command's output stays clean, and disappears when done. In a notebook it
    appears below the cell. If standard error is not a terminal, lines go to the log, at most every 2 seconds. With
    `show=False` nothing is shown.
    """
    console = Console(stderr=True)
    if not show:
        yield lambda: None
    elif console.is_jupyter:
        with _in_notebook(what, total) as tick:
            yield tick
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
    else:
        yield _in_log(what, total)


def _in_log(what: str, total: int) -> Callable[[], None]:
    """Count steps and log the count from time to time."""
    done, said = 0, 0
    begun = last = monotonic()

    def tick() -> None:
        nonlocal done, said, last
        done += 1
        now = monotonic()
        if now - last >= (SHORTEST if done - said >= SHARE * total else LONGEST):
            left = (now - begun) / done * (total - done)
            _log.info("%s: %d of %d, about %s left", what, done, total, _time(left))
            said, last = done, now

    return tick


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


@contextmanager
def _in_notebook(what: str, total: int) -> Generator[Callable[[], None], None, None]:
    """An HTML bar below the cell. Rich's own needs ipywidgets; without it Rich warns and draws nothing."""
    from html import escape

    from IPython.display import HTML, display  # pyright: ignore[reportMissingImports,reportUnknownVariableType]

    done, last = 0, monotonic()

    def shown() -> Any:
        said = f"{escape(what)} <progress value='{done}' max='{total}'></progress> {done}/{total}"
        return HTML(said)  # pyright: ignore[reportUnknownVariableType]

    bar = cast(Any, display(shown(), display_id=True))

    def tick() -> None:
        nonlocal done, last
        done += 1
        if (now := monotonic()) - last >= 0.2:
            last = now
            bar.update(shown())

    try:
        yield tick
    finally:
        bar.update(HTML(""))
