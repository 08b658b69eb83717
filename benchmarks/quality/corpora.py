"""Whether modules hold on any corpus: default settings, several seeds, each module beside its base with an interval.

    python -m benchmarks.quality.corpora --folder corpora r8 mr                     # corpora/r8, corpora/mr
    python -m benchmarks.quality.corpora --folder corpora r52 --minutes 8 --out runs/c.json   # in pieces: some ...
    python -m benchmarks.quality.corpora --folder corpora r52 --more runs/c.json --out runs/c.json  # ... then the rest

The folder has one for each corpus, NAME-train-all-terms.txt and NAME-test-all-terms.txt in it. A piece is a corpus and
a seed, of base and modules. Bases go to runs/quality/corpora/, the record to runs/bench/quality_corpora.json. The test
documents are looked at once a module.
"""

import argparse
import shlex
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import seam_fast as sf
from benchmarks.harness import records
from benchmarks.report.tables_corpora import corpora as corpora_table
from benchmarks.report.tables_corpora import verdict
from seam_fast.classifier.evaluate import predict_logits
from seam_fast.classifier.paired_bootstrap import f1_difference
from seam_fast.cli import report
from seam_fast.cli.bases import train_base
from seam_fast.cli.main import run_guarded
from seam_fast.common.progress import say
from seam_fast.data.class_numbers import is_target
from seam_fast.errors import SeamFastError

FORMAT = "seam-fast quality corpora 1"
BASES = Path("runs/quality/corpora")
SEEDS = (200, 201, 202)  # no setting was chosen with these
METHOD = (
    "For each corpus and seed a base by the strong recipe and, by seam_fast.reengineer with default settings, a module "
    "for each class that has test documents, or, with --every N, for each Nth of these by size; both of that seed. F1 "
    "of the target on the whole test set, natural class shares, looked at once a module. difference: the module's F1 "
    "less its base's, with a 95 % interval by a paired bootstrap over the test documents (percentiles). marks: what "
    "the run itself says is wrong with a module, from documents held out of training."
)


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser("python -m benchmarks.quality.corpora", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", metavar="NAME", help="corpora, each a folder of that name")
    parser.add_argument("--folder", default="corpora", help="where their folders are (default: corpora)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of the classes, by size, every Nth only")
    parser.add_argument("--threads", type=int, help="modules side by side (default: all cores)")
    parser.add_argument("--out", default="runs/bench/quality_corpora.json", metavar="FILE")
    parser.add_argument("--more", metavar="RECORD", help="go on with this record")
    parser.add_argument("--minutes", type=float, help="begin no further piece after so many minutes")
    arguments = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "benchmarks.quality.corpora", *argv])
    return run_guarded("corpora", lambda: run(arguments, command))


def run(arguments, command: str) -> int:
    """Measures the pieces that the record in ``--more`` lacks; writes the record after each."""
    torch.set_num_threads(1)
    begun, out = time.monotonic(), records.check_path(Path(arguments.out))
    record = {"format": FORMAT, "method": METHOD, "runs": [], "unmeasured": [], "corpora": {}, "pieces": []}
    record = records.resumed(arguments.more, "quality.corpora", record)
    record["runs"].append({"command": command, "machine": report.machine()})
    done = {(piece["corpus"], piece["seed"]) for piece in record["pieces"]}
    todo = [piece for seed in arguments.seeds for name in arguments.names if (piece := (name, seed)) not in done]
    while todo and (arguments.minutes is None or time.monotonic() - begun < 60 * arguments.minutes):
        name, seed = todo.pop(0)
        say(f"{name}, seed {seed}: {len(todo)} to go")
        corpus = load(Path(arguments.folder) / name, name)
        about = about_corpus(corpus)
        if record["corpora"].setdefault(name, about) != about:
            raise SeamFastError(f"the record is of another corpus {name}")
        base = base_of(corpus, seed)
        targets = by_size(corpus)[:: arguments.every]
        piece = measure(base, corpus, targets, seed, arguments.threads)
        record["pieces"].append(piece | {"corpus": name, "run": len(record["runs"]) - 1})
        record["unmeasured"] = [f"{name}, seed {seed}" for name, seed in todo]
        records.save(record, out)
    print(corpora_table(record), verdict(record), sep="\n\n")
    return 0


def load(folder: Path, name: str) -> sf.Corpus:
    """A corpus of a folder, classes of a single document included."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is odd about published corpora is known
        return sf.load_corpus(folder, name, smallest_class=1)


def about_corpus(corpus: sf.Corpus) -> dict:
    """What the record says of a corpus."""
    sizes = {"classes": corpus.num_classes, "train": len(corpus.train), "test": len(corpus.test)}
    return sizes | {"data_hash": corpus.data_hash, "synthetic": corpus.synthetic}


def by_size(corpus: sf.Corpus) -> list[int]:
    """Classes that have test documents, the largest first; others could not be judged."""
    counts, in_test = (
        torch.bincount(part.labels, minlength=corpus.num_classes) for part in (corpus.train, corpus.test)
    )
    order = torch.sort(counts, descending=True, stable=True).indices.tolist()
    return [k for k in order if in_test[k] and counts[k]]


def base_of(corpus: sf.Corpus, seed: int) -> sf.LSTMClassifier:
    """The base of a corpus and seed, trained where it is not there yet."""
    path = BASES / f"{corpus.name}_{seed}.safetensors"
    if path.exists():
        base = sf.LSTMClassifier.load(path)
        if base.info.get("data_hash") == corpus.data_hash and base.info.get("seed") == seed:
            return base
    path.parent.mkdir(parents=True, exist_ok=True)
    return train_base(corpus, "strong", seed, path, say)


def measure(base, corpus, targets, seed: int, threads: int | None) -> dict:
    """The modules of some classes, each beside the base."""
    begun = time.perf_counter()
    modules = sf.reengineer(base, corpus, targets, seed=seed, threads=threads, progress=True)
    seconds = time.perf_counter() - begun
    held_out = corpus.train.labels[corpus.validation_indices()[1]]
    answers, test = base_answers(base, corpus.test), base.info["test"]
    return {
        "seed": seed,
        "base": {"hash": base.hash, "accuracy": test["accuracy"], "mean_f1": test["mean_f1"]},
        "settings": modules[0].card["settings"],
        "engine": modules[0].card["engine"],
        "seconds": round(seconds, 3),
        "modules": [row(module, corpus, held_out, answers, seed) for module in modules],
    }


def row(module: sf.SeamModule, corpus, held_out, answers, seed: int) -> dict:
    """A module's figures on the test documents beside its base's."""
    test, (target,) = corpus.test, module.target
    wanted = is_target(test.labels, module.target).numpy()
    said = module.logits(test.ids, test.lengths).argmax(1).numpy() == 0
    low, high = paired_interval(wanted, answers == target, said, seed)
    base, own = module.metrics["base"], module.metrics["test"]
    return {
        "class": corpus.class_names[target],
        "documents": {
            "train": int((corpus.train.labels == target).sum()),
            "held_out": int((held_out == target).sum()),
            "test": int(wanted.sum()),
        },
        "base": {name: base[name] for name in ("precision", "recall", "f1", "average_precision")},
        "test": {name: own[name] for name in ("precision", "recall", "f1", "average_precision")},
        "difference": {"f1": own["f1"] - base["f1"], "low": low, "high": high},
        "kept": module.kept,
        "marks": module.card["marks"],
        "threshold": (module.card.get("threshold") or {"moved_by": 0.0})["moved_by"],
        "seconds": module.card["seconds"],
    }


def base_answers(base, split) -> np.ndarray:
    """The classes that a base says documents are of, (N,)."""
    return predict_logits(base, split.ids, split.lengths).argmax(1).numpy()


def paired_interval(wanted, of_base, of_module, seed: int) -> tuple[float, float]:
    """The 95 % interval of the module's F1 less the base's, by drawing the documents anew.

    Args:
        wanted: Which documents are the target's, bool (N,).
        of_base: For which the base says so, bool (N,).
        of_module: For which the module does, bool (N,).
        seed: Of the draws.
    """
    _, low, high = f1_difference(of_base, of_module, wanted, seed)
    return -high, -low


if __name__ == "__main__":
    sys.exit(main())
