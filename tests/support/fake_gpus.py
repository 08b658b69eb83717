"""Stand-ins for what is used of torch.cuda, where no GPU is needed to see who asks what of it."""

import contextlib
import importlib
import threading
import types
import weakref
from typing import ClassVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seam_fast import backend
from seam_fast.common import cuda_graphs
from seam_fast.search import context
from seam_fast.training import registry, streams
from seam_fast.training.cuda_graph_trainer import CudaGraphTrainer
from seam_fast.training.cuda_trainer import CudaTrainer
from seam_fast.training.torch_trainer import TorchTrainer

GB = 1 << 30


class Stream:
    """Handed out as torch does: 32 for each priority and device, in turn."""

    drawn: ClassVar = {}

    def __init__(self, device, priority=0):
        number = self.drawn[device, priority] = self.drawn.get((device, priority), -1) + 1
        self.device, self.cuda_stream = device, (device, priority, number % 32)


class TwoGpus:
    """Two GPUs: how many modules each takes, its memory, and what was seen of those who trained there."""

    def __init__(self):
        self.here = threading.local()  # what the thread has entered: index of the device, stream
        self.at_once = [2, 2]
        self.free, self.cached = [80 * GB, 80 * GB], [0, 0]
        self.copies = []  # indices of devices that got the base's weights
        self.trainers, self.seen = [], []
        self.most = {}  # trainers that were in an epoch at the same time, by device
        self.unavailable_reason = ""  # why the one-launch kernel does not suit
        self.in_epoch = lambda trainer: None
        self._now, self._lock = {}, threading.Lock()

    @contextlib.contextmanager
    def entered(self, name, value):
        before = getattr(self.here, name, None)
        setattr(self.here, name, value)
        yield
        setattr(self.here, name, before)

    def copied_to(self, device, weights):
        self.copies.append(device.index)
        copied = {key: weight.clone() for key, weight in weights.items()}
        for weight in copied.values():
            weight.on = device.index
        return copied

    @contextlib.contextmanager
    def epoch(self, trainer):
        with self._lock:
            now = self._now[trainer.index] = self._now.get(trainer.index, 0) + 1
            self.most[trainer.index] = max(now, self.most.get(trainer.index, 0))
        try:
            self.in_epoch(trainer)
            yield
        finally:
            with self._lock:
                self._now[trainer.index] -= 1

    def trainer(self, real):
        gpus, name = self, real.__name__

        class Fake(TorchTrainer):
            engine, fused = real.engine, real.fused
            for_engine = classmethod(real.for_engine.__func__)

            @classmethod
            def unsupported(cls, weights, batch_size):
                return gpus.unavailable_reason or real.unsupported(weights, batch_size) if cls.fused else ""

            @classmethod
            def capacity(cls, device, weights, batch_size):
                return gpus.at_once[device.index] if cls.fused else real.capacity(device, weights, batch_size)

            def __init__(self, weights, head, fed_ids, config, *, lazy_update=None, backend=None):
                super().__init__(weights, head, fed_ids, config)
                self.name, self.lazy_update, self.backend = name, lazy_update, backend
                self.index, self.stream = gpus.here.device, gpus.here.stream
                self.thread = threading.get_ident()
                assert all(weight.on == self.index for weight in weights.values()), "those of another device"
                gpus.trainers.append(weakref.ref(self))
                gpus.seen.append((self.index, self.stream.cuda_stream, name, lazy_update, backend))

            def run_epoch(self, *arguments, **options):
                assert (gpus.here.device, gpus.here.stream) == (self.index, self.stream)
                assert all(part.device.type == "cpu" for part in arguments[:3])
                with gpus.epoch(self):
                    return super().run_epoch(*arguments, **options)

        return Fake

    def installed(self, monkeypatch):
        """Itself, in the place of torch's view of the GPUs until the test ends."""
        loop = importlib.import_module("seam_fast.search.reengineer")  # the package gives that name to the function
        monkeypatch.delenv("SEAM_FAST_BACKEND", raising=False)
        monkeypatch.setattr(Stream, "drawn", {})
        monkeypatch.setattr(streams, "_idle", {})
        monkeypatch.setattr(backend, "unavailable_reason", lambda name: "")
        monkeypatch.setattr(backend, "is_supported_gpu", lambda index: True)
        for name, fake in (
            ("is_available", lambda: True),
            ("device_count", lambda: 2),
            ("Stream", Stream),
            ("device", lambda device: self.entered("device", device.index)),
            ("stream", lambda stream: self.entered("stream", stream)),
            ("is_current_stream_capturing", lambda: False),  # which the Adam of a torch built for CUDA asks
            ("mem_get_info", lambda index: (self.free[index], 80 * GB)),
            ("memory_reserved", lambda index: 5 + self.cached[index]),
            ("memory_allocated", lambda index: 5),
        ):
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(context, "copied_to", self.copied_to)
        monkeypatch.setattr(loop, "quicker_engine", lambda engine, *rest: engine)  # these jobs are small
        # The steps of fake trainers never go together: test_cuda_together.py.
        fakes = [self.trainer(CudaTrainer), self.trainer(CudaGraphTrainer)]
        monkeypatch.setattr(registry, "TRAINERS", [*fakes, *registry.TRAINERS[2:]])
        return self


class Watch(TorchDispatchMode):
    """Writes down every operation with the shapes it is given, and refuses what makes the host wait for the device."""

    WAITS = ("_local_scalar_dense", "nonzero", "unique", "equal", "is_nonzero", "masked_select", "item")

    def __init__(self):
        super().__init__()
        self.log = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        assert not any(name.startswith(wait) for wait in self.WAITS), name
        tensors = torch.utils._pytree.tree_leaves((args, kwargs))
        self.log.append((name, *(tuple(t.shape) for t in tensors if isinstance(t, torch.Tensor))))
        return func(*args, **kwargs or {})


class FakeCuda:
    """Stands in for what is used of torch.cuda, and writes down what is asked of it."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(cuda_graphs, "_own", threading.local())
        self.log, self.default, self.sides = [], self.stream("default"), []
        self.current = self.stream("mine")
        fakes = {
            "current_stream": lambda device: self.current,
            "default_stream": lambda device: self.default,
            "stream": self.entered,
            "Stream": lambda device: self.sides.append(self.stream("side")) or self.sides[-1],
            "CUDAGraph": lambda: types.SimpleNamespace(
                capture_begin=lambda **options: self.log.append(("begin", self.current.name, options)),
                capture_end=lambda: self.log.append("end"),
                replay=lambda: self.log.append("replay"),
            ),
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    def stream(self, name):
        stream = types.SimpleNamespace(name=name, cuda_stream=name, device=GPU)
        stream.wait_stream = lambda other: other is stream or self.log.append((name, "waits for", other.name))
        return stream

    @contextlib.contextmanager
    def entered(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before


GPU = torch.device("cuda", 0)
