"""CUDA streams for workers: each worker's are its own as long as torch has any, and are used again afterwards."""

import contextlib
import itertools
import weakref

import torch

PRIORITIES = (0, -1, -2, -3)  # torch has a pool of streams for each
POOL = 32  # streams of a pool

_idle: dict[int, list[torch.cuda.Stream]] = {}  # by device: streams whose last lease is gone


class StreamLease:
    """Holds streams of a device. Once it is garbage collected, other workers may be given them.

    Args:
        index: The device.
        streams: Distinct streams of that device.
    """

    def __init__(self, index: int, streams: list[torch.cuda.Stream]) -> None:
        weakref.finalize(self, _idle.setdefault(index, []).extend, streams)


def own_streams(index: int, count: int) -> list[torch.cuda.Stream]:
    """Streams of a device, distinct as long as torch has any (128), and then the same ones again.

    Work of two modules in one stream is done one after the other. torch hands out the 32 streams of a priority in turn,
    so that the 33rd is the first again; the other priorities have 32 more each, and priorities make no difference where
    every module has multiprocessors to itself. Streams of former workers come first, because cuBLAS keeps scratch
    memory for every stream that it has ever worked in.

    Args:
        index: The device.
        count: Number of streams.
    """
    found: dict[int, torch.cuda.Stream] = {}
    idle = _idle.setdefault(index, [])
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
