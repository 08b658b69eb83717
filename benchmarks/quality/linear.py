"""What linear SVMs on the same documents and words give: as classifiers of all classes, and as detectors of each.

    python -m benchmarks.quality.linear r8=DIR mr=DIR r52=DIR    # name=folder of each corpus; seconds each

Nothing is tuned, and the test documents are looked at once. Writes runs/bench/quality_linear.json and prints a Markdown
table.
"""

import argparse
import shlex
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import records
from benchmarks.report.tables_linear import linear as linear_table
from seam_fast.classifier.metrics import confusion_metrics
from seam_fast.cli import report
from seam_fast.cli.corpora import get_corpus
from seam_fast.cli.main import run_guarded
from seam_fast.common.progress import say
from seam_fast.errors import SeamFastError
from seam_fast.search.linear_svm import KINDS, LinearSVMs

FORMAT = "seam-fast linear 1"
METHOD = (
    "scikit-learn's LinearSVC (C = 1) on TF-IDF values (sublinear counts) of the words that a base reads of each "
    "document, white-space words by protocol seam, fitted to all training documents. classifier: each class against "
    "the rest, the largest margin wins. detectors: seam_fast.search.linear_svm, that is the same with L2 or L1 "
    "penalty, its threshold by five-fold cross-validation on training documents where there are ten targets or more."
)


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser("python -m benchmarks.quality.linear", description=__doc__.split("\n")[0])
    parser.add_argument("corpora", nargs="+", metavar="NAME=DIR", help="a corpus and the folder that holds its files")
    parser.add_argument("--out", default="runs/bench/quality_linear.json", metavar="FILE")
    arguments = parser.parse_args(argv)
    # Folders of this machine are nobody else's: the record names the corpora alone.
    names = [each.partition("=")[0] + "=DIR" for each in arguments.corpora]
    command = shlex.join(["python", "-m", "benchmarks.quality.linear", *names])
    return run_guarded("linear", lambda: run(arguments, command))


def run(arguments, command: str) -> int:
    out, rows = records.check_path(Path(arguments.out)), []
    for each in arguments.corpora:
        name, equals, folder = each.partition("=")
        if not equals:
            raise SeamFastError(f"{each}: give a corpus as NAME=DIR, such as r8=data")
        rows.append(measure(name, folder))
        say(f"{name}: {rows[-1]['seconds']:.0f} s")
    record = {"format": FORMAT, "command": command, "machine": report.machine(), "method": METHOD, "corpora": rows}
    records.save(record, out)
    print(linear_table(record))
    return 0


def measure(name: str, folder: str) -> dict:
    """One row of the record: a corpus."""
    corpus = get_corpus(name, folder, "seam", None, say, smallest_class=None if name == "r8" else 1)
    begun = time.perf_counter()
    svms = LinearSVMs(corpus)
    margins = np.stack([svms.class_margins(k) for k in range(corpus.num_classes)], axis=1)
    found = confusion_metrics(corpus.test.labels, torch.from_numpy(margins.argmax(1)), corpus.num_classes)
    low, high = found.accuracy_interval
    detectors = [svms.detector((k,)) for k in range(corpus.num_classes)]
    rows = [
        {"class": corpus.class_names[k], "targets": int((corpus.train.labels == k).sum())}
        | {kind: {key: each[kind][key] for key in ("f1", "weights")} for kind in KINDS}
        for k, each in enumerate(detectors)
    ]
    return {
        "corpus": name,
        "data_hash": corpus.data_hash,
        "documents": {"train": len(corpus.train), "test": len(corpus.test)},
        "words_read": corpus.config.max_length,
        "classifier": {
            "accuracy": found.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "mean_f1": found.mean_f1,
        },
        "mean": {
            kind: {
                "f1": statistics.fmean(row[kind]["f1"] for row in rows if row[kind]["f1"] is not None),
                "weights": statistics.fmean(row[kind]["weights"] for row in rows),
            }
            for kind in KINDS
        },
        "classes": rows,
        "seconds": time.perf_counter() - begun,
    }


if __name__ == "__main__":
    sys.exit(main())
