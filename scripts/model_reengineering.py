"""The reference's command line: re-engineers one class of a trained LSTM and writes the reference's file.

    python scripts/model_reengineering.py --model lstm --dataset r8 --target_class 4 --lr_mask 0.1 --alpha 0.2

It follows protocol ``reference`` (the public port's procedure, SeaM's schedule) unless options say otherwise. The base
is read from data/models/LSTM_classifier.pt; where there is none, it is trained by the public recipe first. Scores and
head go to data/binary_classification/lstm_<dataset>/tc_<k>/lr_head_mask_<lr_head>_<lr_mask>_alpha_<alpha>.pth.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seam_fast import LSTMClassifier, SeamModule, Settings
from seam_fast.backend import choose_engine
from seam_fast.cli.bases import load_base, train_base
from seam_fast.cli.corpora import corpus_for_base, get_corpus
from seam_fast.cli.disk import check_room, check_writable
from seam_fast.cli.guarded_run import run_guarded
from seam_fast.cli.options import add_base_options, add_settings, add_text_options, settings_from, text_settings
from seam_fast.cli.paths import not_in_the_way, reference_base, reference_file
from seam_fast.cli.report import comparison
from seam_fast.cli.targets import parse_targets
from seam_fast.common.arguments import seed_number
from seam_fast.data.corpus import Corpus
from seam_fast.errors import TrainingError
from seam_fast.search.module_run import ModuleRun
from seam_fast.search.reengineer import reengineer

GRID = {
    "lr_mask": (0.01, 0.03, 0.1),
    "alpha": (0.2, 1.0),
}  # tried by --tuning_param; values of --lr_mask and --alpha are added


def make_parser() -> argparse.ArgumentParser:
    """The parser: the reference's flags, and those of ``seam-fast reengineer`` and ``seam-fast train``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=("lstm",), default="lstm")
    parser.add_argument("--dataset", default="r8", help="r8, or any corpus name with --data-dir")
    parser.add_argument("--target_class", default="0", help="class number or name; 2+3 makes a set of classes")
    parser.add_argument("--seed", type=int, default=0, help="of head, order and shots")
    parser.add_argument("--tuning_param", action="store_true", help=f"try a grid instead of one setting: {GRID}")
    parser.add_argument("--data-dir", help="folder with the corpus (for r8: see also SEAM_FAST_DATA)")
    parser.add_argument("--out", default="data", help="root of what is written (default: data)")
    add_settings(parser.add_argument_group("training, as in seam-fast reengineer"), protocol="reference")
    bases = parser.add_argument_group("a base that is there, as in seam-fast reengineer")
    add_base_options(bases, "data/models/LSTM_classifier[_DATASET].pt")
    add_text_options(parser.add_argument_group("texts of a base that is trained here, as in seam-fast train"))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code as ``seam-fast`` does. argv: None takes it from ``sys.argv``."""
    arguments = make_parser().parse_args(argv)
    return run_guarded("model_reengineering", lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Trains a module for each setting and saves it; trains the base first where there is none."""
    # What is wrong with the options is said now, not after minutes of training a base.
    choose_engine(arguments.backend)
    seed_number(arguments.seed)
    settings = settings_from(arguments)
    root = Path(arguments.out)
    base_path = Path(arguments.base) if arguments.base else reference_base(root, arguments.dataset)
    base: LSTMClassifier | None = None
    if base_path.exists() or arguments.base:
        refuse(arguments, ("min_count", "max_length", "smallest_class"), "over a base that is there already")
        base = load_base(arguments, base_path)
    else:
        refuse(arguments, ("readout", "key_map", "ignore_keys"), f"where no base is at {base_path}: it will be trained")
    dataset, data_dir = arguments.dataset, arguments.data_dir
    if base is None:
        check_writable(base_path, (".pt",))
        texts = text_settings(arguments)
        corpus = get_corpus(dataset, data_dir, "reference", None, print, arguments.smallest_class, **texts)
    else:
        corpus = corpus_for_base(base, dataset, data_dir, print)
    (target,) = parse_targets(arguments.target_class.replace(",", "+"), corpus.class_names)
    if corpus.unknown_id is None and settings.word_dropout > 0 and arguments.word_dropout is None:
        print("this corpus has no unknown word, so no words are dropped in training")
        settings = settings.with_options(word_dropout=0.0)
    trials = grid(settings, arguments) if arguments.tuning_param else [settings]
    for trial in trials:
        check_writable(reference_file(root, dataset, target, trial), (".pth",))
    if base is None:
        print(f"no base at {base_path}: it is trained now, once (a few minutes)")
        base = train_base(corpus, "public", 0, base_path, print)
    size = 4 * sum(weight.numel() for weight in base.weights().values())  # a score is a float32
    check_room(root, len(trials) * size)
    results = []
    for number, trial in enumerate(trials, 1):
        if len(trials) > 1:
            print(f"\nsetting {number} of {len(trials)}: lr_mask {trial.lr_mask}, alpha {trial.alpha}")
        module = reengineer_one(base, corpus, target, trial, arguments)
        path = reference_file(root, dataset, target, trial)
        module.save(path)
        print(f"saved {path}")
        results.append((trial, module, path))
    if len(results) > 1:
        print_grid(results)
    return 0


def refuse(arguments: argparse.Namespace, names: Sequence[str], where: str) -> None:
    """Raises TrainingError for an option that was given where it has no effect; ``where`` ends the message."""
    for name in names:
        if getattr(arguments, name):
            raise TrainingError(f"--{name.replace('_', '-')} has no effect {where}; leave it out")


def grid(settings: Settings, arguments: argparse.Namespace) -> list[Settings]:
    """The settings that --tuning_param tries: all pairs of the values of `GRID` and of the command line."""
    axes: list[list[float]] = []
    for name, values in GRID.items():
        given = getattr(arguments, name)
        axes.append(sorted({*values} if given is None else {*values, given}))
    return [settings.with_options(**dict(zip(GRID, values, strict=True))) for values in itertools.product(*axes)]


def reengineer_one(
    base: LSTMClassifier, corpus: Corpus, target: tuple[int, ...], settings: Settings, arguments: argparse.Namespace
) -> SeamModule:
    """The module of one setting; each epoch is printed. After Ctrl-C or a failure the best epoch so far is saved."""
    is_begun = False

    def show(run: ModuleRun, figures: dict[str, Any]) -> None:
        nonlocal is_begun
        if not is_begun:
            is_begun = True
            accuracy = 100 * run.base_figures()["accuracy"]
            print(f"target {run.name}: base accuracy {accuracy:.2f} % (acc_pre), {run.epochs} epochs")
        kept = {name: f"{100 * share:.2f}" for name, share in figures["kept_by_group"].items()}
        print(
            f"epoch {figures['epoch']:3}  loss {figures['cross_entropy']:.4f}",
            f"acc {100 * figures['accuracy']:6.2f} %  recall {figures['recall']:.3f}",
            f"precision {figures['precision']:.3f}  kept {100 * figures['kept']:6.2f} %",
            f"(embed {kept['embedding']}, lstm {kept['lstm']}, h2l {kept['linear']})",
            "*" if figures["best_so_far"] else "",
            sep="  ",
            flush=True,
        )

    try:
        (module,) = reengineer(
            base,
            corpus,
            [target],
            settings=settings,
            seed=arguments.seed,
            backend=arguments.backend,
            lazy_update=arguments.lazy_update,
            on_epoch=show,
        )
    except BaseException as error:
        for rescued in getattr(error, "modules", None) or ():
            if rescued is not None:
                path = not_in_the_way(reference_file(Path(arguments.out), arguments.dataset, target, settings))
                rescued.save(path)
                print(f"interrupted; the best so far is in {path}")
        raise
    print(f"best epoch {module.card['best_epoch']} of {len(module.history)}, {module.card['seconds']:.1f} s")
    print(comparison(module))
    return module


def print_grid(results: Sequence[tuple[Settings, SeamModule, Path]]) -> None:
    """Prints a line for each setting and names the best one.

    The best has the highest balanced accuracy on the documents that choose epochs; of equals, the fewest weights.
    """

    def rank(result: tuple[Settings, SeamModule, Path]) -> tuple[float, float]:
        _, module, _ = result
        chosen = next(figures for figures in module.history if figures["epoch"] == module.card["best_epoch"])
        return chosen["balanced_accuracy"], -module.kept

    best = max(results, key=rank)
    print("\nlr_mask  alpha  balanced acc.  kept %")
    for result in results:
        settings, module, _ = result
        mark = "  <- best" if result is best else ""
        print(
            f"{settings.lr_mask:7g}  {settings.alpha:5g}  {100 * rank(result)[0]:12.2f}  {100 * module.kept:6.2f}{mark}"
        )
    print(f"best: {best[2]}")


if __name__ == "__main__":
    sys.exit(main())
