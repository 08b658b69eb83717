"""CudaGraphRunner without a GPU: what it records, when, and in which stream."""

import threading
import types

import pytest
import torch
from support.fake_gpus import GPU, FakeCuda

from seam_fast.common import cuda_graphs
from seam_fast.common.cuda_graphs import CudaGraphRunner

BEGIN = ("begin", "mine", {"capture_error_mode": "thread_local"})


@pytest.fixture
def cuda(monkeypatch):
    return FakeCuda(monkeypatch)


def test_without_a_gpu_it_just_runs():
    calls = []
    repeat = CudaGraphRunner(torch.device("cpu"))
    repeat(lambda: calls.append(1), 5)
    repeat(lambda: calls.append(1), 0)
    assert len(calls) == 5


def test_a_graph_is_recorded_once_after_the_warm_up(cuda):
    repeat = CudaGraphRunner(GPU)
    run = lambda: cuda.log.append("run")  # noqa: E731
    repeat(run, 2)
    assert cuda.log == ["run"] * 2
    repeat(run, 4)
    assert cuda.log == ["run"] * 3 + [BEGIN, "run", "end"] + ["replay"] * 3
    repeat(run, 2)
    assert cuda.log[-2:] == ["replay"] * 2 and len(cuda.log) == 11


def test_another_stream_needs_another_graph(cuda):
    repeat, run = CudaGraphRunner(GPU), lambda: cuda.log.append("run")
    repeat(run, 4)
    cuda.log.clear()
    cuda.current = cuda.stream("other")
    repeat(run, 4)
    assert cuda.log == ["run"] * 3 + [("begin", "other", BEGIN[2]), "run", "end", "replay"]


def test_the_default_stream_is_left_for_another_and_waits_for_it(cuda):
    cuda.current = cuda.default
    repeat, run = CudaGraphRunner(GPU), lambda: cuda.log.append(cuda.current.name)
    repeat(run, 3)
    assert cuda.log == [("side", "waits for", "default"), *["side"] * 3, ("default", "waits for", "side")]
    cuda.log.clear()
    repeat(run, 1)
    assert cuda.log[1:-1] == [("begin", "side", BEGIN[2]), "side", "end", "replay"]
    assert cuda.current is cuda.default


def test_a_thread_leaves_the_default_stream_for_the_same_one_each_time(cuda):
    """cuBLAS keeps scratch for each stream that it has ever worked in, 32 MB and more."""
    cuda.current = cuda.default

    def work():
        for _ in range(3):
            CudaGraphRunner(GPU)(lambda: None, 5)

    work()
    assert len(cuda.sides) == 1
    other = threading.Thread(target=work)
    other.start()
    other.join()
    assert len(cuda.sides) == 2, "what one thread records, no other may use"


def test_one_graph_is_recorded_at_a_time(cuda):
    repeat = CudaGraphRunner(GPU)
    repeat(lambda: None, 3)
    held = []
    repeat(lambda: held.append(cuda_graphs._recording.locked()), 1)
    assert held == [True] and not cuda_graphs._recording.locked()


def test_an_error_while_recording_is_told_as_it_is(cuda, monkeypatch):
    def broken():
        raise torch.OutOfMemoryError("no memory left")

    def invalid():
        raise RuntimeError("invalid capture")

    repeat = CudaGraphRunner(GPU)
    repeat(lambda: None, 3)
    graph = types.SimpleNamespace(capture_begin=lambda **options: None, capture_end=invalid)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    with pytest.raises(torch.OutOfMemoryError):
        repeat(broken, 1)
    assert not cuda_graphs._recording.locked()
