"""Microseconds that the host is busy with an eager call of the LSTM, beside torch.nn.LSTM. No kernel is waited for.

    python scripts/gpu_host_time.py                # at the size of R8
    python scripts/gpu_host_time.py --profile      # and what the time goes into, by torch's profiler
    python scripts/gpu_host_time.py --device cpu   # shows that the script runs; kernels count in, too

Times are of blocks of calls back to back, the device idle before each. The first figure is the fastest block, which
other work on the machine has disturbed least.
"""

import argparse
import statistics
import sys
import time

import torch
from torch import nn

import seam_fast
from seam_fast.backend import choose_backend
from seam_fast.ops import custom_op
from seam_fast.ops import functional as ops

CALLS, BLOCKS = 20, 10  # few enough that the device's queue, some 1,000 launches, never makes the host wait
SIZES = {"T": 32, "B": 5, "I": 100, "H": 50}  # of R8


def make_ways(device: str, dtype: torch.dtype, sizes: dict[str, int]) -> dict:
    """What is timed, by name: functions without arguments."""
    steps, batch, features, hidden = sizes.values()
    torch.manual_seed(0)
    lstm = nn.LSTM(features, hidden).to(device, dtype)
    module = seam_fast.MaskedLSTM.from_lstm(lstm)
    weights = [weight.detach() for weight in lstm._flat_weights]
    scores = [torch.randn_like(weight).requires_grad_() for weight in weights]
    input = torch.randn(steps, batch, features, device=device, dtype=dtype, requires_grad=True)
    cotangent = torch.randn(steps, batch, hidden, device=device, dtype=dtype)
    kernels, few = custom_op.choose_kernels("auto", input), torch.randn(4, device=device, requires_grad=True)

    def forward():
        return ops.masked_lstm(input, None, weights, scores)[0]

    def forward_alone():
        with torch.no_grad():
            forward()

    def layer():  # without the checks in Python
        return kernels.masked_lstm_layer(input, None, None, weights, scores, None, False)

    def with_gradients(function, leaves):
        return lambda: torch.autograd.grad(function(), leaves, cotangent)

    def by_one_thread():  # torch's backward passes go to a thread for each GPU, which has to be woken
        with torch.autograd.set_multithreading_enabled(False):
            torch.autograd.grad(forward(), [input, *scores], cotangent)

    ways = {
        "torch: a product with a number, and its gradient": lambda: torch.autograd.grad(few * 2, few, few),
        "torch.nn.LSTM forward": lambda: lstm(input),
        "torch.nn.LSTM forward + backward": with_gradients(lambda: lstm(input)[0], [input, *lstm.parameters()]),
        "masked_lstm forward, nothing saved": forward_alone,
        "masked_lstm forward": forward,
        "masked_lstm forward + backward": with_gradients(forward, [input, *scores]),
        "the same, all in one thread": by_one_thread,
        "MaskedLSTM forward + backward": with_gradients(lambda: module(input)[0], [input, *module.scores()]),
    }
    if hasattr(kernels, "masked_lstm_layer"):
        ways["compiled layer alone, forward"] = layer
        ways["compiled layer alone, forward + backward"] = with_gradients(lambda: layer()[0], [input, *scores])
    return ways


def microseconds(way, wait, calls: int, blocks: int) -> list[float]:
    """Of a call, by block."""
    times = []
    for _ in range(blocks + 2):  # the first two set things up
        wait()
        begun = time.perf_counter()
        for _ in range(calls):
            way()
        times.append((time.perf_counter() - begun) / calls * 1e6)
    wait()
    return times[2:]


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64", "bfloat16", "float16"))
    parser.add_argument("--calls", type=int, default=CALLS, help=f"in a block (default: {CALLS})")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help=f"blocks (default: {BLOCKS})")
    parser.add_argument("--profile", action="store_true", help="also show what forward + backward spends its time in")
    chosen = parser.parse_args(argv)
    if chosen.device == "cuda":
        choose_backend("cuda")  # which says why it cannot be used
    wait = torch.cuda.synchronize if chosen.device == "cuda" else lambda: None
    ways = make_ways(chosen.device, getattr(torch, chosen.dtype), SIZES)
    sizes = ", ".join(f"{name} {size}" for name, size in SIZES.items())
    print(f"microseconds of a call at {sizes}, {chosen.dtype} on {chosen.device}: fastest block, median")
    for name, way in ways.items():
        times = microseconds(way, wait, chosen.calls, chosen.blocks)
        print(f"{min(times):9.1f} {statistics.median(times):9.1f}  {name}", flush=True)
    if chosen.profile:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        kinds += [torch.profiler.ProfilerActivity.CUDA] * (chosen.device == "cuda")
        with torch.profiler.profile(activities=kinds) as profile:
            for _ in range(chosen.calls):
                ways["masked_lstm forward + backward"]()
            wait()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60))
    return 0


if __name__ == "__main__":
    sys.exit(main())
