"""Runs in processes of their own, each with a heap that no other run has used."""

import contextlib
import gc
import multiprocessing
import pickle
import signal
import threading

import torch

from benchmarks.harness.timing import time_block
from seam_fast.errors import SeamFastError


class Child:
    """A fresh process in which ``target(connection, *arguments)`` runs. It ignores Ctrl-C: the parent ends it."""

    def __init__(self, target, *arguments):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        # Pickled here: torch's own pickling would put tensors into /dev/shm, which may be small in a container.
        self._process = context.Process(target=_run_child, args=(target, theirs, pickle.dumps(arguments)), daemon=True)
        with _interrupts_ignored():
            self._process.start()
        theirs.close()

    def send(self, message) -> None:
        with contextlib.suppress(BrokenPipeError):  # ``receive`` reports that the process is dead
            self.connection.send(message)

    def receive(self, limit: float | None = None):
        """The next message of the process.

        Raises:
            SeamFastError: The process is dead, or has sent nothing for ``limit`` seconds.
            Exception: Whatever exception the process has sent.
        """
        try:
            if limit is not None and not self.connection.poll(limit):
                raise SeamFastError(f"a process that measures has not answered for {limit:g} seconds")
            message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode
            why = "too little memory?" if code == -signal.SIGKILL else "its last words stand above"
            raise SeamFastError(f"a process that measures ended with code {code}: {why}") from None
        if isinstance(message, Exception):
            raise message
        return message

    def close(self) -> None:
        self._process.terminate()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.connection.close()


class Worker:
    """One of the runs of ``time_blocks_in_turn`` in a process of its own.

    ``make(*arguments)`` is called in that process and returns the run. It has a heap of its own, so that the cost of
    its memory does not depend on what other runs have allocated and freed.
    """

    def __init__(self, make, *arguments):
        self._child = Child(_serve_blocks, make, arguments)
        self.close = self._child.close
        self._child.receive()

    def start(self, number: int) -> None:
        """Starts round ``number`` without waiting for it."""
        self._child.send(number)

    def result(self) -> tuple[float, float, int]:
        """Waits for the round that was started; returns what ``time_block`` returns."""
        return self._child.receive()

    def __call__(self, number: int) -> tuple[float, float, int]:
        self.start(number)
        return self.result()


def in_fresh_process(function, *arguments):
    """Calls the function in a fresh process of one thread and returns its result."""
    child = Child(_call, function, arguments)
    try:
        return child.receive()
    finally:
        child.close()


@contextlib.contextmanager
def _interrupts_ignored():
    """Processes started in here inherit that SIGINT is ignored, so that Ctrl-C does not end them before the parent."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run_child(target, connection, arguments: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python sets its own handler at start, unless it was ignored before
    torch.set_num_threads(1)
    try:
        target(connection, *pickle.loads(arguments))
    except EOFError:
        pass  # the parent is gone
    except Exception as error:  # raised again by ``receive``
        connection.send(error)


def _serve_blocks(connection, make, arguments) -> None:
    run = make(*arguments)
    gc.collect()
    gc.freeze()  # keeps the collections before each block short, so that workers started together stay together
    connection.send(None)
    while True:
        connection.send(time_block(run, connection.recv()))


def _call(connection, function, arguments) -> None:
    connection.send(function(*arguments))
