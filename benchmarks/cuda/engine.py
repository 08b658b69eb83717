"""The SEAM engine on a GPU beside the reference and a captured graph of cuDNN, and how many modules it trains at once.

    python -m benchmarks.cuda.engine --minutes 8                   # most telling piece first; says what it left out
    python -m benchmarks.cuda.engine --more runs/cuda_engine.json  # what that record lacks
    python -m benchmarks.cuda.engine --pieces study --epochs 30
    python -m benchmarks.cuda.engine --dry                         # tiny, on the CPU: shows that the script runs

R8 where SEAM_FAST_DATA or --data-dir says where it is, else invented documents of its sizes. Writes the record after
every piece and, beside it, a table of the figures that were set as targets. Ends with exit code 1 if a result was wrong
or a piece failed; the others are measured all the same.
"""

import argparse
import json
import os
import shlex
import sys
import time
import warnings
from pathlib import Path

from benchmarks.baselines.lstm import unavailable_libraries
from benchmarks.cuda import device
from benchmarks.cuda.engine_bench import BASE_EPOCHS, Bench
from benchmarks.harness.machine import load_average
from benchmarks.report.cuda_engine_text import EPOCHS, PIECES, describe, details, failures, summary
from seam_fast.cli.json_output import write_json
from seam_fast.cli.main import run_guarded
from seam_fast.common.progress import say
from seam_fast.errors import DataWarning, SeamFastError
from seam_fast.training import devices

TF32_WAYS = ("engine_tf32", "graph_rows_tf32")
FORMAT = "seam-fast cuda engine 1"
METHOD = (
    "One process, to which CUDA gives 32 queues (CUDA_DEVICE_MAX_CONNECTIONS), as seam-fast reengineer does. "
    "step: one module of a class against as many others, batch 5, head and scores together; blocks of "
    "all ways in turn, round after round. us: microseconds a step by the host's clock from the epoch's documents in "
    "the host's memory to its mean loss, by the number of steps: plan, copies, launches, flush, all of it. us_events: "
    "the same between two CUDA events before and after the block, on its stream. A ratio is of two times of the same "
    "round by the host's clock, above 1 the engine is faster; that of graph_rows_tf32 is against engine_tf32. "
    "engine: seam_fast's CudaTrainer, many steps a launch. graph_trainer: its CudaGraphTrainer, ordinary kernels and "
    "the op in a captured graph. "
    "graph_rows, graph_table: a captured graph of cuDNN's LSTM and torch's fused Adam, with scores for the rows that "
    "the documents can touch, or for all; documents lie on the GPU, so nothing but replays is between two steps. "
    "reference: the public port's step on the GPU, eager, every weight masked and stepped, three numbers read and "
    "every gradient copied to the host. reference_without_copies: without the latter. reference_best: rows of the "
    "batch alone, fused Adam, only the loss read. engine_tf32, graph_rows_tf32: engine and graph_rows with torch's "
    "switches for tf32, of products and of cuDNN, on while they are made, recorded and run, and off again after each "
    "epoch. All but the eager ones have taken 1,001 steps before. Agreement: "
    "first: 20 steps of every way against seam_fast.reference in float64, allowed is twice the reference's own float32 "
    "error and a floor, and to rivals in float32, which may be less exact, 2^6 times that, by the rule of tf32 below; "
    "the tables say where a rival is off by more than is allowed to ours; "
    "long: 1,500 steps of the engine and graph_trainer at a rate at which no score flips, against "
    "plain PyTorch in float64. By tf32 losses, scores and flips may be 2^13 times as far off (10 bits instead of 23), "
    "a score counts as far off at 2^13 times the distance, and no more of them may be; and gradients, by Adam's mean "
    "of them after 20 steps without a flip, may be off by 2^13 times twice float32's own error and a rounding, but by "
    "no more than a tenth. scaling: so many modules beside one another, each in a thread and on a stream of its "
    "own, an epoch each; us: from the start of the first to the end of the last by the steps of one; before, all of "
    "them must come to the very bits of one that was alone. eight: seam_fast.reengineer, protocol reference, all eight "
    "classes, from the call to the modules. study: 8 classes x 16 settings of alpha and lr_mask, by one call of "
    "seam_fast.reengineer_many, from the call to the modules. Runs of the "
    "same must give the same bits, and the study's modules at the reference's own settings those of eight. Where time "
    "ran out, seconds are estimated from the steps done. kernels: what the profiler saw the GPU do in a block of step, "
    "kernels and copies; gaps between them do not count. float32 without tf32 but in the two ways named so. "
    "Corpus, base and the modules' classes are on the CPU before any clock runs."
)


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser("python -m benchmarks.cuda.engine", description=__doc__.split("\n")[0])
    parser.add_argument("--pieces", nargs="+", choices=PIECES, default=PIECES, metavar="PIECE", help=", ".join(PIECES))
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of eight and study (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="begin nothing after so many minutes, and cut runs short then")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for the rounds of step and scaling, each")
    parser.add_argument("--more", nargs="+", metavar="RECORD", help="keep what these records hold, measure the rest")
    parser.add_argument(
        "--base", metavar="FILE", help=f"trained base (default: one of {BASE_EPOCHS} epochs, made here)"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="folder with R8 (see also SEAM_FAST_DATA)")
    parser.add_argument("--dry", action="store_true", help="tiny, on the CPU, which says nothing about speed")
    parser.add_argument("--commit", help="the commit to write down, where the source lies outside of a git checkout")
    parser.add_argument("--out", default="runs/cuda_engine.json", help="the record (default: %(default)s)")
    arguments = parser.parse_args(argv)
    arguments.rivals_only = False
    command = shlex.join(["python", "-m", "benchmarks.cuda.engine", *argv])
    return run_guarded("cuda_engine", lambda: run(arguments, command))


def run(arguments, command: str) -> int:
    begin = time.monotonic()
    devices.ask_for_queues()
    if arguments.dry:
        warnings.simplefilter("ignore", DataWarning)  # the base of a dry run has learned nothing
    if arguments.seconds <= 0 or arguments.epochs < 1 or (arguments.minutes is not None and arguments.minutes < 0):
        raise SeamFastError("--seconds must be above 0, --epochs 1 or more and --minutes not below 0")
    record, out = earlier_records(arguments), Path(arguments.out)
    if arguments.minutes == 0:  # only joins records
        return finish(record, out)
    end = None if arguments.minutes is None else begin + 60 * arguments.minutes
    bench = Bench(arguments, end)
    this = {
        "command": command,
        "machine": bench.machine(arguments.commit),
        "settings": {name: getattr(arguments, name) for name in ("seconds", "minutes", "epochs", "dry")}
        | {"seed": 0, "tf32": {"matmul": False, "cudnn": False, "but_in": sorted(TF32_WAYS)}},
        "workload": bench.about(),
        "stopped": "",
    }
    record["runs"].append(this)
    check_comparable(record["runs"])
    known = {row["key"] for row in record["rows"]}
    chosen = [name for name in PIECES if name in arguments.pieces and bench.key(name) not in known]
    record["unmeasured"], broken = chosen[:], False
    with device.frozen_heap():
        while chosen and not broken:
            if bench.time_is_up():
                this["stopped"] = f"the {arguments.minutes:g} minutes were over"
                break
            row = bench.row(chosen.pop(0), record["rows"]) | {"run": len(record["runs"]) - 1}
            record["rows"].append(row)
            record["unmeasured"] = chosen[:]
            say(describe(row))
            this["stopped"] = bench.stop_reason()
            broken = bool(this["stopped"])
            save(record, out)
    this["machine"]["load"]["after"] = load_average()
    this["gpu_after"] = bench.gpu_state()
    return max(int(broken), finish(record, out))


def earlier_records(arguments) -> dict:
    """A record that holds the complete rows without a fault of the records in ``--more``."""
    record = {"format": FORMAT, "method": METHOD, "left_out": unavailable_libraries(gpu=True)}
    record |= {"runs": [], "unmeasured": [], "rows": []}
    for path in arguments.more or ():
        earlier = json.loads(Path(path).read_text())
        if earlier.get("format") != FORMAT:
            raise SeamFastError(f"{path} is not a record of this kind")
        first, have = len(record["runs"]), {row["key"] for row in record["rows"]}
        record["runs"] += earlier["runs"]
        for row in earlier["rows"]:
            if not failures(row) and row["whole"] and row["key"] not in have:
                record["rows"].append(row | {"run": row["run"] + first})
    if arguments.minutes == 0 and not record["runs"]:
        raise SeamFastError("--minutes 0 measures nothing: it puts the records together that --more names")
    check_comparable(record["runs"])
    return record


def check_comparable(runs: list[dict]) -> None:
    """Raises SeamFastError if rows of these runs cannot stand in one table: other machine, sources or documents."""
    device.check_comparable(runs)
    if len({run["workload"]["data_hash"] for run in runs}) > 1:
        raise SeamFastError("rows of different documents cannot stand in one table")


def finish(record: dict, out: Path) -> int:
    save(record, out)
    print(summary(record))
    return int(any(failures(row) for row in record["rows"]))


def save(record: dict, out: Path) -> None:
    write_json(out, record)
    text = "\n\n".join([summary(record), *details(record)])
    out.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    # Graphs may crash once the profiler has torn down its tracer.
    os.environ.update(DISABLE_CUPTI_LAZY_REINIT="1", TEARDOWN_CUPTI="0")
    sys.exit(main())
