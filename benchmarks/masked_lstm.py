"""The masked LSTM beside torch.nn.LSTM's kernel: both in one process, in turn, forward and backward with all gradients.

    python benchmarks/masked_lstm.py                          # about four minutes on one core
    python benchmarks/masked_lstm.py --quick --shapes r8 b1
    python benchmarks/masked_lstm.py --isa avx2 --out runs/masked_lstm_avx2.json

The rival computes what seam_fast.masked_lstm computes with the fastest that torch has: products of weights and masks,
torch.nn.LSTM's kernel (oneDNN's, or torch's own for a PackedSequence) forward and backward, products and clamps for the
gradients of the scores. Before any time counts, the results of the timed calls are compared with float64. Writes
benchmarks/records/masked_lstm.json and prints a Markdown table.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import measure
import rivals
import torch
from shapes import SHAPES, SMOKE

import seam_fast
from seam_fast import report
from seam_fast.backend import choose_backend
from seam_fast.cli import run_guarded
from seam_fast.errors import SeamFastError
from seam_fast.workflow import say, write_json

# Other libraries must not use wider instructions than seam-fast is told to; they read these when they are loaded, so
# a run with --isa starts itself again.
LIMITS = {
    "avx512": {},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "portable": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}
METHOD = (
    "Blocks of calls of seam and rival in turn (A B A B ...), one process, the calls of a block back to back. Times "
    "in ms a call; ratio: rival / seam of the same round, so above 1 seam-fast is faster. Rival: weight * (score > 0) "
    "for each weight, torch._VF.lstm forward and backward with a gradient for input and weights, gradient * weight "
    "and clamp for each score; with lengths it packs and unpacks as well. GFLOP/s count the matrix products of real "
    "steps only, 24 H (I + H) a step. The other ways are timed in turn with each other after that. Memory: the peak "
    "of torch's CPU allocator in the first call beyond what was there before and what is returned, against gates and "
    "cell states of all steps (T * B * 5H). Errors: largest difference from float64, relative to the largest value."
)


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="+", help="names from benchmarks/shapes.py (default: all)")
    parser.add_argument("--rounds", type=int, help="rounds of each shape (default: 9 or more, as many as fit 20 s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and only the pair of the table")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes: shows that the script runs")
    parser.add_argument("--backend", default="auto", help="backend of seam_fast.masked_lstm (default: auto)")
    parser.add_argument("--isa", choices=tuple(LIMITS), help="instruction set of both sides, in a process of its own")
    parser.add_argument("--out", help="the record (default: in runs/, of a whole run with native code in records/)")
    arguments = parser.parse_args(argv)
    if arguments.isa:
        wanted = {"SEAM_FAST_ISA": arguments.isa, **LIMITS[arguments.isa]}
        if any(os.environ.get(name) != value for name, value in wanted.items()):
            return subprocess.run([sys.executable, __file__, *argv], env=os.environ | wanted).returncode
    command = shlex.join(["python", "benchmarks/masked_lstm.py", *argv])
    return run_guarded("masked_lstm", lambda: run(arguments, command))


def run(arguments, command: str) -> int:
    known = SHAPES | SMOKE
    names = arguments.shapes or list(SMOKE if arguments.smoke else SHAPES)
    for name in names:
        if name not in known:
            raise SeamFastError(f"shape {name!r} is unknown; there are {', '.join(known)}")
    if min(arguments.threads, 1 if arguments.rounds is None else arguments.rounds) < 1:
        raise SeamFastError("--rounds and --threads must be 1 or more")
    partial = arguments.shapes or arguments.rounds or arguments.quick or arguments.smoke or arguments.isa
    whole = not partial and arguments.threads == 1 and choose_backend(arguments.backend) == "cpu"
    out = Path(arguments.out or ("benchmarks/records" if whole else "runs") + "/masked_lstm.json")
    native = seam_fast._ext.C
    if arguments.isa and native and native.isa() != arguments.isa:
        raise SeamFastError(f"--isa {arguments.isa}: this processor has only {', '.join(native.isas())}")
    torch.set_num_threads(arguments.threads)
    measure.check_memory_meter()
    peak, load = measure.Peak(), measure.load()
    prepared, faults = {}, []
    for name in names:  # all before the first clock runs: a wrong result shows in half a minute, with all others
        try:
            prepared[name] = prepare(known[name], arguments.backend)
        except SeamFastError as error:
            faults.append(str(error))
    if faults:
        raise SeamFastError("nothing was timed: " + "; ".join(faults))
    rows = []
    for name in names:
        rows.append(measure_shape(known[name], arguments, peak, *prepared.pop(name)))
        say(describe(rows[-1]))
    figures = peak.figures()
    for row in rows:
        compare_with_peak(row, figures["gflops"], arguments.threads)
    record = {
        "format": "seam-fast masked lstm 1",
        "command": command,
        "machine": machine(arguments, load, figures),
        "method": METHOD,
        "rows": rows,
    }
    write_json(out, record)
    print(markdown(record))
    return 0


def machine(arguments, load: list[float], peak: dict) -> dict:
    """What the figures were measured on: processor, caches, instruction sets, libraries, threads, other load, peak."""
    native = seam_fast._ext.C
    isa = {
        "asked": arguments.isa or "auto",
        "seam": native.isa() if native else None,
        "available": list(native.isas()) if native else [],
        "torch": torch.backends.cpu.get_cpu_capability(),
        "limits": {name: os.environ[name] for name in ("SEAM_FAST_ISA", *LIMITS["avx2"]) if name in os.environ},
    }
    return report.machine() | {
        "backend": {"asked": arguments.backend, "used": choose_backend(arguments.backend)},
        "backends": seam_fast.backends(),
        "build": dict(native.build_info()) if native else None,
        "isa": isa,
        "caches": measure.caches(),
        "threads": torch.get_num_threads(),
        "load": {"before": load, "after": measure.load()},
        "peak": peak,
    }


def prepare(shape, backend: str) -> tuple[rivals.Problem, rivals.Truth, dict]:
    """Tensors, truth and memory of a shape. Raises SeamFastError where the pair does not agree with the truth."""
    # Memory in the very first call: what a way keeps for its next calls counts as well.
    memory = {"saved_bytes": shape.saved_bytes()}
    for name, way in rivals.PAIR.items():
        problem = rivals.Problem(shape, backend=backend)
        found = measure.extra_memory(lambda way=way, problem=problem: way(problem))
        memory[name] = found | {"of_saved": float(f"{found['peak'] / shape.saved_bytes():.4g}")}
    problem, truth = rivals.Problem(shape, backend=backend), rivals.Truth(shape)
    for name, way in rivals.PAIR.items():
        truth.check(name, way(problem))
    return problem, truth, memory


def measure_shape(shape, arguments, peak, problem, truth, memory) -> dict:
    """One row of the record: times of one shape, and whether the timed results are right."""
    small = arguments.quick or arguments.smoke
    block = 0.001 if arguments.smoke else 0.02
    peak.burst()
    pair = {name: (lambda way=way: way(problem)) for name, way in rivals.PAIR.items()}
    rounds = arguments.rounds or ((3, 3) if arguments.smoke else (5, 31) if small else (9, 151))
    times, loops, results = measure.in_turn(pair, rounds, block, 5 if small else 20)
    errors = {name: truth.check(name, result) for name, result in results.items()}
    peak.burst()
    row = {
        "shape": shape.name,
        "sizes": {letter: getattr(shape, letter) for letter in "IHBT"} | {"lengths": "1..T" if shape.spread else None},
        "must": shape.must,
        "aim": shape.aim,
        "rounds": len(times["seam"]),
        "loops": loops,
        "flop": shape.flop(),
    }
    row |= {f"{name}_ms": measure.spread(times[name], 1e3) for name in times}
    row["ratio"] = measure.spread([rival / seam for seam, rival in zip(times["seam"], times["rival"], strict=True)])
    row["ratio_of_minima"] = float(f"{min(times['rival']) / min(times['seam']):.5g}")
    row["gflops"] = {name: float(f"{shape.flop() / statistics.median(times[name]) / 1e9:.5g}") for name in times}
    row["verdict"] = verdict(row)
    row["others"] = {}
    if not arguments.quick:
        ways = rivals.others(problem)
        runs = {name: (lambda way=way: way(problem)) for name, way in ways.items()}
        rounds = min(arguments.rounds or 99, 3) if arguments.smoke else (3, 31)
        times, loops, results = measure.in_turn(runs, rounds, block, 8)
        for name, found in times.items():
            errors[name] = truth.check(name, results[name])
            row["others"][name] = {"ms": measure.spread(found, 1e3), "rounds": len(found), "loops": loops[name]}
    row["agreement"] = {
        "errors": {
            way: {name: float(f"{error:.3g}") for name, error in found.items()} for way, found in errors.items()
        },
        "allowed": {name: float(f"{error:.3g}") for name, error in truth.allowed.items()},
        "clamped": float(f"{truth.clamped:.3g}"),
    }
    row["memory"] = memory | {"within": memory["seam"]["peak"] <= 1.1 * memory["saved_bytes"]}
    return row


def rounded(errors: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{error:.3g}") for name, error in errors.items()}


def verdict(row: dict) -> str:
    """By the median of the paired ratios."""
    ratio = row["ratio"]["median"]
    return "aim" if ratio >= row["aim"] else "must" if ratio >= row["must"] else "below"


def compare_with_peak(row: dict, gflops: float | None, threads: int) -> None:
    """Adds the shares of the multiply-add peak, and the ratio that a way at the peak would have."""
    row["of_peak"] = row["ratio_at_peak"] = None
    if gflops:
        row["of_peak"] = {name: float(f"{value / (gflops * threads):.4g}") for name, value in row["gflops"].items()}
        row["ratio_at_peak"] = float(f"{gflops * threads / row['gflops']['rival']:.4g}")


def describe(row: dict) -> str:
    """One line as soon as a shape is done."""
    ratio, seam, rival = row["ratio"], row["seam_ms"], row["rival_ms"]
    return (
        f"{row['shape']}: {ratio['median']:.2f}x ({ratio['q1']:.2f}-{ratio['q3']:.2f}; must {row['must']}, "
        f"aim {row['aim']}), seam {seam['median']:.3g} ms (min {seam['min']:.3g}), "
        f"rival {rival['median']:.3g} ms (min {rival['min']:.3g}), {row['rounds']} rounds; "
        f"extra memory {row['memory']['seam']['of_saved']:.2f} of the saved activations"
    )


def markdown(record: dict) -> str:
    """The table of a record, and a line on the machine."""
    lines = [
        "| shape | seam ms | rival ms | ratio (quartiles) | must | aim | reached | GFLOP/s seam, rival (% of peak) "
        "| ratio at the peak | extra memory / saved |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        ratio, rates = row["ratio"], row["gflops"]
        words = (SHAPES | SMOKE)[row["shape"]].words()
        shares = {name: f" ({100 * share:.0f})" for name, share in (row["of_peak"] or {}).items()}
        limit = "-" if row["ratio_at_peak"] is None else f"{row['ratio_at_peak']:.1f}x"
        lines.append(
            f"| {words} | {row['seam_ms']['median']:.3g} | {row['rival_ms']['median']:.3g} "
            f"| {ratio['median']:.2f}x ({ratio['q1']:.2f}-{ratio['q3']:.2f}) "
            f"| {row['must']}x | {row['aim']}x | {row['verdict']} "
            f"| {rates['seam']:.3g}{shares.get('seam', '')}, {rates['rival']:.3g}{shares.get('rival', '')} "
            f"| {limit} | {row['memory']['seam']['of_saved']:.2f} |"
        )
    about = record["machine"]
    peak = about["peak"]["gflops"]
    lines += [
        "",
        f"{about['cpu']}, {about['threads']} thread(s), instruction set {about['isa']['seam'] or 'of torch'}, torch "
        f"{about['torch']}, multiply-add peak " + (f"{peak:.0f} GFLOP/s" if peak else about["peak"]["reason"]),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
