"""Suppression of third-party progress bars and messages while lens_fv loads a model."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress transformers' progress bars and log lines below errors inside the block."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging

    bars, hub_bars, level = logging.is_progress_bar_enabled(), not are_progress_bars_disabled(), logging.get_verbosity()
    _switch(logging.disable_progress_bar)
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            _switch(logging.enable_progress_bar)
        if not hub_bars:  # transformers switches the progress bars of both libraries together
            _switch(disable_progress_bars)


def _switch(bars: Callable[[], object]) -> None:
    with warnings.catch_warnings():
        # an environment variable of the Hub client overrides this, with a warning
        warnings.filterwarnings("ignore", message="Cannot (dis|en)able progress bars")
        bars()


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Apply `quiet_transformers`, and suppress warnings that third-party libraries raise about each other."""
    with quiet_transformers(), warnings.catch_warnings():
        for kind in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.simplefilter("ignore", kind)
        yield
