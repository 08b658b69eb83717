"""Where modules are trained: a *place* is a core of the CPU, or a stream of its own on a GPU."""

import contextlib
import itertools
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..classifier.inference import BATCH
from ..classifier.state_keys import EMBEDDING, LSTM_KEYS, lstm_shape

SHARE_OF_FREE_MEMORY = 0.9  # the rest is for what no estimate sees, such as kernels that are loaded later
BESIDE_A_MODULE = 64 << 20  # bytes: torch takes memory in blocks, of each stream anew, and cuBLAS has some a stream
LOOKED_AT_ONCE = 1 << 16  # words, by the one-launch engine: kPositionsAtOnce of csrc/cuda/class_logits_cuda.h
PRIORITIES = (0, -1, -2, -3)  # torch has a pool of 32 streams for each
POOL = 32

_idle: dict[int, list] = {}  # streams of places that are no more, by device


@dataclass(frozen=True)
class WorkerDevice:
    """One worker trains here, one module at a time, or some in step. device: of the weights and scores; stream: None on
    the CPU; branches: streams that nobody else uses, either, for work that may go side by side; modules: how many in
    step find room in memory, None: any number.
    """

    device: torch.device
    stream: "torch.cuda.Stream | None" = None
    branches: "tuple[torch.cuda.Stream, ...]" = ()
    modules: int | None = None
    lease: object = field(default=None, repr=False, compare=False)  # when it goes, the streams are free for others

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """What the calling thread does inside goes to this device and stream."""
        if self.stream is None:
            yield
        else:
            with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
                yield


CPU = WorkerDevice(torch.device("cpu"))


class _Lease:
    """Holds streams of a device until the last place that has one of them is gone."""

    def __init__(self, index: int, streams: list):
        weakref.finalize(self, _idle.setdefault(index, []).extend, streams)


def gpu_workers(room: dict[int, int], most: int | None = None, branches: int = 0) -> list[WorkerDevice]:
    """Places on GPUs, one device after the other in turn, so that few modules are spread over all of them.

    room: how many modules each device takes, by index; most: places in all, None: as many as there is room for;
    branches: of each place.
    """
    turns = (index for turn in range(max(room.values())) for index in room if turn < room[index])
    chosen = list(itertools.islice(turns, most))
    streams = {index: own_streams(index, chosen.count(index) * (1 + branches)) for index in set(chosen)}
    leases = {index: _Lease(index, list(dict.fromkeys(each))) for index, each in streams.items()}
    places = []
    for index in chosen:
        stream, *others = (streams[index].pop() for _ in range(1 + branches))
        places.append(WorkerDevice(torch.device("cuda", index), stream, tuple(others), lease=leases[index]))
    return places


def ask_for_queues() -> None:
    """Lets modules on more than eight streams of a GPU run side by side; for programs, before they use CUDA.

    CUDA serves the streams of a process by 8 queues unless its environment asks for more, and what two streams of one
    queue do comes one after the other. It looks at the environment once, when it is first asked anything, if only
    whether there is a GPU.
    """
    if not torch.cuda.is_initialized():
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", str(POOL))


def own_streams(index: int, count: int) -> list:
    """Streams of a device, each another one as long as torch has any (128), and then the same ones again. Those of
    places that are no more come first: cuBLAS keeps scratch for each stream that it has ever worked in.

    What two modules do in one stream comes one after the other. torch hands out its 32 streams in turn, so a 33rd of
    the same priority would be the first again; the other priorities have 32 more each, and where every module has
    multiprocessors to itself, none waits for another's.
    """
    found, idle = {}, _idle.setdefault(index, [])
    with contextlib.suppress(IndexError):  # none left
        while len(found) < count:
            stream = idle.pop()
            found[stream.cuda_stream] = stream
    for priority in PRIORITIES:
        for _ in range(POOL):
            if len(found) == count:
                break
            stream = torch.cuda.Stream(index, priority=priority)
            found.setdefault(stream.cuda_stream, stream)
    return list(itertools.islice(itertools.cycle(found.values()), count))


def free_bytes(index: int) -> int:
    """Memory of a GPU that torch can still get: what nobody has, and what torch keeps at hand from earlier work."""
    free, _ = torch.cuda.mem_get_info(index)
    return free + torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)


def room_in_memory(free: int, module: int) -> int:
    """How many modules of so many bytes find room in so much free memory."""
    return int(SHARE_OF_FREE_MEMORY * free) // module


def module_bytes(weights: dict[str, Tensor], rows: int, batch_size: int, steps: int) -> int:
    """About how much memory of a GPU one module needs beside the base's weights, in bytes; more rather than less.

    weights: of the base; rows: R, embedding rows with scores of their own, one row more stands for all others;
    batch_size: B; steps: T, words of a document.
    """
    table, recurrent = weights[EMBEDDING], weights[LSTM_KEYS[1]]
    (words, width), hidden = table.shape, recurrent.shape[1]
    layers, both = lstm_shape(weights)
    cells = layers * (2 if both else 1) * hidden
    rest = sum(weight.numel() for key, weight in weights.items() if key != EMBEDDING)
    state = 3 * ((rows + 1) * width + rest)  # scores, and Adam's two means of each
    # A step: input and its gradient, gates and theirs, those summed by word, c and h, at every word of the batch.
    step = 2 * batch_size * steps * (width + 12 * cells) + 4 * rest
    # A look at the module: the masked base as a whole, and its states over some documents; enough for both trainers.
    evaluation = words * width + rest + max(BATCH * steps, LOOKED_AT_ONCE) * (3 * width + 6 * cells)
    return table.element_size() * (state + step + evaluation) + words * width + BESIDE_A_MODULE


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU had no memory left, by whichever way the error came: torch's allocator, CUDA, or cuBLAS."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error)
        for sign in ("CUDA out of memory", "CUDA error: out of memory", "ALLOC_FAILED", "failed: out of memory")
    )


def describe(index: int) -> str:
    """A GPU in words: its name and number of multiprocessors."""
    properties = torch.cuda.get_device_properties(index)
    return f"{properties.name}, {properties.multi_processor_count} multiprocessors"
