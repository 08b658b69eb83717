"""How good bases and modules are on R8: several seeds, each evaluated once on the test set.

    python -m benchmarks.quality base        # trains the strong recipe with three seeds
    python -m benchmarks.quality modules     # all eight classes from the first of those bases, three module seeds
    python -m benchmarks.quality study       # both protocols, engine and plain PyTorch, with baselines; half an hour
    python -m benchmarks.quality study --minutes 8 --out runs/study.json            # in pieces: first some ...
    python -m benchmarks.quality study --more runs/study.json --out runs/study.json # ... then the rest
    python -m benchmarks.quality study --quick                                               # two minutes

Bases go to runs/quality/, records to runs/bench/quality_base_<recipe>.json, quality_modules.json and
quality_study.json; each prints a Markdown table. Settings and epochs are chosen on validation documents only.
"""

import argparse
import shlex
import statistics
import sys
from pathlib import Path

import seam_fast as sf
from benchmarks.harness import records
from benchmarks.quality import study as quality_study
from benchmarks.report import tables_quality as tables
from seam_fast.cli import report
from seam_fast.cli.bases import RECIPE_PROTOCOL, train_base
from seam_fast.cli.corpora import corpus_for_base, get_corpus
from seam_fast.cli.main import run_guarded
from seam_fast.common.progress import say

BASES = Path("runs/quality")


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser("python -m benchmarks.quality", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("base", "modules", "study"))
    parser.add_argument("--data-dir")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2 for bases, 100 101 102 else")
    parser.add_argument(
        "--base", help="for modules and protocol seam: the base (default: runs/quality/base_0.safetensors)"
    )
    parser.add_argument("--recipe", choices=tuple(RECIPE_PROTOCOL), default="strong")
    parser.add_argument(
        "--records", default="runs/bench", metavar="DIR", help="folder of the records (default: runs/bench)"
    )
    parser.add_argument("--more", metavar="RECORD", help="study: go on with this record")
    parser.add_argument("--minutes", type=float, help="study: begin no further piece after so many minutes")
    parser.add_argument("--quick", action="store_true", help="study: a seed, three classes, few epochs")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--public-base", default="data/models/LSTM_classifier.pt", help="study: trained if not there")
    parser.add_argument("--out", metavar="FILE", help="study: the record (default: quality_study.json in that folder)")
    arguments = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "benchmarks.quality", *argv])
    arguments.base_of_seam = arguments.base or BASES / "base_0.safetensors"
    BASES.mkdir(parents=True, exist_ok=True)
    run = {"base": run_bases, "modules": run_modules, "study": quality_study.run}[arguments.what]
    return run_guarded("quality", lambda: run(arguments, command))


def spread(values: list[float]) -> dict:
    """Mean, least and greatest of a figure over seeds."""
    return {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}


def run_bases(arguments, command: str) -> int:
    out = records.check_path(Path(arguments.records) / f"quality_base_{arguments.recipe}.json")
    corpus = get_corpus("r8", arguments.data_dir, RECIPE_PROTOCOL[arguments.recipe], None, say)
    rows = []
    for seed in arguments.seeds or (0, 1, 2):
        name = f"{'base' if arguments.recipe == 'strong' else arguments.recipe}_{seed}.safetensors"
        base = train_base(corpus, arguments.recipe, seed, BASES / name, say)
        rows.append({"seed": seed, "hash": base.hash, "info": base.info})
    tests = [row["info"]["test"] for row in rows]
    record = {
        "format": "seam-fast quality base 1",
        "command": command,
        "machine": report.machine(),
        "recipe": arguments.recipe,
        "data_hash": corpus.data_hash,
        "accuracy": spread([test["accuracy"] for test in tests]),
        "mean_f1": spread([test["mean_f1"] for test in tests]),
        "seeds": rows,
    }
    records.save(record, out)
    print(tables.bases(record), tables.bases_sentence(record), sep="\n\n")
    return 0


def run_modules(arguments, command: str) -> int:
    out = records.check_path(Path(arguments.records) / "quality_modules.json")
    path = Path(arguments.base_of_seam)
    if path.exists() or arguments.base:
        base = sf.LSTMClassifier.load(path)
        corpus = corpus_for_base(base, "r8", arguments.data_dir, say)
    else:
        corpus = get_corpus("r8", arguments.data_dir, "seam", None, say)
        base = train_base(corpus, "strong", 0, path, say)
    runs = []
    for seed in arguments.seeds or (100, 101, 102):
        modules = sf.reengineer(base, corpus, range(corpus.num_classes), seed=seed, progress=True)
        say(f"seed {seed}\n{report.table(modules)}")
        rows = [report.module_row(module) for module in modules]
        runs.append({"seed": seed, "modules": rows, "mean": report.mean_row(rows)})
    means = [run["mean"] for run in runs]
    record = {
        "format": "seam-fast quality modules 1",
        "command": command,
        "machine": report.machine(),
        "base": {"hash": base.hash, "info": base.info},
        "data_hash": corpus.data_hash,
        "engine": modules[0].card["engine"],
        "settings": modules[0].card["settings"],
        "base_f1": means[0]["base_f1"],
        "f1": spread([mean["f1"] for mean in means]),
        "kept": spread([mean["kept"] for mean in means]),
        "kept_lstm": spread([mean["kept_by_group"]["lstm"] for mean in means]),
        "seeds": runs,
    }
    records.save(record, out)
    print(tables.modules(record), tables.modules_sentence(record), sep="\n\n")
    return 0
