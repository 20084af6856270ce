"""One progress bar with a known total, or none."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def progress_bar(what: str, total: int, *, show: bool) -> Generator[Callable[[], None], None, None]:
    """Yields a function that moves the bar on by one step.

    The bar goes to standard error, so that a command's output stays clean, and disappears when done. With `show=False`
    nothing is drawn.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not show) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
