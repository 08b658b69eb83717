"""The masked LSTM beside torch.nn.LSTM's kernels: one process, in turn, forward and backward with all gradients.

    seam-fast bench op                          # some five minutes on one core
    seam-fast bench op --quick --shapes r8 b1
    seam-fast bench op --isa avx2

The rival of the table computes the same as seam_fast.masked_lstm with the fastest that torch has: products of weights
and masks, torch.nn.LSTM's kernel (oneDNN's, or torch's own for a PackedSequence) forward and backward, products and
clamps for the gradients of the scores. All results are compared with float64 before they are timed.
"""

import statistics

import torch

from benchmarks.baselines import lstm as rivals
from benchmarks.harness import timing
from benchmarks.harness.memory import check_memory_meter, extra_memory
from benchmarks.harness.peak import Peak
from benchmarks.harness.shapes import QUICK, SHAPES, SMOKE
from seam_fast.common.progress import say
from seam_fast.errors import SeamFastError

FORMAT = "seam-fast masked lstm 3"
METHOD = (
    "Blocks of calls of seam and rival in turn (A B A B ...), one process, the calls of a block back to back. Times "
    "in ms a call; ratio: rival / seam of the same round, so above 1 seam-fast is faster. Rival: weight * (score > "
    "0) for each weight, torch._VF.lstm forward and backward with a gradient for input and weights, gradient * "
    "weight and clamp for each score; with lengths it packs and unpacks as well. GFLOP/s count the matrix products "
    "of real steps only, 24 H (I + H) a step. After that all ways are timed in turn once more, for fewer rounds; a "
    "way's ratio is its time / seam of the same round (seam_forward, where its name ends in _forward). Memory: the "
    "most that torch's profiler sees taken at once in the first call beyond what was there before and what is "
    "returned, the kernels' large pages included, against gates and cell states of all steps (T * B * 5H). Errors: "
    "largest difference from float64, relative to the largest value."
)


def run(arguments, peak: Peak) -> dict:
    """The record without its header. peak: measured before and after each shape."""
    known = SHAPES | SMOKE
    names = arguments.shapes or list(SMOKE if arguments.smoke else QUICK if arguments.quick else SHAPES)
    for name in names:
        if name not in known:
            raise SeamFastError(f"shape {name!r} is unknown; there are {', '.join(known)}")
    if arguments.threads < 1:
        raise SeamFastError("--threads must be 1 or more")
    torch.set_num_threads(arguments.threads)
    check_memory_meter()
    prepared, faults = {}, []
    for name in names:  # all before anything is timed, so that wrong results of all shapes are reported at once
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
    left_out = rivals.unavailable_libraries(gpu=False)
    return {"method": METHOD, "seeds": {"tensors": rivals.SEED}, "left_out": left_out, "rows": rows}


def finish(record: dict) -> None:
    """Adds the figures that depend on the peak."""
    about = record["machine"]
    for row in record["rows"]:
        compare_with_peak(row, about["peak"]["gflops"], about["threads"])


def prepare(shape, backend: str) -> tuple[rivals.Problem, rivals.Truth, dict]:
    """Tensors, truth and memory of a shape. Raises SeamFastError if one of the pair does not agree with the truth."""
    # Measured in the very first call, so that memory kept for later calls counts as well.
    memory = {"saved_bytes": shape.saved_bytes()}
    for name, way in rivals.PAIR.items():
        problem = rivals.Problem(shape, backend=backend)
        found = extra_memory(lambda way=way, problem=problem: way(problem))
        if name == "seam" and found["peak"] < shape.saved_bytes():  # it saves that much: the meter misses some
            raise SeamFastError(
                f"{shape.name}: {name} took {found['peak']:,} bytes by the memory meter, where gates and cell states "
                f"alone are {shape.saved_bytes():,}"
            )
        memory[name] = found | {"of_saved": float(f"{found['peak'] / shape.saved_bytes():.4g}")}
    problem, truth = rivals.Problem(shape, backend=backend), rivals.Truth(shape)
    for name, way in rivals.PAIR.items():
        truth.check(name, way(problem))
    return problem, truth, memory


def measure_shape(shape, arguments, peak, problem, truth, memory) -> dict:
    """One row of the record; the results of the timed calls are checked as well."""
    small = arguments.quick or arguments.smoke
    block = 0.001 if arguments.smoke else 0.02
    peak.burst()
    pair = {name: (lambda way=way: way(problem)) for name, way in rivals.PAIR.items()}
    rounds = arguments.rounds or ((3, 3) if arguments.smoke else (5, 31) if small else (9, 151))
    times, loops, results = timing.time_in_turn(pair, rounds, block, 5 if small else 20, label=shape.name)
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
    row |= {f"{name}_ms": timing.spread(times[name], 1e3) for name in times}
    row["ratio"] = timing.paired_ratios(times, "rival", "seam")
    row["ratio_of_minima"] = float(f"{min(times['rival']) / min(times['seam']):.5g}")
    row["gflops"] = {name: float(f"{shape.flop() / statistics.median(times[name]) / 1e9:.5g}") for name in times}
    row["verdict"] = verdict(row)
    row["others"], row["left_out"] = {}, {}
    if not arguments.quick:
        measure_others(row, shape, arguments, block, problem, truth, errors)
    row["agreement"] = {
        "errors": {way: rounded(found) for way, found in errors.items()},
        "allowed": rounded(truth.allowed),
        "clamped": float(f"{truth.clamped:.3g}"),
    }
    row["memory"] = memory | {"within": memory["seam"]["peak"] <= 1.1 * memory["saved_bytes"]}
    return row


def measure_others(row: dict, shape, arguments, block: float, problem, truth, errors: dict) -> None:
    """Adds times and errors of all other ways, timed in turn with seam-fast."""
    runs, left_out = {"seam": lambda: rivals.seam(problem)}, row["left_out"]
    for name, way in rivals.others(problem).items():
        if name == "compiled":
            say(f"{shape.name}: torch.compile takes a minute")
        try:
            truth.check(name, way(problem))
            runs[name] = lambda way=way: way(problem)
        except Exception as error:  # a compiler's failure or a wrong result; the other ways are timed all the same
            if name in truth.OURS:
                raise
            left_out[name] = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            say(f"{shape.name}: {name} is left out: {left_out[name]}")
    rounds = min(arguments.rounds or 99, 3) if arguments.smoke else (7, 31)
    times, loops, results = timing.time_in_turn(runs, rounds, block, 15, label=f"{shape.name}, other ways")
    for name in runs:
        try:
            errors[name] = truth.check(name, results[name])
        except SeamFastError as error:
            if name in truth.OURS:
                raise
            left_out[name] = str(error)[:200]
            continue
        figures = {"ms": timing.spread(times[name], 1e3), "rounds": len(times[name]), "loops": loops[name]}
        if not name.startswith("seam"):
            ours = "seam_forward" if name.endswith("_forward") else "seam"
            figures["ratio"] = timing.paired_ratios(times, name, ours)
        row["others"][name] = figures


def rounded(errors: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{error:.3g}") for name, error in errors.items()}


def verdict(row: dict) -> str:
    """Which target the median of the paired ratios reaches."""
    ratio = row["ratio"]["median"]
    return "aim" if ratio >= row["aim"] else "must" if ratio >= row["must"] else "below"


def compare_with_peak(row: dict, gflops: float | None, threads: int) -> None:
    """Adds the share of the peak that each side reaches, and the ratio that a kernel at the peak would have."""
    row["of_peak"] = row["ratio_at_peak"] = None
    if gflops:
        row["of_peak"] = {name: float(f"{value / (gflops * threads):.4g}") for name, value in row["gflops"].items()}
        row["ratio_at_peak"] = float(f"{gflops * threads / row['gflops']['rival']:.4g}")


def describe(row: dict) -> str:
    """One line, printed as soon as a shape is measured."""
    ratio, seam, rival = row["ratio"], row["seam_ms"], row["rival_ms"]
    return (
        f"{row['shape']}: {ratio['median']:.2f}x ({ratio['q1']:.2f}-{ratio['q3']:.2f}; must {row['must']}, "
        f"aim {row['aim']}), seam {seam['median']:.3g} ms (min {seam['min']:.3g}), "
        f"rival {rival['median']:.3g} ms (min {rival['min']:.3g}), {row['rounds']} rounds; "
        f"extra memory {row['memory']['seam']['of_saved']:.2f} of the saved activations"
    )
