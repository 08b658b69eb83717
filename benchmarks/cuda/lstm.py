"""The masked LSTM on a GPU beside cuDNN: both in one process, in turn, forward and backward with all gradients.

    python -m benchmarks.cuda.lstm --minutes 8                 # most telling shapes first; says what it left out
    python -m benchmarks.cuda.lstm --more runs/cuda_lstm.json  # what that record lacks
    python -m benchmarks.cuda.lstm --groups anchors h512 --dtypes bfloat16
    python -m benchmarks.cuda.lstm --rivals-only               # cuDNN alone: needs no kernels of ours
    python -m benchmarks.cuda.lstm --dry                       # tiny shapes on the CPU: shows that the script runs

Each group of shapes has a process of its own, and a new one after a shape that leaves none to work with. Writes the
record after every shape and, beside it, a table of the ratios in each row of targets. Ends with exit code 1 if a result
was wrong or a shape failed; the others are measured all the same.
"""

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path

from benchmarks.baselines.lstm import SEED, unavailable_libraries
from benchmarks.cuda import bench_process
from benchmarks.cuda.device import check_comparable, first_line
from benchmarks.harness.cuda_grid import DEFAULT, DTYPES, GROUPS
from benchmarks.harness.machine import load_average
from benchmarks.report.cuda_lstm_text import describe, details, summary
from seam_fast.cli.json_output import write_json
from seam_fast.cli.main import run_guarded
from seam_fast.common.progress import say
from seam_fast.errors import SeamFastError

FORMAT = "seam-fast cuda lstm 1"
METHOD = (
    "A process for each group of shapes; blocks of calls of all ways in turn, round after round, each block timed by "
    "two CUDA events. Times in ms a call. seam, cudnn, whole, seam_forward, cudnn_forward, padded and compiled are "
    "CUDA graphs of one call that are replayed back to back; those whose names end in _eager are called from Python "
    "back to back. seam: seam_fast.masked_lstm with the gradients of input and scores. cudnn: torch's LSTM kernel on "
    "weights that were masked before the clock ran, in one piece of memory where in_one_piece says so, with the "
    "gradients of input and weights. whole: products of weights and masks, that kernel, gradients times weights and "
    "their clamp. packed_eager: cudnn on a PackedSequence, packed and unpacked on the way (no graph can record it). "
    "padded: cudnn on all T steps, padding made zero, without c_n. A ratio is of two times of the same round; above 1 "
    "seam-fast is faster: cudnn, whole and padded against seam; cudnn_forward against seam_forward; cudnn_eager and "
    "packed_eager against seam_eager; packed against seam. Numbers are random but the same for all ways; half of the "
    "scores are positive. Before the clock runs and after it, all results are compared with cuDNN in float64 on the "
    "same numbers: error is the largest difference relative to the largest value, and seam's may be twice whole's plus"
    " 8 roundings; a rival may be less exact than that, up to what rounding every addition of its longest sum can cost"
    " (a quarter at most), and the tables say how far off it is. float32 is computed without tf32 but where a row says"
    " tf32. Memory: the most that a call holds beyond what was there and what it returns. GFLOP/s count the matrix "
    "products of real steps, 24 H (I + H) a step."
)


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser("python -m benchmarks.cuda.lstm", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--groups", nargs="+", metavar="GROUP", help=f"of {', '.join(GROUPS)} (default: all but the last)"
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, metavar="DTYPE", help=", ".join(DTYPES))
    parser.add_argument("--minutes", type=float, help="begin no further shape after so many minutes")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for the rounds of a shape (default: 1)")
    parser.add_argument("--rivals-only", action="store_true", help="measure cuDNN alone")
    parser.add_argument("--more", nargs="+", metavar="RECORD", help="keep what these records hold, measure the rest")
    parser.add_argument("--dry", action="store_true", help="tiny shapes on the CPU, which say nothing about speed")
    parser.add_argument("--commit", help="the commit to write down, where the source lies outside of a git checkout")
    parser.add_argument("--out", default="runs/cuda_lstm.json", help="the record (default: %(default)s)")
    arguments = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "benchmarks.cuda.lstm", *argv])
    return run_guarded("cuda_lstm", lambda: run(arguments, command))


def run(arguments, command: str) -> int:
    begin = time.monotonic()
    groups = {name: entries[: len(DTYPES)] for name, entries in GROUPS.items()} if arguments.dry else GROUPS
    unknown = [name for name in arguments.groups or () if name not in groups]
    if unknown:
        raise SeamFastError(f"group {unknown[0]!r} is unknown; there are {', '.join(GROUPS)}")
    if arguments.seconds <= 0 or (arguments.minutes is not None and arguments.minutes < 0):
        raise SeamFastError("--seconds must be above 0 and --minutes not below")
    record = earlier_records(arguments)
    if arguments.minutes == 0:  # only joins records
        return finish(record, Path(arguments.out))
    this = {
        "command": command,
        "settings": {"seed": SEED, "seconds": arguments.seconds, "minutes": arguments.minutes, "dry": arguments.dry},
        "stopped": "",
    }
    chosen = [entry for name in arguments.groups or DEFAULT for entry in groups[name]]
    known = {row["key"] for row in record["rows"]}
    chosen = [entry for entry in chosen if entry.dtype in arguments.dtypes and entry.key not in known]
    bench = bench_process.BenchPerGroup(arguments)
    try:
        this["machine"] = bench.ask("machine", arguments.commit)
        record["runs"].append(this)
        check_comparable(record["runs"])
        record["unmeasured"] = [entry.key for entry in chosen]
        while chosen and not this["stopped"]:
            if arguments.minutes is not None and time.monotonic() - begin > 60 * arguments.minutes:
                this["stopped"] = f"the {arguments.minutes:g} minutes were over"
                break
            try:
                row = bench.row(chosen[0]) | {"run": len(record["runs"]) - 1}
            except SeamFastError as error:
                this["stopped"] = first_line(error)
                break
            record["rows"].append(row)
            record["unmeasured"] = [entry.key for entry in chosen[1:]]
            chosen.pop(0)
            say(describe(row))
            save(record, Path(arguments.out))
        this["machine"]["load"]["after"] = load_average()
        this["gpu_after"] = bench.last_state()
    finally:
        bench.close()
    return max(int(bench.gone), finish(record, Path(arguments.out)))


def earlier_records(arguments) -> dict:
    """A record that holds the rows without a fault of the records in ``--more``."""
    left_out = unavailable_libraries(gpu=True)
    if "compiled" not in (arguments.groups or ()):
        left_out["compiled"] = "it takes minutes to compile; ask for it by --groups compiled"
    record = {"format": FORMAT, "method": METHOD, "rivals_only": arguments.rivals_only, "left_out": left_out}
    record |= {"runs": [], "unmeasured": [], "rows": []}
    for path in arguments.more or ():
        earlier = json.loads(Path(path).read_text())
        if earlier.get("format") != FORMAT or earlier["rivals_only"] != arguments.rivals_only:
            raise SeamFastError(f"{path} is not a record of this kind")
        first, have = len(record["runs"]), {row["key"] for row in record["rows"]}
        record["runs"] += earlier["runs"]
        for row in earlier["rows"]:
            if not row["fault"] and row["key"] not in have:
                record["rows"].append(row | {"run": row["run"] + first})
    if arguments.minutes == 0 and not record["runs"]:
        raise SeamFastError("--minutes 0 measures nothing: it puts the records together that --more names")
    check_comparable(record["runs"])
    return record


def finish(record: dict, out: Path) -> int:
    save(record, out)
    print(summary(record))
    return int(any(row["fault"] for row in record["rows"]))


def save(record: dict, out: Path) -> None:
    write_json(out, record)
    out.with_suffix(".txt").write_text(f"{summary(record)}\n\n{details(record)}\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    sys.exit(main())
