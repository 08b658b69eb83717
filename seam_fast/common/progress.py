"""Progress of long work: a bar on a terminal, and lines with the time left where the output is a file or a pipe."""

import contextlib
import sys
import time
from typing import Any, Protocol

FIRST_LINE = 3.0  # seconds before the first line
BETWEEN_LINES = 30.0  # seconds


class ProgressBar(Protocol):
    """The part of tqdm's interface that is used here.

    Attributes:
        total: number of steps, which may be corrected.
        n: steps done.
    """

    total: Any
    n: Any

    def set_postfix_str(self, s: str, refresh: bool = True) -> object:
        """Sets the text at the end of the line."""

    def update(self, n: int = 1) -> object:
        """Adds ``n`` steps to those done."""

    def close(self) -> None:
        """Ends the display."""


def progress_bar(total: int, what: str) -> ProgressBar:
    """A display of progress on standard error: tqdm's bar on a terminal, `ProgressLines` elsewhere and where
    tqdm is missing.

    Args:
        total: number of steps.
        what: the work, in a word.
    """
    if not is_terminal(sys.stderr):
        return ProgressLines(total, what)
    try:
        from tqdm import tqdm  # of the extra [cli]
    except ImportError:
        return ProgressLines(total, what)

    # A small smoothing and miniters=1: the rate of the last seconds, even where several threads call update().
    bar: ProgressBar = tqdm(total=total, desc=what, unit="step", dynamic_ncols=True, smoothing=0.05, miniters=1)
    return bar


def say(line: str = "") -> None:
    """Prints a line on standard error, above a progress bar if there is one; standard output is for results.

    A closed standard error, as behind ``2>&1 | head``, is no error: the work goes on.
    """
    tqdm = sys.modules.get("tqdm")
    with contextlib.suppress(OSError):
        if tqdm is not None and is_terminal(sys.stderr):
            tqdm.tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


class ProgressLines:
    """A `ProgressBar` for log files: a line after 3 seconds and then every half minute."""

    def __init__(self, total: int, what: str):
        self.total, self.what, self.n = total, what, 0
        self._postfix = ""
        self._begun = time.monotonic()
        self._next_line = self._begun + FIRST_LINE

    def set_postfix_str(self, s: str, refresh: bool = True) -> None:
        """Sets the text at the end of the next line."""
        self._postfix = s

    def update(self, n: int = 1) -> None:
        """Adds ``n`` steps to those done, and prints a line if it is time."""
        self.n += n
        if self.n < self.total and time.monotonic() >= self._next_line:
            say(self.line())
            self._next_line = time.monotonic() + BETWEEN_LINES

    def line(self) -> str:
        """Steps done, steps a second, and the time left at that rate."""
        rate = self.n / max(time.monotonic() - self._begun, 1e-9)
        share = f"{self.n:,} of {self.total:,} steps ({100 * self.n // max(self.total, 1)} %)"
        more = f", {self._postfix}" if self._postfix else ""
        if rate:
            left = duration((self.total - self.n) / rate)
            more = f", {rate:,.0f} steps/s, about {left} left{more}" if rate >= 10 else f", about {left} left{more}"
        return f"{self.what}: {share}{more}"

    def close(self) -> None:
        """Does nothing: there is nothing to close."""


def duration(seconds: float) -> str:
    """A time in words: 8 s, 3 min 20 s, 2 h 5 min."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal; not where it is None or closed."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False
