"""Repeating a fixed sequence of device operations as a CUDA graph."""

import contextlib
import threading

import torch

_WARM_UPS = 3  # repetitions one by one before the recording, as torch's manual has it

_recording = threading.Lock()  # graphs share torch's random generator, which is registered with each
_own = threading.local()  # what a thread keeps


def _side_stream(device: torch.device) -> "torch.cuda.Stream":
    """The calling thread's stream for what the default stream cannot do: the same one each time, because cuBLAS keeps
    scratch, 32 MB on a Hopper GPU, for every stream that a thread has multiplied in, until the process ends.
    """
    _own.__dict__.setdefault("streams", {})
    if device not in _own.streams:
        _own.streams[device] = torch.cuda.Stream(device)
    return _own.streams[device]


class CudaGraphRunner:
    """A sequence of device operations, repeated: on a GPU recorded as a CUDA graph and replayed, elsewhere just run.

    The operations must take no decision on the host and read and write the same tensors each time. The first few
    repetitions run one by one, so that whatever libraries set up at first use is there when the graph is recorded; they
    count like all others. Recorded is the calling thread's current stream, which no other thread may use meanwhile, or
    another of this thread's where that is the default stream, which cannot be recorded.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._graph = None
        self._address, self._warm = None, 0  # of the stream that was used, and how often

    def __call__(self, function, times: int) -> None:
        if self._device.type != "cuda":
            for _ in range(times):
                function()
            return
        stream = current = torch.cuda.current_stream(self._device)
        if current == torch.cuda.default_stream(self._device):
            stream = _side_stream(current.device)
        if stream.cuda_stream != self._address:  # libraries have their scratch by stream, and the graph remembers it
            self._address, self._graph, self._warm = stream.cuda_stream, None, 0
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            self._repeat(function, times)
        current.wait_stream(stream)

    def _repeat(self, function, times: int) -> None:
        warm_ups = min(times, _WARM_UPS - self._warm)
        for _ in range(warm_ups):
            function()
        self._warm += warm_ups
        if times > warm_ups and self._graph is None:
            self._graph = _record(function)
        for _ in range(times - warm_ups):
            self._graph.replay()


def _record(function) -> "torch.cuda.CUDAGraph":
    """The operations that a function gives the current stream. ``torch.cuda.graph`` would wait for the whole device,
    which is an error while another thread records, and would throw away memory that other threads want again.
    """
    graph = torch.cuda.CUDAGraph()
    with _recording:
        # Other threads go on; what they ask of the device, such as memory, must not spoil the recording.
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            function()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the first error is the one to tell
                graph.capture_end()
            raise
        graph.capture_end()
    return graph
