"""Reproduces the reference's behaviour on R8: three classes, both schedules, three seeds, protocol ``reference``.

    python -m benchmarks.quality.reference_table --base data/models/LSTM_classifier.pt

The base is one of the public recipe (trained if the file is not there). Accuracies are the reference's: on its balanced
test subset, of the epoch its rule selects; the precision beside them is of the same module on the whole test set.
Writes runs/bench/reference_table.json and prints a Markdown table.
"""

import argparse
import shlex
import sys
from pathlib import Path

import seam_fast as sf
from benchmarks.harness import records
from benchmarks.report.tables_quality import reference_table
from seam_fast.cli import report
from seam_fast.cli.bases import train_base
from seam_fast.cli.corpora import corpus_for_base, get_corpus
from seam_fast.cli.main import run_guarded
from seam_fast.common.progress import say

RUNS = (
    ("grain", "seam", 100),
    ("grain", "port", 100),
    ("ship", "seam", 40),
    ("ship", "port", 40),
    ("interest", "seam", 25),
)
SEEDS = (0, 1, 2)


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser("python -m benchmarks.quality.reference_table", description=__doc__.split("\n")[0])
    parser.add_argument("--base", default="data/models/LSTM_classifier.pt")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", default="runs/bench/reference_table.json")
    arguments = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "benchmarks.quality.reference_table", *argv])
    return run_guarded("reference_table", lambda: run(arguments, command))


def run(arguments, command: str) -> int:
    out, path = records.check_path(Path(arguments.out)), Path(arguments.base)
    if path.exists():
        base = sf.LSTMClassifier.load(path)
        corpus = corpus_for_base(base, "r8", arguments.data_dir, say)
    else:
        corpus = get_corpus("r8", arguments.data_dir, "reference", None, say)
        base = train_base(corpus, "public", 0, path, say)
    test = sf.evaluate_classifier(base, corpus.test)
    rows = []
    for name, schedule, epochs in RUNS:
        target = corpus.class_names.index(name)
        for seed in SEEDS:
            (module,) = sf.reengineer(
                base, corpus, [target], protocol="reference", schedule=schedule, epochs=epochs, seed=seed
            )
            chosen = module.history[module.card["best_epoch"]]
            rows.append(
                {
                    "class": name,
                    "schedule": schedule,
                    "epochs": epochs,
                    "seed": seed,
                    "acc_pre": module.card["evaluation"]["base"]["accuracy"],
                    "selected_accuracy": chosen["accuracy"],
                    "best_accuracy": max(figures["accuracy"] for figures in module.history),
                    "whole_test": {name: module.metrics["test"][name] for name in ("precision", "recall", "f1")},
                    "kept": module.kept,
                    "kept_by_weight": module.kept_by_weight,
                    "selected_epoch": chosen["epoch"],
                    "seconds": module.card["seconds"],
                    "steps": module.card["steps"],
                }
            )
            say(reference_table(rows[-1:]).splitlines()[-1])
    record = {
        "format": "seam-fast reference table 1",
        "command": command,
        "machine": report.machine(),
        "base": {"hash": base.hash, "recipe": base.info.get("recipe", "public"), "test_accuracy": test.accuracy},
        "data_hash": corpus.data_hash,
        "engine": module.card["engine"],
        "rows": rows,
    }
    records.save(record, out)
    print(reference_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
