"""How a command's body runs: errors of the user as one sentence, signals, the output's encoding, threads, warnings."""

import contextlib
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TextIO

import torch

from ..common.cores import usable_cores
from ..errors import DataWarning, SeamFastError
from .options import OPTION_NAMES


def run_guarded(name: str, run: Callable[[], int | None]) -> int:
    """Runs a command's body and turns what ends it early into a sentence on standard error and an exit code.

    Args:
        name: what the command is called in messages.
        run: the body; it returns an exit code, where None means 0.

    Returns:
        The body's exit code; 1 after a `SeamFastError` or an `OSError`; 128 + the signal's number after Ctrl-C, SIGTERM
        or SIGHUP. Other exceptions are faults of the program and pass through with their traceback.
    """
    with _signals_like_ctrl_c() as received, _unencodable_characters_escaped():
        try:
            with _usable_threads(), _warnings_as_sentences(name):
                return run() or 0
        except SeamFastError as error:
            message = in_flags(str(error))
        except KeyboardInterrupt:
            number = received[0] if received else signal.SIGINT
            how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
            print(f"{name}: {how}", file=sys.stderr)
            return 128 + number
        except BrokenPipeError:  # the reader of our output has gone, as after `| head`
            # Python flushes standard output once more at exit; into the closed pipe that would fail again, loudly.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            message = f"{error.filename or 'system'}: {error.strerror or error}"
        print(f"{name}: error: {message}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def _signals_like_ctrl_c() -> Iterator[list[int]]:
    """Within it SIGTERM (from a scheduler or docker) and SIGHUP raise KeyboardInterrupt, so that work so far is saved.

    Handlers that somebody has set already stay, such as nohup's. Yields the list of the signals received so far. Only
    the first one raises: further ones must not interrupt the saving.
    """
    received: list[int] = []

    def raise_once(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():  # Python sets handlers there only
        signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {number: signal.SIG_DFL for number in signals if signal.getsignal(number) == signal.SIG_DFL}
    for number in before:
        signal.signal(number, raise_once)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _unencodable_characters_escaped() -> Iterator[None]:
    """Within it characters that the output's encoding lacks, such as of a class name, are escaped and raise nothing."""
    changed: list[tuple[Any, str]] = []
    for stream in (sys.stdout, sys.stderr):
        errors = getattr(stream, "errors", None)
        if hasattr(stream, "reconfigure") and errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
            changed.append((stream, errors))
    try:
        yield
    finally:
        for stream, errors in changed:
            with contextlib.suppress(OSError, ValueError):  # the stream's reader has gone, or the stream is closed
                stream.reconfigure(errors=errors)


@contextlib.contextmanager
def _usable_threads() -> Iterator[None]:
    """Within it torch has no more threads than cores that this process may use; by itself it counts the machine's."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, usable_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _warnings_as_sentences(name: str) -> Iterator[None]:
    """Within it this package's warnings go to standard error as plain sentences, without a line of code, each once.

    That concerns every `DataWarning`, also repeated ones that Python would hide, and the warnings that begin with
    ``seam-fast: ``. Other warnings are shown as before.
    """
    said: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        show = warnings.showwarning

        def show_sentence(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            text = in_flags(str(message))
            if issubclass(category, DataWarning):
                text = f"{name}: warning: {text}"
            elif not text.startswith("seam-fast: "):
                show(message, category, filename, lineno, file, line)
                return
            if text not in said:
                said.add(text)
                print(text, file=sys.stderr, flush=True)

        warnings.showwarning = show_sentence  # catch_warnings puts the old one back
        yield


def in_flags(message: str) -> str:
    """A message with the Python names of arguments replaced by the flags of the command line (`OPTION_NAMES`)."""
    names = "|".join(name for name in OPTION_NAMES if "_" in name)
    with_flag = rf"\b({names}) \(--[a-z-]+\)"  # the message has both the name and the flag
    alone = rf"(?<![\w./=\"'-])({names})(?![\w./=(])"  # the name is not part of a file's name or of Python code
    for pattern in (with_flag, alone):
        message = re.sub(pattern, lambda found: "--" + found[1].replace("_", "-"), message)
    return message
