"""How good bases and modules are: protocol ``seam`` on real R8, several seeds, the test set looked at once a seed.

    python benchmarks/quality.py base        # trains the strong recipe with three seeds
    python benchmarks/quality.py modules     # all eight classes from the first of those bases, three module seeds

Bases go to runs/quality/, records to benchmarks/records/quality_base_<recipe>.json and quality_modules.json; each
prints a Markdown table. Settings and epochs are chosen on validation documents only.
"""

import argparse
import shlex
import statistics
import sys
from pathlib import Path

import seam_fast as sf
from seam_fast import report
from seam_fast.cli import run_guarded
from seam_fast.workflow import corpus_for_base, get_corpus, say, train_base, write_json

BASES = Path("runs/quality")


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("base", "modules"))
    parser.add_argument("--data-dir")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2 for bases, 100 101 102 for modules")
    parser.add_argument("--base", help="for modules: the base (default: runs/quality/base_0.safetensors)")
    parser.add_argument("--recipe", choices=("strong", "public"), default="strong")
    parser.add_argument("--records", default="benchmarks/records", help="folder of the records")
    arguments = parser.parse_args(argv)
    command = shlex.join(["python", "benchmarks/quality.py", *argv])
    run = run_bases if arguments.what == "base" else run_modules
    return run_guarded("quality", lambda: run(arguments, command))


def spread(values: list[float]) -> dict:
    """Mean, smallest and largest of a figure over seeds."""
    return {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}


def run_bases(arguments, command: str) -> int:
    protocol = "seam" if arguments.recipe == "strong" else "reference"
    corpus = get_corpus("r8", arguments.data_dir, protocol, None, say)
    rows = []
    for seed in arguments.seeds or (0, 1, 2):
        name = f"base_{seed}.safetensors" if arguments.recipe == "strong" else f"public_{seed}.safetensors"
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
    write_json(Path(arguments.records) / f"quality_base_{arguments.recipe}.json", record)
    print("| seed | test accuracy % | mean F1 | " + " | ".join(corpus.class_names) + " |")
    print("|---" * (3 + corpus.num_classes) + "|")
    for row, test in zip(rows, tests, strict=True):
        f1 = " | ".join(f"{entry['f1']:.2f}" for entry in test["classes"])
        print(f"| {row['seed']} | {100 * test['accuracy']:.2f} | {test['mean_f1']:.3f} | {f1} |")
    accuracy, f1 = record["accuracy"], record["mean_f1"]
    print(
        f"accuracy {100 * accuracy['mean']:.2f} % ({100 * accuracy['min']:.2f}-{100 * accuracy['max']:.2f}), "
        f"mean F1 {f1['mean']:.3f} ({f1['min']:.3f}-{f1['max']:.3f})"
    )
    return 0


def run_modules(arguments, command: str) -> int:
    base = sf.LSTMClassifier.load(arguments.base or BASES / "base_0.safetensors")
    corpus = corpus_for_base(base, "r8", arguments.data_dir, say)
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
        "settings": modules[0].card["settings"],
        "base_f1": means[0]["base_f1"],
        "f1": spread([mean["f1"] for mean in means]),
        "kept": spread([mean["kept"] for mean in means]),
        "kept_lstm": spread([mean["kept_by_group"]["lstm"] for mean in means]),
        "seeds": runs,
    }
    write_json(Path(arguments.records) / "quality_modules.json", record)
    print("| class | base F1 | module F1, mean over seeds (each) | kept % | LSTM kept % | vocabulary floor % |")
    print("|---|---|---|---|---|---|")
    for k, name in enumerate((*corpus.class_names, "mean")):
        rows = [run["modules"][k] if name != "mean" else run["mean"] for run in runs]
        each = " ".join(f"{row['f1']:.3f}" for row in rows)
        print(
            f"| {name} | {rows[0]['base_f1']:.3f} | {statistics.fmean(row['f1'] for row in rows):.3f} ({each}) "
            f"| {100 * statistics.fmean(row['kept'] for row in rows):.2f} "
            f"| {100 * statistics.fmean(row['kept_by_group']['lstm'] for row in rows):.1f} "
            f"| {100 * rows[0]['vocabulary_floor']:.1f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
