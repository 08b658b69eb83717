"""``seam-fast reengineer``: learns a module for each target class."""

import argparse
from pathlib import Path

from ...classifier.model import LSTMClassifier
from ...classifier.tfidf import has_sklearn
from ...common.progress import say
from ...data.corpus import Corpus
from ...modules.seam_module import SeamModule
from ...search import reengineer
from ...search.auto_engine import engines_on_card
from ...search.linear_svm import LinearSVMs
from ...search.module_run import ModuleRun
from ...search.settings import Settings
from ...search.start import StartModules
from ...training.devices import ask_for_queues
from .. import cost_report, report
from ..bases import describe_base, load_base
from ..corpora import corpus_for_base
from ..corpus_choice import data_file, dataset_name
from ..json_output import print_json
from ..options import (
    Subparsers,
    add_base_options,
    add_base_tokenizer_option,
    add_corpus_options,
    add_settings,
    add_verb,
    positive,
    settings_from,
)
from ..paths import module_file, run_folder
from ..run_files import ModuleFiles, can_draw, check_run, draw_run, reusable, save_run
from ..start_files import add_start_options, load_start, start_fingerprint
from ..targets import parse_targets, with_documents


def add_to(verbs: Subparsers) -> None:
    """Adds the verb's parser."""
    parser = add_verb(verbs, "reengineer", run, "learn a module for each target class")
    add_corpus_options(parser)
    add_base_options(parser, "runs/NAME/base.safetensors")
    add_base_tokenizer_option(parser)
    parser.add_argument(
        "--targets", default="all", help="all, or classes by number or name: 0,grain,2+3 (+ joins a set)"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder for modules, record, table and pictures (default: runs/NAME)"
    )
    parser.add_argument(
        "--reuse", action="store_true", help="keep modules that are there if this command would make the same ones"
    )
    parser.add_argument("--no-plots", action="store_true", help="draw no pictures")
    parser.add_argument("--seed", type=int, default=0)
    add_settings(parser)
    add_start_options(parser)
    parser.add_argument(
        "--keep-scores",
        action="store_true",
        help="keep the real scores in the modules' files, so that `compact --keep` and its like can resize them",
    )
    parser.add_argument(
        "--evaluate-every",
        type=int,
        help="epochs between evaluations; 0: never (default: 1, more for rare and for even classes)",
    )
    parser.add_argument(
        "--threads", type=positive, help="modules side by side (default: all cores it may use, or all that GPUs hold)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains the modules that are not there yet, and writes modules, record, table and pictures."""
    ask_for_queues()
    dataset, file = dataset_name(arguments) or "r8", data_file(arguments)
    folder = Path(arguments.out or Path("runs") / dataset)
    settings = settings_from(arguments)
    base_path = Path(arguments.base or Path("runs") / dataset / "base.safetensors")
    base = load_base(arguments, base_path)
    corpus = corpus_for_base(base, dataset, arguments.data_dir, say, file)
    targets = parse_targets(arguments.targets, corpus.class_names)
    if arguments.targets == "all":
        targets = with_documents(targets, corpus, say)
    paths = {target: module_file(folder, target, corpus.class_names) for target in targets}
    if arguments.targets != "all":  # the record of the run of all targets stays as it is
        folder = run_folder(folder, targets)
    start = load_start(arguments, base, base_path, corpus, targets)
    done = _modules_there(arguments, settings, base, corpus, paths, start) if arguments.reuse else {}
    if done:
        say(f"{len(done)} of {len(targets)} modules are there already: kept")
    todo = [target for target in targets if target not in done]
    draw = not arguments.no_plots and can_draw(say)
    check_run([paths[target] for target in todo], folder, base, draw, _keeps_scores(arguments, settings))
    if todo:
        say(f"re-engineering {len(todo)} targets from a base with {describe_base(base)}")
    mark = "SYNTHETIC: " if corpus.synthetic else ""
    files = ModuleFiles({target: paths[target] for target in todo}, mark, say)
    made = _train(arguments, settings, base, corpus, todo, files, start)
    modules = [done.get(target) or made[todo.index(target)] for target in targets]
    try:
        if not arguments.json:
            print(report.table(modules), flush=True)
    finally:
        files.save_all(made)
    record, metrics, written = save_run(modules, base, corpus, folder, arguments.command_line, paths, base_path)
    if not arguments.json:
        print("\n" + cost_report.table(record["modules"], corpus.synthetic), flush=True)
    if draw:
        written += draw_run(modules, metrics, folder, say)
    for path in written:
        say(f"{mark}wrote {path}")
    if arguments.json:
        print_json(record)
    return 0


def _keeps_scores(arguments: argparse.Namespace, settings: Settings) -> bool:
    """Whether the modules' files hold their scores."""
    return arguments.keep_scores or len(settings.sizes) > 1


def _modules_there(
    arguments: argparse.Namespace,
    settings: Settings,
    base: LSTMClassifier,
    corpus: Corpus,
    paths: dict[tuple[int, ...], Path],
    start: StartModules | None,
) -> dict[tuple[int, ...], SeamModule]:
    """The modules, by target, that are on disk and just as this run would make them."""
    wanted = {"settings": settings.as_dict(), "seed": arguments.seed, "evaluate_every": arguments.evaluate_every}
    wanted["keep_scores"] = _keeps_scores(arguments, settings) or None
    engines = engines_on_card(base.weights(), arguments.backend, arguments.lazy_update, settings.batch_size)
    found = {}
    for target, path in paths.items():
        module = reusable(path, base, corpus, wanted, engines)
        if module is not None and start_fingerprint(module) == (start.fingerprint(target) if start else None):
            found[target] = module
    return found


def _train(
    arguments: argparse.Namespace,
    settings: Settings,
    base: LSTMClassifier,
    corpus: Corpus,
    targets: list[tuple[int, ...]],
    files: ModuleFiles,
    start: StartModules | None,
) -> list[SeamModule]:
    """The modules of some targets, in order, saved as each becomes ready; what an error or Ctrl-C leaves is saved too,
    and the table shows it.
    """
    rivals = LinearSVMs(corpus) if has_sklearn() else None

    def ready(run: ModuleRun, module: SeamModule) -> None:
        """A module has been trained."""
        try:
            if rivals is not None and "test" in module.metrics:
                module.card["svm"] = rivals.judge(module)
        finally:
            files.save(module)

    try:
        # By the module's name, so that a caller who replaces the function is served.
        return reengineer.reengineer(
            base,
            corpus,
            targets,
            settings=settings,
            seed=arguments.seed,
            evaluate_every=arguments.evaluate_every,
            threads=arguments.threads,
            backend=arguments.backend,
            lazy_update=arguments.lazy_update,
            progress=True,
            keep_scores=arguments.keep_scores,
            start=start,
            on_module=ready,
        )
    except BaseException as error:
        files.save_all(getattr(error, "modules", None) or ())
        if files.saved and not arguments.json:
            print(report.table(sorted(files.saved, key=lambda module: targets.index(module.target))))
        raise
