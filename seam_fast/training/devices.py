"""Where modules are trained: each worker has a core of the CPU, or a stream of its own on a GPU."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from .streams import POOL, StreamLease, own_streams


@dataclass(frozen=True)
class WorkerDevice:
    """What one worker trains on, one module at a time or several in step with each other.

    Attributes:
        device: Of the weights and scores.
        stream: On a GPU, the worker's stream; None on the CPU.
        branches: More streams of this worker, for work that can be done side by side.
        modules: How many modules in step fit in memory; None: any number.
        lease: Keeps the streams from being given to other workers as long as this object exists.
    """

    device: torch.device
    stream: torch.cuda.Stream | None = None
    branches: tuple[torch.cuda.Stream, ...] = ()
    modules: int | None = None
    lease: object = field(default=None, repr=False, compare=False)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Makes this device and stream the current ones of the calling thread."""
        if self.stream is None:
            yield
        else:
            with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
                yield


CPU = WorkerDevice(torch.device("cpu"))


def gpu_workers(room: dict[int, int], most: int | None = None, branches: int = 0) -> list[WorkerDevice]:
    """Workers on GPUs, one device after the other in turn, so that few modules are spread over all devices.

    Args:
        room: How many workers each device takes, by its index.
        most: Number of workers in all; None: as many as there is room for.
        branches: Number of additional streams of each worker.
    """
    turns = (index for turn in range(max(room.values())) for index in room if turn < room[index])
    chosen = list(itertools.islice(turns, most))
    streams = {index: own_streams(index, chosen.count(index) * (1 + branches)) for index in set(chosen)}
    leases = {index: StreamLease(index, list(dict.fromkeys(each))) for index, each in streams.items()}
    workers = []
    for index in chosen:
        stream, *others = (streams[index].pop() for _ in range(1 + branches))
        workers.append(WorkerDevice(torch.device("cuda", index), stream, tuple(others), lease=leases[index]))
    return workers


def ask_for_queues() -> None:
    """Lets the work of more than eight streams of a GPU run side by side; for programs, before they use CUDA.

    CUDA maps the streams of a process to 8 hardware queues unless its environment asks for more, and the work of two
    streams in one queue is done one after the other. It reads the environment once, when it is first called, even if
    only to count the GPUs.
    """
    if not torch.cuda.is_initialized():
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", str(POOL))


def describe(index: int) -> str:
    """A GPU in words: its name and number of multiprocessors."""
    properties = torch.cuda.get_device_properties(index)
    return f"{properties.name}, {properties.multi_processor_count} multiprocessors"
