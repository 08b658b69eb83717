"""Benches in processes of their own, so that a shape that breaks the GPU's context spoils no other."""

import functools

from benchmarks.cuda.device import first_line, frozen_heap
from benchmarks.cuda.lstm_bench import Bench, blank_row
from benchmarks.harness.cuda_grid import Entry
from benchmarks.harness.processes import Child
from seam_fast.errors import SeamFastError

# Seconds for a shape, for a shape with torch.compile, and for anything else; after that a process counts as lost.
LIMIT, COMPILED_LIMIT, ANSWER_LIMIT = 150, 600, 150


class BenchPerGroup:
    """A Bench for each group of shapes in a fresh process; and a new one after a shape that leaves the GPU unusable.

    A dry run, which cannot break anything, stays in this process.
    """

    def __init__(self, arguments):
        self._start = functools.partial(LocalBench if arguments.dry else RemoteBench, Bench, arguments)
        self._arguments, self._group = arguments, None
        self._lost = False  # whether the current bench can measure nothing more
        self.gone = False  # whether no new bench could be started
        self._bench = self._start()
        self.ask, self.close = self._bench.ask, self._bench.close

    def row(self, entry: Entry) -> dict:
        """The row of a shape, with figures or with a fault. Raises SeamFastError if nothing more can be measured."""
        if self._lost or self._group not in (None, entry.group):
            self._renew()
        self._group = entry.group
        try:
            row = self.ask("row", entry, limit=COMPILED_LIMIT if entry.group == "compiled" else LIMIT)
            self._lost = bool(self.ask("stop_reason"))
        except SeamFastError as error:
            row, self._lost = blank_row(entry, self._arguments.dry) | {"fault": first_line(error)}, True
        return row

    def _renew(self) -> None:
        self.close()
        self._lost = self.gone = True
        self._bench = self._start()
        self.ask, self.close = self._bench.ask, self._bench.close
        if reason := self.ask("stop_reason"):
            raise SeamFastError(reason)
        self._lost = self.gone = False

    def last_state(self) -> dict | None:
        """What nvidia-smi says at the end of the run."""
        return None if self._lost else self.ask("gpu_state")


class LocalBench:
    """A bench in this process, whose methods are called by name."""

    def __init__(self, make, arguments):
        self._bench = make(arguments)

    def ask(self, what: str, *values, limit: float = ANSWER_LIMIT):
        """Calls a method of the bench."""
        return getattr(self._bench, what)(*values)

    def close(self) -> None:
        """Ends the process of the bench, if it has one."""


class RemoteBench(LocalBench):
    """A bench in a process of its own. Raises SeamFastError if that process ends or does not answer in time."""

    def __init__(self, make, arguments):
        self._child = Child(_serve, make, arguments)
        self.close = self._child.close
        try:
            self._child.receive(ANSWER_LIMIT)
        except (SeamFastError, RuntimeError) as error:
            self.close()
            if isinstance(error, SeamFastError):
                raise
            raise SeamFastError(f"the GPU does not answer ({first_line(error)})") from None

    def ask(self, what, *values, limit=ANSWER_LIMIT):
        self._child.send((what, values))
        return self._child.receive(limit)


def _serve(connection, make, arguments) -> None:
    """The process of a RemoteBench: makes the bench and answers each ``ask``."""
    bench = make(arguments)
    connection.send(None)
    with frozen_heap():
        while True:
            what, values = connection.recv()
            connection.send(getattr(bench, what)(*values))
