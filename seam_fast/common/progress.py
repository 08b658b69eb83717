"""How long work goes: a bar on a terminal, and lines with the time left where the output is a file or a pipe."""

import contextlib
import sys
import time

FIRST_LINE = 3.0  # seconds until a rate is worth telling
BETWEEN_LINES = 30.0


def progress_bar(total: int, what: str):
    """Counts steps on standard error: tqdm's bar on a terminal, `ProgressLines` elsewhere and where tqdm is missing."""
    if not is_terminal(sys.stderr):
        return ProgressLines(total, what)
    try:
        from tqdm import tqdm  # of the extra [cli]
    except ImportError:
        return ProgressLines(total, what)

    # miniters and smoothing: rates of the last few seconds, whoever works
    return tqdm(total=total, desc=what, unit="step", dynamic_ncols=True, smoothing=0.05, miniters=1)


def say(line: str = "") -> None:
    """A line of talk, on standard error, so that standard output stays for results; a bar steps aside for it.

    Where nobody reads it any more, as behind ``2>&1 | head``, the work goes on without.
    """
    tqdm = sys.modules.get("tqdm")
    with contextlib.suppress(OSError):
        if tqdm is not None and is_terminal(sys.stderr):
            tqdm.tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


class ProgressLines:
    """The part of tqdm's bar that is used here, for a log file: a line after some seconds and then every half minute.

    total: steps in all, which may be corrected; n: steps done.
    """

    def __init__(self, total: int, what: str):
        self.total, self.what, self.n = total, what, 0
        self._postfix = ""
        self._begun = time.monotonic()
        self._due = self._begun + FIRST_LINE

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """What else there is to say."""
        self._postfix = text

    def update(self, n: int = 1) -> None:
        """So many more steps are done."""
        self.n += n
        if self.n < self.total and time.monotonic() >= self._due:
            say(self.line())
            self._due = time.monotonic() + BETWEEN_LINES

    def line(self) -> str:
        """How far it is, how fast it goes, and how long it will take at that rate."""
        rate = self.n / max(time.monotonic() - self._begun, 1e-9)
        share = f"{self.n:,} of {self.total:,} steps ({100 * self.n // max(self.total, 1)} %)"
        more = f", {self._postfix}" if self._postfix else ""
        if rate:
            left = duration((self.total - self.n) / rate)
            more = f", {rate:,.0f} steps/s, about {left} left{more}" if rate >= 10 else f", about {left} left{more}"
        return f"{self.what}: {share}{more}"

    def close(self) -> None:
        """Nothing is left open."""


def duration(seconds: float) -> str:
    """A time as people say it: 8 s, 3 min 20 s, 2 h 5 min."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def is_terminal(stream) -> bool:
    """Also where there is no such stream, or it is closed."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False
