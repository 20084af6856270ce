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
def progress_bar(description: str, total: int, *, show: bool) -> Generator[Callable[[], None], None, None]:
    """Yield a function that advances the bar by one step.

    The bar goes to standard error, so that a command's output stays clean, and disappears when done. In a notebook it
    appears below the cell. If standard error is not a terminal, lines go to the log, at most every 2 seconds. With
    `show=False` nothing is shown.
    """
    console = Console(stderr=True)
    if not show:
        yield lambda: None
    elif console.is_jupyter:
        with _in_notebook(description, total) as tick:
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
            task = bar.add_task(description, total=total)
            yield lambda: bar.advance(task)
    else:
        yield _in_log(description, total)


def _in_log(description: str, total: int) -> Callable[[], None]:
    """Count steps and log the count from time to time."""
    steps, logged_steps = 0, 0
    begun = last_time = monotonic()

    def tick() -> None:
        nonlocal steps, logged_steps, last_time
        steps += 1
        now = monotonic()
        if now - last_time >= (SHORTEST if steps - logged_steps >= SHARE * total else LONGEST):
            remaining = (now - begun) / steps * (total - steps)
            _log.info("%s: %d of %d, about %s left", description, steps, total, _time(remaining))
            logged_steps, last_time = steps, now

    return tick


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


@contextmanager
def _in_notebook(description: str, total: int) -> Generator[Callable[[], None], None, None]:
    """An HTML bar below the cell. Rich's own needs ipywidgets; without it Rich warns and draws nothing."""
    from html import escape

    from IPython.display import HTML, display  # pyright: ignore[reportMissingImports,reportUnknownVariableType]

    steps, last_time = 0, monotonic()

    def render() -> Any:
        html = f"{escape(description)} <progress value='{steps}' max='{total}'></progress> {steps}/{total}"
        return HTML(html)  # pyright: ignore[reportUnknownVariableType]

    bar = cast(Any, display(render(), display_id=True))

    def tick() -> None:
        nonlocal steps, last_time
        steps += 1
        if (now := monotonic()) - last_time >= 0.2:
            last_time = now
            bar.update(render())

    try:
        yield tick
    finally:
        bar.update(HTML(""))
