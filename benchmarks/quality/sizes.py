"""Whether one module serves every size: masks nested in one that was trained for several sizes, and in one of a single
size, beside modules that were trained for each size.

    python -m benchmarks.quality.sizes                                            # all eight classes, three seeds
    python -m benchmarks.quality.sizes --minutes 8 --out runs/sizes.json          # in pieces: first some ...
    python -m benchmarks.quality.sizes --more runs/sizes.json --out runs/sizes.json  # ... then the rest

Writes runs/bench/quality_sizes.json and prints a Markdown table. Orders, heads and ways are compared on validation
documents; the test documents are for the figures.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch

import seam_fast as sf
from benchmarks.harness import records
from benchmarks.quality.baselines import fit_head, training_documents
from benchmarks.report.tables_sizes import sizes as sizes_table
from seam_fast.classifier.inference import class_logits
from seam_fast.cli import report
from seam_fast.cli.corpora import corpus_for_base
from seam_fast.cli.main import run_guarded
from seam_fast.common.progress import say
from seam_fast.data.class_numbers import is_target
from seam_fast.modules.nested import ORDERS
from seam_fast.modules.resize import figures_on_documents, validation_documents

FORMAT = "seam-fast quality sizes 2"
SIZES = (0.005, 0.01, 0.02, 0.04)
# What modules are trained for; (): the protocol's own penalty. What is compared is measured first, for each seed.
PLANS = ((*((size,) for size in SIZES), SIZES), ((),))
SHOWN = ("f1", "average_precision")
METHOD = (
    "Modules by seam_fast.reengineer, protocol seam; F1 and average precision of the target on the validation "
    "documents (which also choose the epoch) and on the whole test set, natural class shares. Modules of one size are "
    "those of Settings(keep=share), one file for all those of Settings(keep=shares), cut by SeamModule.resized; beside "
    "them modules of the protocol's own penalty with keep_scores, cut likewise. group and global: the order of the "
    "cut, head as it is; refit: order group, with the head trained again on five epochs of the module's training "
    "documents. Nothing was chosen by figures on test documents; they had been looked at once before, for one seed of "
    "a first version of the one file, whose validation figures led to the shift of the head that each size has now."
)


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser("python -m benchmarks.quality.sizes", description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--base", default="runs/r8/base.safetensors")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--targets", type=int, nargs="+", help="default: all classes")
    parser.add_argument("--steps", type=int, help="budget of a module (default: the protocol's)")
    parser.add_argument("--threads", type=int, help="modules side by side (default: as many as there are cores)")
    parser.add_argument("--out", default="runs/bench/quality_sizes.json", metavar="FILE")
    parser.add_argument("--more", metavar="RECORD", help="go on with this record")
    parser.add_argument("--minutes", type=float, help="begin no further piece after so many minutes")
    arguments = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "benchmarks.quality.sizes", *argv])
    return run_guarded("sizes", lambda: run(arguments, command))


def run(arguments, command: str) -> int:
    """Measures the pieces that the record in ``--more`` lacks; writes the record after each."""
    torch.set_num_threads(1)
    begun, out = time.monotonic(), records.check_path(Path(arguments.out))
    base = sf.LSTMClassifier.load(arguments.base)
    corpus = corpus_for_base(base, "r8", arguments.data_dir, say)
    counts = corpus.test.labels.bincount(minlength=corpus.num_classes).tolist()
    about = {
        "hash": base.hash,
        "data_hash": corpus.data_hash,
        "synthetic": corpus.synthetic,
        "test_documents": dict(zip(corpus.class_names, counts, strict=True)),
    }
    record = {"format": FORMAT, "method": METHOD, "base": about, "runs": [], "unmeasured": [], "pieces": []}
    record = records.resumed(arguments.more, "quality.sizes", record)
    record["runs"].append({"command": command, "machine": report.machine()})
    done = {(tuple(piece["sizes"]), piece["seed"]) for piece in record["pieces"]}
    plan = [(sizes, seed) for part in PLANS for seed in arguments.seeds for sizes in part]
    todo = [piece for piece in plan if piece not in done]
    targets = arguments.targets or range(corpus.num_classes)
    while todo and (arguments.minutes is None or time.monotonic() - begun < 60 * arguments.minutes):
        sizes, seed = todo.pop(0)
        say(f"sizes {sizes}, seed {seed}: {len(todo)} to go")
        record["pieces"].append(measure(base, corpus, targets, sizes, seed, arguments.steps, arguments.threads))
        record["unmeasured"] = [f"sizes {sizes}, seed {seed}" for sizes, seed in todo]
        records.save(record, out)
    print(sizes_table(record))
    return 0


def measure(base, corpus, targets, sizes, seed: int, steps: int | None, threads: int | None = None) -> dict:
    """Modules trained for some sizes, none being the protocol's own penalty; where these are not just one, with all
    that is nested in them.
    """
    begun = time.perf_counter()
    options = {"keep": tuple(sizes) or None, "steps": steps, "keep_scores": len(sizes) != 1}
    modules = sf.reengineer(base, corpus, targets, seed=seed, threads=threads, progress=True, **options)
    seconds, held_out, rows = time.perf_counter() - begun, validation_documents(corpus), []
    for module in modules:
        row = {"class": "+".join(module.card["target_names"]), "own": figures(module, corpus, held_out, bool(sizes))}
        row["best_epoch"] = module.card["best_epoch"]
        if len(sizes) != 1:
            cut = {order: {f"{share:g}": module.resized(share, order=order) for share in SIZES} for order in ORDERS}
            cut["refit"] = {share: refitted(one, corpus, seed) for share, one in cut["group"].items()}
            row["nested"] = {
                way: {
                    share: figures(one, corpus, held_out, bool(sizes) and way != "refit")
                    for share, one in by_share.items()
                }
                for way, by_share in cut.items()
            }
        rows.append(row)
    return {
        "sizes": list(sizes),
        "seed": seed,
        "settings": modules[0].card["settings"],
        "engine": modules[0].card["engine"],
        "seconds": round(seconds, 3),
        "modules": rows,
    }


def figures(module: sf.SeamModule, corpus, held_out, which: bool) -> dict:
    """Share kept, by group as well, figures on validation and test documents, and, where ``which``, the latter's
    numbers that are answered wrongly.
    """
    found = {"kept": module.kept, "kept_by_group": module.kept_by_group}
    for name, split in (("validation", held_out), ("test", corpus.test)):
        every = figures_on_documents(module, split)
        found[name] = {key: every[key] for key in SHOWN}
    if not which:
        return found
    # Numbered by class, so that the record has the class of each by the counts of its classes.
    by_class = torch.argsort(corpus.test.labels, stable=True)
    wanted = is_target(corpus.test.labels, module.target)
    wrong = module.predict(corpus.test.ids, corpus.test.lengths) != wanted
    found["wrong"] = " ".join(map(str, torch.nonzero(wrong[by_class])[:, 0].tolist()))
    return found


def refitted(module: sf.SeamModule, corpus, seed: int) -> sf.SeamModule:
    """The module with its head trained again, from where it stands, on documents it was trained on."""
    settings = sf.Settings(**module.card["settings"])
    ids, lengths, labels = training_documents(corpus, corpus.validation_indices()[0], module.target, settings, seed)
    features = class_logits(module.effective_weights(), ids, lengths, module.base.readout, "auto")
    head = fit_head(features, labels, module.head)
    return sf.SeamModule(module.base, module.target, module.mask, head, card=module.card)


if __name__ == "__main__":
    sys.exit(main())
