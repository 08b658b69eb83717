"""The CUDA code as a module that runs on the CPU, built by tests/cuda_host/build.py."""

import functools
import importlib.util
import shutil
from pathlib import Path

import pytest

from seam_fast.ops import custom_op, eager
from seam_fast.ops import functional as ops

ORDERS = ("round_robin", "depth_first", "reversed", "shuffled")  # in which threads take turns


@functools.cache
def cuda_host():
    """The CUDA op as a module that runs on the CPU; tests are skipped where it cannot be built."""
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler: the CUDA kernels are built for the CPU")
    spec = importlib.util.spec_from_file_location(
        "cuda_host_build", Path(__file__).parents[1] / "cuda_host" / "build.py"
    )
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    return builder.build()


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
