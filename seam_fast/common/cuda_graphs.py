"""Repeating a fixed sequence of device operations as a CUDA graph."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import torch

_WARM_UPS = 3  # repetitions without a graph before the capture, as torch's documentation advises

_recording = threading.Lock()  # one capture at a time: each registers torch's random generator, which all share
_own = threading.local()  # the calling thread's streams


def _side_stream(device: torch.device) -> "torch.cuda.Stream":
    """The calling thread's stream for captures, which the default stream does not allow.

    The same one each time: cuBLAS keeps a workspace, 32 MB on a Hopper GPU, for every stream in which a thread has
    multiplied matrices, until the process ends.
    """
    _own.__dict__.setdefault("streams", {})
    if device not in _own.streams:
        _own.streams[device] = torch.cuda.Stream(device)
    return _own.streams[device]


class CudaGraphRunner:
    """Repeats a sequence of device operations: on a GPU captured as a CUDA graph and replayed, elsewhere just run.

    The operations must not depend on values read on the host, and must read and write the same tensors each time. The
    first three repetitions run without a graph, so that libraries have set themselves up when it is captured; they
    count like all others. The graph is captured in the calling thread's current stream, which no other thread may use
    meanwhile; where that is the default stream, which cannot be captured, in a side stream of the thread.

    Args:
        device: of the tensors.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream_address: int | None = None  # of the last call
        self._warm = 0  # repetitions without a graph in that stream

    def __call__(self, function: Callable[[], Any], times: int) -> None:
        """Runs the operations that a function launches so many times; the same function at each call."""
        if self._device.type != "cuda":
            for _ in range(times):
                function()
            return
        stream = current = torch.cuda.current_stream(self._device)
        if current == torch.cuda.default_stream(self._device):
            stream = _side_stream(current.device)
        if stream.cuda_stream != self._stream_address:  # a graph holds the workspaces that libraries have by stream
            self._stream_address, self._graph, self._warm = stream.cuda_stream, None, 0
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            self._repeat(function, times)
        current.wait_stream(stream)

    def _repeat(self, function: Callable[[], Any], times: int) -> None:
        """The same in the current stream, which can be captured."""
        warm_ups = min(times, _WARM_UPS - self._warm)
        for _ in range(warm_ups):
            function()
        self._warm += warm_ups
        if times == warm_ups:
            return
        graph = self._graph = self._graph or _record(function)
        for _ in range(times - warm_ups):
            graph.replay()


def _record(function: Callable[[], Any]) -> "torch.cuda.CUDAGraph":
    """A graph of the operations that a function launches in the current stream.

    Not by ``torch.cuda.graph``: it synchronises the whole device, which is an error while another thread captures, and
    empties torch's memory cache, which other threads use.
    """
    graph = torch.cuda.CUDAGraph()
    with _recording:
        # thread_local: calls of other threads, such as for memory, must not make the capture fail.
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            function()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the function's own error is the one to raise
                graph.capture_end()
            raise
        graph.capture_end()
    return graph
