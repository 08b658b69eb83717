"""Many sets of scores on one frozen base: torch.func.vmap beside the loop over single calls, forward and backward.

    python -m benchmarks.cpu.vmap_scores                 # some minutes
    python -m benchmarks.cpu.vmap_scores --quick --threads 1 2

The layer is that of R8 (input 100, hidden 50) and one of 128 units on the same batches; its gradients are those of the
scores. The results of each way are compared with float64 before they are timed. Writes runs/bench/vmap_scores.json and
prints a line a case.
"""

import argparse
import contextlib
import shlex
import sys
from pathlib import Path

import torch

import seam_fast as sf
from benchmarks.harness import machine, records, timing
from benchmarks.harness.priority import realtime_priority
from benchmarks.harness.shapes import SHAPES, Shape
from seam_fast import _ext
from seam_fast.cli import report
from seam_fast.cli.main import run_guarded
from seam_fast.common.progress import say
from seam_fast.errors import SeamFastError

OF_128 = Shape("r8_h128", 100, 128, 5, 32, 0.0, 0.0)
LAYERS = {shape.name: shape for shape in (SHAPES["r8"], OF_128)}
FORMAT = "seam-fast vmap scores 1"
SEED = 0
METHOD = (
    "Gradients of all scores of so many modules over one layer and one batch, float32. vmap: "
    "torch.func.vmap(torch.func.grad(...)) over the sets of scores; loop: one call and torch.autograd.grad a set; "
    "func_loop: torch.func.grad a set; all by the same backend. Blocks of calls in turn (A B C A B C ...), one "
    "process; ms for all modules together; against: that loop / vmap of the same round, so above 1 vmap is faster. "
    "Errors: largest difference of a score's gradient from the loop in float64 by the reference, relative to the "
    "largest value; allowed: twice that of the reference in float32, or 16 of its units. alone: whether each case was "
    "timed at real-time priority, so that what others do on the machine counts less."
)


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser("python -m benchmarks.cpu.vmap_scores", description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--modules", nargs="+", type=int, default=[2, 4, 8, 16, 32, 64])
    backends = ["cpu", "torch"] if _ext.has_ext() else ["torch"]
    parser.add_argument("--backends", nargs="+", default=backends[:1], choices=backends)
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()])
    alone = "time each case at real-time priority, on a machine that others use too (needs root)"
    parser.add_argument("--alone", action="store_true", help=alone)
    parser.add_argument("--quick", action="store_true", help="8 modules, few rounds")
    parser.add_argument("--out", default="runs/bench/vmap_scores.json")
    arguments = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "benchmarks.cpu.vmap_scores", *argv])
    return run_guarded("vmap_scores", lambda: run(arguments, command))


def run(arguments, command: str) -> int:
    if min(*arguments.modules, *arguments.threads, 1) < 1:
        raise SeamFastError("--modules and --threads must be 1 or more")
    out, rows = records.check_path(Path(arguments.out)), []
    if arguments.alone:
        start_worker_threads(max(arguments.threads))
    load = {"before": machine.load_average(), "busy": machine.busy_cores()}
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for name in arguments.shapes:
            for modules in [8] if arguments.quick else arguments.modules:
                for backend in arguments.backends:
                    rows.append(measure_case(LAYERS[name], modules, threads, backend, arguments))
                    say(describe(rows[-1]))
    about = report.machine() | {"load": load | {"after": machine.load_average()}}
    record = {"format": FORMAT, "command": command, "quick": arguments.quick, "machine": about, "method": METHOD}
    record["alone"] = arguments.alone
    records.save(record | {"seeds": {"tensors": SEED}, "rows": rows}, out)
    return 0


def start_worker_threads(threads: int) -> None:
    """Starts torch's and seam-fast's worker threads at real-time priority, which they keep."""
    torch.set_num_threads(threads)
    with realtime_priority():
        input, weights, scores = tensors(SHAPES["r8"], 2 * threads)
        call = lambda chosen: sf.masked_lstm(input, None, weights, chosen)[0]  # noqa: E731
        torch.func.vmap(call)(scores)
        torch.ones(1 << 20).add_(1)


def tensors(shape, modules: int):
    """input (T, B, I), weights, and ``modules`` sets of scores, stacked."""
    generator = torch.Generator().manual_seed(SEED)
    sizes = [(4 * shape.H, shape.I), (4 * shape.H, shape.H), (4 * shape.H,), (4 * shape.H,)]
    weights = [torch.randn(size, generator=generator) / shape.H**0.5 for size in sizes]
    scores = [torch.randn(modules, *size, generator=generator) + 0.5 for size in sizes]
    return torch.randn(shape.T, shape.B, shape.I, generator=generator), weights, scores


def make_ways(function, scores) -> dict:
    """The ways to get the gradients of all sets of scores, stacked; function: of one set."""
    gradients = torch.func.vmap(torch.func.grad(function))

    def loop():
        found = []
        for number in range(len(scores[0])):
            leaves = [stack[number].requires_grad_() for stack in scores]
            found.append(torch.autograd.grad(function(leaves), leaves))
        return [torch.stack(grads) for grads in zip(*found, strict=True)]

    one = torch.func.grad(function)

    def func_loop():
        found = [one([stack[number] for stack in scores]) for number in range(len(scores[0]))]
        return [torch.stack(grads) for grads in zip(*found, strict=True)]

    return {"loop": loop, "func_loop": func_loop, "vmap": lambda: gradients(scores)}


def measure_case(shape, modules: int, threads: int, backend: str, options) -> dict:
    input, weights, scores = tensors(shape, modules)
    lengths = shape.lengths()
    ways = make_ways(
        lambda chosen: sf.masked_lstm(input, None, weights, chosen, lengths=lengths, backend=backend)[0].pow(2).mean(),
        scores,
    )
    agreement = compare({name: way() for name, way in ways.items()}, shape, input, weights, scores)
    block = 0.05 if options.quick or options.alone else 0.2
    with realtime_priority() if options.alone else contextlib.nullcontext():
        times, loops, _ = timing.time_in_turn(ways, 7 if options.quick else 15, block, 0)
    return {
        "shape": shape.name,
        "sizes": {"I": shape.I, "H": shape.H, "B": shape.B, "T": shape.T, "lengths": "1..T" if shape.spread else None},
        "modules": modules,
        "threads": threads,
        "backend": backend,
        "rounds": len(times["loop"]),
        "loops": loops,
        "ms": {name: timing.spread(seconds, 1e3) for name, seconds in times.items()},
        "against": {name: timing.paired_ratios(times, name, "vmap") for name in ("loop", "func_loop")},
        "agreement": agreement,
    }


def compare(results: dict, shape, input, weights, scores) -> dict:
    """Errors of each way. Raises SeamFastError where one is larger than allowed."""

    def reference(dtype):
        given, base = input.to(dtype), [weight.to(dtype) for weight in weights]
        function = lambda chosen: sf.reference.masked_lstm(given, None, base, chosen, lengths=shape.lengths())  # noqa: E731
        return make_ways(lambda chosen: function(chosen)[0].pow(2).mean(), [s.to(dtype) for s in scores])["loop"]()

    exact, single = reference(torch.float64), reference(torch.float32)

    def error(found):
        return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True))

    allowed = max(2 * error(single), 16 * torch.finfo(torch.float32).eps)
    errors = {name: error(found) for name, found in results.items()}
    for name, size in errors.items():
        if not size <= allowed:
            raise SeamFastError(f"{shape.name}: {name} is off by {size:.3g}, where {allowed:.3g} is allowed")
    return {"errors": {name: {"scores": size} for name, size in errors.items()}, "allowed": {"scores": allowed}}


def describe(row: dict) -> str:
    ms = {name: spread["median"] for name, spread in row["ms"].items()}
    ratio = row["against"]["loop"]
    return (
        f"{row['shape']}, {row['modules']} modules, {row['threads']} threads, {row['backend']}: "
        f"loop {ms['loop']:.3g} ms, of torch.func.grad {ms['func_loop']:.3g} ms, vmap {ms['vmap']:.3g} ms, "
        f"{ratio['median']:.2f} ({ratio['q1']:.2f} to {ratio['q3']:.2f}) times as fast"
    )


if __name__ == "__main__":
    sys.exit(main())
