"""What F1 costs in weights: modules of several penalties, on the embedding's mask and on the LSTM's.

    python -m benchmarks.quality.frontier --base runs/quality/distilled_0.safetensors
    python -m benchmarks.quality.frontier --minutes 8 --out runs/frontier.json            # in pieces: first some ...
    python -m benchmarks.quality.frontier --more runs/frontier.json --out runs/frontier.json  # ... then the rest

Writes runs/bench/quality_frontier.json and prints a Markdown table. Settings are compared on validation documents; the
test documents are for the figures.
"""

import argparse
import itertools
import shlex
import sys
import time
from pathlib import Path

import torch

import seam_fast as sf
from benchmarks.harness import records
from benchmarks.quality.sizes import figures
from benchmarks.report.tables_frontier import frontier as frontier_table
from seam_fast.classifier.metrics import base_metrics
from seam_fast.cli import report
from seam_fast.cli.corpora import corpus_for_base
from seam_fast.cli.main import run_guarded
from seam_fast.common.progress import say
from seam_fast.data.class_numbers import is_target
from seam_fast.modules.resize import validation_documents

FORMAT = "seam-fast quality frontier 1"
ALPHAS = (0.2, 0.1, 0.05)
SCALES = (0.35, 0.15, 0.05)  # lstm_penalty_scale
SEEDS = (400, 401, 402)  # no setting was chosen with these
METHOD = (
    "Modules of every class by seam_fast.reengineer, protocol seam, with other values of alpha and lstm_penalty_scale; "
    "F1 and average precision of the target on the validation documents (which also choose the epoch) and on the whole "
    "test set, natural class shares, looked at once a module. base: the base's own on the same documents."
)


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser("python -m benchmarks.quality.frontier", description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--base", default="runs/r8/base.safetensors")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--alphas", type=float, nargs="+", default=ALPHAS)
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="of the LSTM's penalty")
    parser.add_argument("--targets", type=int, nargs="+", help="default: all classes")
    parser.add_argument("--steps", type=int, help="budget of a module (default: the protocol's)")
    parser.add_argument("--out", default="runs/bench/quality_frontier.json", metavar="FILE")
    parser.add_argument("--more", metavar="RECORD", help="go on with this record")
    parser.add_argument("--minutes", type=float, help="begin no further piece after so many minutes")
    arguments = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "benchmarks.quality.frontier", *argv])
    return run_guarded("frontier", lambda: run(arguments, command))


def run(arguments, command: str) -> int:
    """Measures the pieces that the record in ``--more`` lacks; writes the record after each."""
    torch.set_num_threads(1)
    begun, out = time.monotonic(), records.check_path(Path(arguments.out))
    base = sf.LSTMClassifier.load(arguments.base)
    corpus = corpus_for_base(base, "r8", arguments.data_dir, say)
    targets = list(arguments.targets or range(corpus.num_classes))
    about = {"hash": base.hash, "recipe": base.info.get("recipe", ""), "data_hash": corpus.data_hash}
    about |= {"synthetic": corpus.synthetic, "classes": of_base(base, corpus, targets)}
    record = {"format": FORMAT, "method": METHOD, "base": about, "runs": [], "unmeasured": [], "pieces": []}
    record = records.resumed(arguments.more, "quality.frontier", record)
    record["runs"].append({"command": command, "machine": report.machine()})
    done = {(piece["alpha"], piece["scale"], piece["seed"]) for piece in record["pieces"]}
    plan = [
        (alpha, scale, seed)
        for seed, scale, alpha in itertools.product(arguments.seeds, arguments.scales, arguments.alphas)
    ]
    todo = [piece for piece in plan if piece not in done]
    while todo and (arguments.minutes is None or time.monotonic() - begun < 60 * arguments.minutes):
        alpha, scale, seed = todo.pop(0)
        say(f"alpha {alpha:g}, scale {scale:g}, seed {seed}: {len(todo)} to go")
        record["pieces"].append(measure(base, corpus, targets, alpha, scale, seed, arguments.steps))
        record["unmeasured"] = [f"alpha {a:g}, scale {s:g}, seed {n}" for a, s, n in todo]
        records.save(record, out)
    print(frontier_table(record))
    return 0


def of_base(base, corpus, targets) -> dict:
    """The base's own figures as a detector of each target, by class."""
    found = {}
    for name, split in (("validation", validation_documents(corpus)), ("test", corpus.test)):
        logits = base(split.ids, split.lengths).detach()
        for k in targets:
            every = base_metrics(logits, is_target(split.labels, (k,)), (k,))
            found.setdefault(corpus.class_names[k], {})[name] = {key: every[key] for key in ("f1", "average_precision")}
    return found


def measure(base, corpus, targets, alpha: float, scale: float, seed: int, steps: int | None) -> dict:
    """The modules of one setting and seed."""
    begun = time.perf_counter()
    modules = sf.reengineer(
        base, corpus, targets, seed=seed, alpha=alpha, lstm_penalty_scale=scale, steps=steps, progress=True
    )
    seconds, held_out = time.perf_counter() - begun, validation_documents(corpus)
    return {
        "alpha": alpha,
        "scale": scale,
        "seed": seed,
        "settings": modules[0].card["settings"],
        "engine": modules[0].card["engine"],
        "seconds": round(seconds, 3),
        "modules": [
            {"class": "+".join(module.card["target_names"])} | figures(module, corpus, held_out, False)
            for module in modules
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
