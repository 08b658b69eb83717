"""The whole job as the reference does it, timed: a module for each of R8's eight classes, 300 epochs, and the result.

    python benchmarks/job.py                                  # two workers
    python benchmarks/job.py --epochs 10 --backend torch

Protocol ``reference``: as many others as targets, batches of 5, every fifth epoch the head alone, the test subset
looked at after each epoch. The base is one of the public recipe (trained if the file is not there). The time is that of
``seam_fast.reengineer``, reading the corpus and the base left out. Writes benchmarks/records/job.json and prints a
Markdown table.
"""

import argparse
import shlex
import statistics
import sys
import time
from pathlib import Path

import measure
from step import load_base, verdict

import seam_fast as sf
from seam_fast import _ext, report
from seam_fast.backend import choose_engine
from seam_fast.cli import run_guarded
from seam_fast.errors import SeamFastError
from seam_fast.workflow import write_json

EPOCHS = 300
TARGETS = (300, 120)  # seconds for all of it on two cores: at most, and better


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", default="data/models/LSTM_classifier.pt", help="trained if it is not there")
    parser.add_argument("--data-dir")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=2, help="modules trained at the same time")
    parser.add_argument("--backend", default="auto", help="what trains (default: auto)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="the record (default: in runs/, of the whole job by native code in records/)")
    arguments = parser.parse_args(argv)
    command = shlex.join(["python", "benchmarks/job.py", *argv])
    return run_guarded("job", lambda: run(arguments, command))


def run(arguments, command: str) -> int:
    if arguments.epochs < 1:
        raise SeamFastError("--epochs must be 1 or more")
    engine = choose_engine(arguments.backend)
    whole = (arguments.epochs, arguments.threads, engine) == (EPOCHS, 2, "cpu")
    out = Path(arguments.out or ("benchmarks/records" if whole else "runs") + "/job.json")
    base, corpus = load_base(arguments.base, arguments.data_dir)
    record = do_job(base, corpus, arguments, command)
    write_json(out, record)
    print(markdown(record))
    return 0


def do_job(base, corpus, arguments, command: str) -> dict:
    """Trains a module for every class, and says what it took and what it gave."""
    load, before = measure.load(), measure.resident()
    begun = time.perf_counter()
    modules = sf.reengineer(
        base,
        corpus,
        range(corpus.num_classes),
        protocol="reference",
        epochs=arguments.epochs,
        seed=arguments.seed,
        threads=arguments.threads,
        backend=arguments.backend,
        progress=True,
    )
    seconds = time.perf_counter() - begun
    steps = sum(module.card["steps"] for module in modules)
    figures = {
        "seconds": round(seconds, 4),
        "steps": steps,
        "steps_a_second": round(steps / seconds, 1),
        "resident_before": before,
        "peak_resident": measure.peak_resident(),
    }
    if (arguments.epochs, arguments.threads, corpus.synthetic) == (EPOCHS, 2, False):
        figures |= verdict(seconds, *TARGETS)
    return {
        "format": "seam-fast job 1",
        "command": command,
        "machine": report.machine()
        | {
            "engine": modules[0].card["engine"],
            "catch_up": modules[0].card.get("catch_up"),
            "isa": _ext.C.isa() if _ext.C else None,
            "threads": arguments.threads,
            "load": {"before": load, "after": measure.load()},
        },
        "base": {"hash": base.hash, "vocabulary": base.vocab_size},
        "data_hash": corpus.data_hash,
        "synthetic": corpus.synthetic,
        "settings": modules[0].card["settings"],
        "seed": arguments.seed,
        "figures": figures,
        "rows": [row(module) for module in modules],
    }


def row(module) -> dict:
    """A module in the reference's figures, and in those of the whole test set."""
    chosen = module.history[module.card["best_epoch"]]
    return {
        "class": "+".join(module.card["target_names"]),
        "acc_pre": module.card["evaluation"]["base"]["accuracy"],
        "selected_accuracy": chosen["accuracy"],
        "selected_epoch": chosen["epoch"],
        "best_accuracy": max(figures["accuracy"] for figures in module.history),
        "kept": module.kept,
        "kept_by_group": module.kept_by_group,
        "vocabulary_floor": module.card["vocabulary_floor"],
        "whole_test": {name: module.metrics["test"][name] for name in ("precision", "recall", "f1")},
        "base_f1": module.metrics["base"]["f1"],
        "steps": module.card["steps"],
        "seconds": module.card["seconds"],
    }


def markdown(record: dict) -> str:
    """The table of a record, and a line on what it took."""
    lines = [
        "| class | acc_pre | selected accuracy (best) | kept % | vocabulary floor % "
        "| F1 on the whole test set (precision, recall) | base F1 | steps | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in record["rows"]:
        test = entry["whole_test"]
        lines.append(
            f"| {entry['class']} | {100 * entry['acc_pre']:.1f} "
            f"| {100 * entry['selected_accuracy']:.1f} ({100 * entry['best_accuracy']:.1f}) "
            f"| {100 * entry['kept']:.2f} | {100 * entry['vocabulary_floor']:.1f} "
            f"| {test['f1']:.3f} ({test['precision']:.2f}, {test['recall']:.2f}) "
            f"| {entry['base_f1']:.3f} | {entry['steps']:,} | {entry['seconds']:.1f} |"
        )

    def mean(get):
        return statistics.fmean(get(entry) for entry in record["rows"])

    lines.append(
        f"| mean | {100 * mean(lambda e: e['acc_pre']):.1f} | {100 * mean(lambda e: e['selected_accuracy']):.1f} "
        f"({100 * mean(lambda e: e['best_accuracy']):.1f}) | {100 * mean(lambda e: e['kept']):.2f} "
        f"| {100 * mean(lambda e: e['vocabulary_floor']):.1f} | {mean(lambda e: e['whole_test']['f1']):.3f} "
        f"| {mean(lambda e: e['base_f1']):.3f} | | |"
    )
    figures, about = record["figures"], record["machine"]
    engine = about["engine"] + (f" ({about['catch_up']}, {about['isa']})" if about["catch_up"] else "")
    must = f" (must {figures['must']}, aim {figures['aim']}: {figures['reached']})" if "reached" in figures else ""
    lines += [
        "",
        f"{record['settings']['epochs']} epochs in {figures['seconds']:.1f} s{must}: {figures['steps']:,} steps, "
        f"{figures['steps_a_second']:,.0f} a second, at most {figures['peak_resident'] / 1e6:.0f} MB of memory; "
        f"{about['cpu']}, {about['threads']} workers, engine {engine}, torch {about['torch']}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
