"""The CUDA code as a module that runs on the CPU, built by tests/cuda_host/build.py."""

import functools
import importlib.util
import shutil
from pathlib import Path

import pytest

from seam_fast.ops import custom_op, eager
from seam_fast.ops import functional as ops

ORDERS = ("round_robin", "depth_first", "reversed", "shuffled")  # in which threads take turns


def builder():
    """tests/cuda_host/build.py; None where there is no compiler."""
    if shutil.which("c++") is None:
        return None
    path = Path(__file__).parents[1] / "cuda_host" / "build.py"
    spec = importlib.util.spec_from_file_location("cuda_host_build", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asks_for_cuda_host(item) -> bool:
    """Whether a collected test will run the CUDA code on the CPU."""
    kernel = str(getattr(item, "callspec", None) and item.callspec.params.get("kernel", ""))
    return bool({"host_module", "host"} & set(item.fixturenames)) or kernel.startswith("host")


@functools.cache
def cuda_host():
    """The CUDA op as a module that runs on the CPU; tests are skipped where it cannot be built."""
    found = builder()
    if found is None:
        pytest.skip("needs a C++ compiler: the CUDA kernels are built for the CPU")
    return found.build()


def use_cuda_host(
    monkeypatch, recurrence="automatic", products="automatic", multiprocessors=4, clusters=True, tf32=False, cluster=5
):
    """Lets every op but those of ``backend="torch"`` run the CUDA kernels on the CPU, on a device as it is told."""
    module = cuda_host()
    module.choose_cuda(recurrence, products)
    module.pretend(multiprocessors, clusters, tf32, cluster)
    for place in (ops, custom_op):
        choose = lambda backend, _: eager if backend == "torch" else module  # noqa: E731
        monkeypatch.setattr(place, "choose_kernels", choose)
    return module
