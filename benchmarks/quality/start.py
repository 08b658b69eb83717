"""How many steps a prior saves: modules whose scores start from one, beside modules that start with all weights kept.

    python -m benchmarks.quality.start                  # all eight classes, three seeds; over an hour on two cores
    python -m benchmarks.quality.start --minutes 10     # in pieces: again and again, until nothing is to do

Bases and modules are kept in runs/start/, from where a further run takes them; the record is made of all that are
there. Writes runs/bench/quality_start.json and prints a Markdown table.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch

import seam_fast as sf
from benchmarks.harness import records
from benchmarks.report.tables_start import starts as starts_table
from seam_fast.cli import report
from seam_fast.cli.bases import train_base
from seam_fast.cli.corpora import get_corpus
from seam_fast.cli.main import run_guarded
from seam_fast.common.progress import say
from seam_fast.data.class_numbers import is_target
from seam_fast.data.r8 import find_documents
from seam_fast.data.r8_files import FILES
from seam_fast.modules.resize import figures_on_documents, validation_documents

FORMAT = "seam-fast quality start 1"
SEEDS = (300, 301, 302)  # no setting was chosen with these
OTHER = 1000  # the modules of the older base have a seed that is larger by this
STARTS = ("full", "magnitude", "saliency", "same base", "older base")
BUDGETS = (500, 125, 250)  # the first is compared to; the others are measured in this order
TOLERANCE = 0.01  # of F1 on the validation documents; decided before anything was measured
LARGER = 1.1  # times the reference's share of kept weights, likewise
EARLIER = 0.8  # of the training documents: those of the older base
RESAMPLES = 2000
METHOD = (
    "Modules of all classes of R8 by seam_fast.reengineer, protocol seam but for start and steps. full: all weights "
    "kept, the default; magnitude, saliency: Settings(start=...); same base: the same target's module of 500 steps "
    "with another seed, real scores and head, over the same base, which has seen the same documents and so is an upper "
    "bound; older base: the same target's module of 500 steps over a base that was trained from another seed on the "
    "first 80 % of the training documents, in the order of the file, less those that are validation documents here, "
    "with the vocabulary of these. Of each module the epoch is chosen on the validation documents. reached: the first "
    "step after which the F1 on these is no more than 0.01 below, and the share of kept weights no more than 1.1 "
    "times, those of the chosen epoch of the same seed's module from full in 500 steps; both limits were set before "
    "measuring. Test documents are used once a module, for the figures: the mean F1 over classes and seeds, with 95 % "
    "intervals by 2,000 bootstrap draws of test documents, the same draws for all, so that differences from full in "
    "500 steps are paired. What the prior itself takes (for saliency one pass over the documents of two epochs, for "
    "modules their own 500 steps) is not counted. How near dropped weights start, and what shares magnitude and "
    "saliency keep, was chosen on validation documents, with other seeds."
)


def main(argv=None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser("python -m benchmarks.quality.start", description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--folder", default="runs/start", metavar="DIR", help="of bases and modules")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--targets", type=int, nargs="+", help="default: all classes")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS), help="steps; the first is compared to")
    parser.add_argument("--threads", type=int, help="modules side by side (default: all cores)")
    parser.add_argument("--out", default="runs/bench/quality_start.json", metavar="FILE")
    parser.add_argument("--minutes", type=float, help="begin no further piece after so many minutes")
    arguments = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "benchmarks.quality.start", *argv])
    return run_guarded("start", lambda: run(arguments, command))


def run(arguments, command: str) -> int:
    """Trains what is not there yet, as far as time allows, and writes the record of what is."""
    torch.set_num_threads(1)
    begun, out, folder = time.monotonic(), records.check_path(Path(arguments.out)), Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    corpus = get_corpus("r8", arguments.data_dir, "seam", None, say)
    base = base_of(folder / "base.safetensors", corpus, 0)
    targets = arguments.targets or list(range(corpus.num_classes))
    kept = Kept(folder, base, corpus, targets, arguments.threads, arguments.seeds)
    most, *fewer = arguments.budgets
    plan = [(seed, "full", most) for seed in arguments.seeds]
    plan += [(seed, start, steps) for steps in fewer for seed in arguments.seeds for start in STARTS]
    done, left = {}, []
    for seed, start, steps in plan:
        is_over = arguments.minutes is not None and time.monotonic() - begun > 60 * arguments.minutes
        if is_over and not kept.are_there(start, steps, seed):
            left.append((seed, start, steps))
            continue
        say(f"{start}, {steps} steps, seed {seed}")
        done[seed, start, steps] = kept.modules(start, steps, seed, lambda: older(folder, arguments.data_dir, corpus))
    record = record_of(done, base, corpus, arguments, command)
    record["unmeasured"] = [f"{start}, {steps} steps, seed {seed}" for seed, start, steps in left]
    records.save(record, out)
    print(starts_table(record))
    return 0


def base_of(path: Path, corpus, seed: int) -> sf.LSTMClassifier:
    """The base in a file, which is trained where it is not there."""
    return sf.LSTMClassifier.load(path) if path.exists() else train_base(corpus, "strong", seed, path, say)


def older(folder: Path, data_dir: str | None, corpus):
    """The older corpus and its base: earlier documents, none of which is a validation document of the present one."""
    earlier = folder / "earlier"
    if not earlier.exists():
        train, test, _ = find_documents(data_dir)
        chosen = earlier_documents(corpus)
        earlier.mkdir(parents=True)
        for name, split, numbers in (("train", train, chosen), ("test", test, range(len(test.labels)))):
            lines = [f"{split.labels[k]}\t{split.texts[k]}" for k in numbers]
            (earlier / FILES[name]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    old_corpus = get_corpus("r8", str(earlier), "seam", None, say)
    return old_corpus, base_of(folder / "older.safetensors", old_corpus, 1)


def earlier_documents(corpus) -> list[int]:
    """Numbers of the training documents of the older base, in order."""
    held_out = set(corpus.validation_indices()[1].tolist())
    return [k for k in range(round(EARLIER * len(corpus.train))) if k not in held_out]


class Kept:
    """Modules by how they were made, each set of them in a folder; trained where they are not there yet."""

    def __init__(self, folder: Path, base, corpus, targets, threads, seeds):
        self.folder, self.base, self.corpus = folder, base, corpus
        self.targets, self.threads, self.seeds = targets, threads, seeds

    def modules(self, start: str, steps: int, seed: int, make_older) -> list[sf.SeamModule]:
        """The modules of a piece. make_older: gives the older corpus and its base."""

        def prior():
            """The kind of start, or the modules that these start from."""
            if start == "same base":
                return self.modules("full", BUDGETS[0], self.other_seed(seed), make_older)
            if start == "older base":
                old_corpus, old_base = make_older()
                return self._get("older", old_base, old_corpus, lambda: "full", BUDGETS[0], seed + OTHER, True)
            return start

        is_prior = (start, steps) == ("full", BUDGETS[0])
        return self._get(start, self.base, self.corpus, prior, steps, seed, is_prior)

    def are_there(self, start: str, steps: int, seed: int) -> bool:
        """Whether the modules of a piece are trained already."""
        return all(path.exists() for path in self._paths(start, steps, seed))

    def _paths(self, name: str, steps: int, seed: int) -> list[Path]:
        folder = self.folder / f"{name.replace(' ', '_')}_{steps}_{seed}"
        return [folder / f"{k}.safetensors" for k in self.targets]

    def other_seed(self, seed: int) -> int:
        """The seed of the modules of the same base that those of a seed start from."""
        after = self.seeds[(self.seeds.index(seed) + 1) % len(self.seeds)] if seed in self.seeds else seed
        return after if after != seed else seed + OTHER

    def _get(self, name, base, corpus, prior, steps, seed, keep_scores) -> list[sf.SeamModule]:
        paths = self._paths(name, steps, seed)
        if not all(path.exists() for path in paths):
            options = {"start": prior(), "steps": steps, "seed": seed, "keep_scores": keep_scores}
            modules = sf.reengineer(base, corpus, self.targets, threads=self.threads, progress=True, **options)
            for module, path in zip(modules, paths, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                module.save(path)
        return [sf.SeamModule.load(path, base) for path in paths]


def record_of(done: dict, base, corpus, arguments, command: str) -> dict:
    """The record of the pieces, by (seed, start, steps)."""
    most = arguments.budgets[0]
    answers = {piece: np.stack([said(module, corpus) for module in modules]) for piece, modules in done.items()}
    wanted = {}
    for modules in done.values():
        wanted = {"wanted": np.stack([is_target(corpus.test.labels, module.target).numpy() for module in modules])}
    pieces = [
        piece_of(seed, start, steps, modules, done[seed, "full", most], corpus)
        for (seed, start, steps), modules in done.items()
    ]
    means = []
    for start, steps in dict.fromkeys((start, steps) for _, start, steps in done):
        seeds = [seed for seed in arguments.seeds if (seed, start, steps) in done]
        ours = [answers[seed, start, steps] for seed in seeds]
        theirs = [answers[seed, "full", most] for seed in seeds]
        found = bootstrap(ours, theirs, **wanted)
        means.append({"start": start, "steps": steps, "seeds": seeds, **found})
    settings = next(iter(done.values()))[0].card["settings"] if done else {}
    return {
        "format": FORMAT,
        "method": METHOD,
        "runs": [{"command": command, "machine": report.machine()}],
        "base": {"hash": base.hash, "data_hash": corpus.data_hash, "synthetic": corpus.synthetic},
        "settings": settings,
        "budgets": arguments.budgets,
        "tolerance": TOLERANCE,
        "larger": LARGER,
        "unmeasured": [],
        "means": means,
        "pieces": pieces,
    }


def piece_of(seed: int, start: str, steps: int, modules, references, corpus) -> dict:
    """What the record says of the modules of one start, budget and seed."""
    held_out, rows = validation_documents(corpus), []
    for module, reference in zip(modules, references, strict=True):
        rows.append(
            {
                "class": "+".join(module.card["target_names"]),
                "kept": module.kept,
                "validation_f1": figures_on_documents(module, held_out)["f1"],
                "test": {name: figures_on_documents(module, corpus.test)[name] for name in ("f1", "average_precision")},
                "started_with": module.card.get("start", {}).get("kept", 1.0),
                "reached": reached(module, reference),
                "steps": module.card["steps"],
            }
        )
    rebase = modules[0].card.get("start", {}).get("rebase", {})
    return {"start": start, "steps": steps, "seed": seed, "rebase": rebase, "modules": rows}


def reached(module: sf.SeamModule, reference: sf.SeamModule) -> int | None:
    """The first step at the end of an epoch after which a module was as good as another in its chosen one and no larger
    (TOLERANCE, LARGER); None where that never was.
    """
    goal = reference.history[reference.card["best_epoch"]]
    epoch_steps = module.card["steps"] // module.card["epochs"]
    for figures in module.history:
        if figures["f1"] >= goal["f1"] - TOLERANCE and figures["kept"] <= LARGER * goal["kept"]:
            return (figures["epoch"] + 1) * epoch_steps
    return None


def said(module: sf.SeamModule, corpus) -> np.ndarray:
    """Whether a module takes each of the test documents for the target's, bool (N,)."""
    return module.predict(corpus.test.ids, corpus.test.lengths).numpy()


def bootstrap(ours: list, theirs: list, wanted: np.ndarray) -> dict:
    """Mean F1 over classes and seeds on the test documents, and its difference from others', with 95 % intervals.

    Args:
        ours: For each seed what the modules say, bool (K, N).
        theirs: The same of the modules to compare with.
        wanted: Which documents are of each target, bool (K, N).
    """
    generator, count = np.random.default_rng(0), wanted.shape[1]
    draws = np.stack([np.bincount(generator.integers(0, count, count), minlength=count) for _ in range(RESAMPLES)])
    weights = np.concatenate([np.ones((1, count), dtype=int), draws]).astype(np.float64)  # first: as they are
    mine, other = (np.mean([mean_f1(each, wanted, weights) for each in parts], axis=0) for parts in (ours, theirs))
    return {"test_f1": interval(mine), "test_f1_less_reference": interval(mine - other)}


def mean_f1(answers: np.ndarray, wanted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over K targets of the F1 of answers (K, N) under each weighting of the documents (R, N): (R,). A target
    without a document in a draw counts for nothing there.
    """
    hits, claims, real = ((weights @ part.T.astype(float)) for part in (answers & wanted, answers, wanted))
    with np.errstate(invalid="ignore"):
        return np.nanmean(np.where(real > 0, 2 * hits / (claims + real), np.nan), axis=1)


def interval(values: np.ndarray) -> dict[str, float]:
    """The first of some values, and the 95 % interval of the others."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return {"mean": float(values[0]), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    sys.exit(main())
