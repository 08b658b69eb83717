"""Answers of a module beside those of its base and of what a user would take instead: time, size, quality; one core.

    python -m benchmarks.cpu.inference --run runs/r8                  # a run of seam-fast reengineer; some minutes
    python -m benchmarks.cpu.inference --run runs/r8 --quick

Every rival takes texts and gives an answer to each, tokenizing included, in batches of 1 and of 64. Before the clock
runs, the module's own forms are compared with one another, and their answers on all test documents are counted. Writes
runs/bench/inference.json and prints a line a class.
"""

import argparse
import contextlib
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.baselines import inference as rivals
from benchmarks.harness import machine, records, timing
from benchmarks.harness.priority import realtime_priority
from seam_fast import _ext, runtime
from seam_fast.classifier.metrics import binary_metrics
from seam_fast.classifier.model import LSTMClassifier
from seam_fast.cli import report
from seam_fast.cli.main import run_guarded
from seam_fast.common.progress import say
from seam_fast.data.r8 import find_documents
from seam_fast.errors import SeamFastError
from seam_fast.modules.seam_module import SeamModule

FORMAT = "seam-fast inference 1"
SEED = 0
BATCHES = (1, 64)
STORED = (("float32", "own"), ("float16", "own"), ("int8", "own"), ("float32", "dropped"), ("int8", "dropped"))
FORMS = ("module", "compact", "numpy", "c", "onnx")  # of the module, whose answers must agree
TOLERANCE = 1e-5  # of a probability; the sum of some hundred float32 roundings stays well below it
METHOD = (
    "Microseconds a text, one thread, one process: passes over the same texts, drawn from R8's test documents, in "
    "batches of so many texts; passes of all rivals in turn (A B C A B C ...). Tokenizing is part of every time. base: "
    "the whole classifier's class probabilities, in torch; module: its masked weights, made before; compact: the "
    "compact module, by the compiled kernels; numpy: the same by seam_fast.runtime, NumPy alone; onnx: ONNX Runtime; "
    "c: the exported C, compiled for this processor by cc -O3, text by text whatever the batch; svm: scikit-learn's "
    "TF-IDF of words and linear SVM with its defaults, fitted to the whole training texts with this class against the "
    "rest; fasttext: the supervised classifier of fastText with its defaults, fitted to the same, text by text "
    "whatever the batch. Ratio: base / rival of the same pass, so above 1 the rival is faster. agreement: the largest "
    "difference of a form's probabilities from the module's in float64, over all test documents. stored: bytes of the "
    "compact file, answers that differ from the module's and F1 over all test documents. load: milliseconds to read "
    "the file by seam_fast.runtime. alone: whether "
    "each pass was timed at real-time priority, so that what others do on the machine counts less."
)


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser("python -m benchmarks.cpu.inference", description=__doc__.split("\n")[0])
    parser.add_argument("--run", required=True, metavar="DIR", help="folder of a run on R8, with base.safetensors")
    parser.add_argument("--data-dir", metavar="DIR", help="folder with R8 (see also SEAM_FAST_DATA)")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--texts", type=int, default=512, help="texts of a pass")
    alone = "time at real-time priority, on a machine that others use too (needs root)"
    parser.add_argument("--alone", action="store_true", help=alone)
    parser.add_argument("--quick", action="store_true", help="few texts, few rounds")
    parser.add_argument("--out", default="runs/bench/inference.json")
    arguments = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "benchmarks.cpu.inference", *argv])
    return run_guarded("inference", lambda: run(arguments, command))


def run(arguments, command: str) -> int:
    if arguments.rounds < 1 or arguments.texts < 1:
        raise SeamFastError("--rounds and --texts must be 1 or more")
    if arguments.quick:
        arguments.rounds, arguments.texts = min(arguments.rounds, 3), min(arguments.texts, 64)
    out = records.check_path(Path(arguments.out))
    torch.set_num_threads(1)
    load = {"before": machine.load_average(), "busy": machine.busy_cores()}
    folder = Path(arguments.run)
    base = LSTMClassifier.load(folder / "base.safetensors")
    train, test, _ = find_documents(arguments.data_dir, say)
    chosen = np.random.RandomState(SEED).permutation(len(test.texts))[: arguments.texts]
    rows, left_out = [], {}
    for path in sorted((folder / "modules").glob("*.safetensors")):
        if path.name.endswith(".compact.safetensors"):
            continue
        module = SeamModule.load(path, base)
        name = "+".join(base.names_or_refuse()[k] for k in module.target)
        if arguments.classes and name not in arguments.classes:
            continue
        rows.append(measure(module, name, path, train, test, chosen, arguments, left_out))
        say(describe(rows[-1]))
    if not rows:
        raise SeamFastError(f"{folder}: has no modules of these classes; run seam-fast reengineer first")
    about = report.machine() | {"load": load | {"after": machine.load_average()}, "threads": 1}
    about["isa"] = {"seam": _ext.C.isa() if _ext.has_ext() else None}
    record = {"format": FORMAT, "command": command, "quick": arguments.quick, "machine": about, "method": METHOD}
    record |= {"alone": arguments.alone, "seeds": {"texts": SEED}, "texts": len(chosen), "left_out": left_out}
    records.save(record | {"base": base.hash, "rows": rows}, out)
    return 0


def measure(module, name: str, path: Path, train, test, chosen, arguments, left_out: dict) -> dict:
    """One row of the record: a class."""
    wanted = torch.tensor([label == name for label in test.labels])
    with tempfile.TemporaryDirectory() as folder:
        made, given = rivals.make(module, name, train, Path(folder))
        left_out |= given
        exact = rivals.exact_probability(module, test.texts)
        agreement = {}
        for form in FORMS:
            if form in made:
                agreement[form] = float(np.abs(made[form](test.texts) - exact).max())
                if not agreement[form] <= TOLERANCE:
                    raise SeamFastError(
                        f"{name}: {form} is off by {agreement[form]:.3g}, where {TOLERANCE:g} is allowed"
                    )
        texts = [test.texts[k] for k in chosen]
        times = []
        for batch in BATCHES:
            passes = {key: rivals.in_batches(answer, texts, batch) for key, answer in made.items()}
            with realtime_priority() if arguments.alone else contextlib.nullcontext():
                found, _, _ = timing.time_in_turn(passes, arguments.rounds, 0.0, 0)
            times.append(
                {
                    "batch": batch,
                    "rounds": arguments.rounds,
                    "us": {key: timing.spread(seconds, 1e6 / len(texts)) for key, seconds in found.items()},
                    "against": timing.ratios_against(found, ["base"]),
                }
            )
        stored = [store(module, dtype, unknown, exact, wanted, test.texts, Path(folder)) for dtype, unknown in STORED]
    answers = {"module": exact >= 0.5}
    answers |= {key: made[key](test.texts) > 0 for key in ("svm", "fasttext") if key in made}
    return {
        "class": name,
        "kept": module.kept,
        "module_bytes": path.stat().st_size,
        "base_bytes": sum(weight.nbytes for weight in module.base.weights().values()),
        "f1": {key: f1(torch.from_numpy(each), wanted) for key, each in answers.items()},
        "agreement": agreement,
        "times": times,
        "stored": stored,
    }


def store(module, dtype: str, unknown: str, exact, wanted, texts, folder: Path) -> dict:
    """Size and answers of the module in a compact file."""
    path = module.compact(dtype, unknown).save(folder / "stored.safetensors")
    answers = runtime.load(path).predict(texts)
    loads, _, _ = timing.time_in_turn({"load": lambda: runtime.load(path)}, 9, 0.0, 0)
    return {
        "dtype": dtype,
        "unknown": unknown,
        "bytes": path.stat().st_size,
        "changed": int((answers != (exact >= 0.5)).sum()),
        "f1": f1(torch.from_numpy(answers), wanted),
        "load_ms": timing.spread(loads["load"], 1e3),
    }


def f1(answers: torch.Tensor, wanted: torch.Tensor) -> float:
    """F1 of answers, bool (N,)."""
    return float(binary_metrics(answers, wanted)["f1"])


def describe(row: dict) -> str:
    """A row in a line."""
    times = "; ".join(
        f"batch {each['batch']}: " + ", ".join(f"{key} {us['median']:.0f}" for key, us in each["us"].items())
        for each in row["times"]
    )
    return f"{row['class']}: us a text, {times}; {row['stored'][2]['bytes'] / 1000:.0f} kB in 8 bits"


if __name__ == "__main__":
    sys.exit(main())
