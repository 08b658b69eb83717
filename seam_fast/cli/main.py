"""The ``seam-fast`` command: data, train, reengineer, evaluate, bench, info.

Results go to standard output, talk and progress to standard error. Exit codes: 0 done, 1 failed, 2 usage, 130 Ctrl-C,
143 SIGTERM, 129 SIGHUP (as the shell has it).
"""

import argparse
import contextlib
import json
import os
import platform
import re
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from .._version import __version__
from ..common.cores import usable_cores
from ..errors import CheckpointError, DataWarning, NoSourceError, SeamFastError, TrainingError
from ..files.atomic import to_json
from . import bench


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    arguments = parser.parse_args(argv)
    arguments.command_line = shlex.join(["seam-fast", *argv])
    return run_guarded("seam-fast", lambda: arguments.run(arguments))


def run_guarded(name: str, run) -> int:
    """Runs a command's body: the user's errors become one sentence and exit code 1, Ctrl-C becomes 130, and SIGTERM and
    SIGHUP end it as Ctrl-C does.
    """
    with ended_as_by_ctrl_c() as received, any_character_can_be_shown():
        try:
            with usable_threads(), warnings_as_sentences(name):
                return run() or 0
        except SeamFastError as error:
            message = in_flags(str(error))
        except KeyboardInterrupt:
            number = received[0] if received else signal.SIGINT
            how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
            print(f"{name}: {how}", file=sys.stderr)
            return 128 + number
        except BrokenPipeError:  # the reader of our output has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            message = f"{error.filename or 'system'}: {error.strerror or error}"
        print(f"{name}: error: {message}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def ended_as_by_ctrl_c():
    """SIGTERM (of a scheduler or docker) and SIGHUP raise KeyboardInterrupt in here, so that what was trained is saved.

    Gives a list of those received. Once one has come, the next ones do not disturb the saving. Handlers that are set
    already stay, such as nohup's.
    """
    received: list[int] = []

    def raise_once(number, frame):
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {number: signal.SIG_DFL for number in signals if signal.getsignal(number) == signal.SIG_DFL}
    for number in before:
        signal.signal(number, raise_once)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def any_character_can_be_shown():
    """What the encoding of the output lacks, a class name's letters on a terminal of another language, is escaped."""
    changed = [
        (stream, stream.errors)
        for stream in (sys.stdout, sys.stderr)
        if hasattr(stream, "reconfigure") and stream.errors in ("strict", "surrogateescape")
    ]
    for stream, _ in changed:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in changed:
            with contextlib.suppress(OSError, ValueError):  # its reader has gone, or it is closed
                stream.reconfigure(errors=errors)


@contextlib.contextmanager
def usable_threads():
    """torch computes by no more threads than this process may use cores; by itself it counts the machine's."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, usable_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def warnings_as_sentences(name: str) -> Iterator[None]:
    """This package's warnings as sentences on standard error, without the line of code that they came from; each of
    the documents' (DataWarning) once.
    """
    said = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        show = warnings.showwarning

        def say(message, category, *rest):
            text = in_flags(str(message))
            if issubclass(category, DataWarning):
                text = f"{name}: warning: {text}"
            elif not text.startswith("seam-fast: "):
                show(message, category, *rest)
                return
            if text not in said:
                said.add(text)
                print(text, file=sys.stderr, flush=True)

        warnings.showwarning = say
        yield


def in_flags(message: str) -> str:
    """A sentence that speaks of arguments by the names that they have in Python, with those of the command line."""
    names = "|".join(name for name in (*SETTINGS, *OTHERS) if "_" in name)
    beside = rf"\b({names}) \(--[a-z-]+\)"  # where the sentence has both
    alone = rf"(?<![\w./=\"'-])({names})(?![\w./=(])"  # and is no part of a file's name or of a piece of Python
    for pattern in (beside, alone):
        message = re.sub(pattern, lambda found: "--" + found[1].replace("_", "-"), message)
    return message


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="seam-fast", description="Takes a trained LSTM text classifier apart into small modules, one per class."
    )
    parser.add_argument("--version", action="version", version=f"seam-fast {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name, run, help):
        sub = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        return sub

    def corpus_options(sub, default="r8"):
        sub.add_argument("--dataset", default=default, metavar="NAME", help="corpus: r8, or any name with --data-dir")
        sub.add_argument("--data-dir", metavar="DIR", help="folder with the corpus (for r8: see also SEAM_FAST_DATA)")

    def tokenizer_option(sub):
        sub.add_argument(
            "--tokenizer",
            metavar="RULE",
            help="where the base's file does not hold it (a function, or a bare state dict): the tokenizer it was "
            "trained with, as in train",
        )

    sub = verb("data", run_data, "find or fetch the corpus, and say what is in it")
    corpus_options(sub)
    sub.add_argument("--protocol", choices=("seam", "reference"), default="seam", help="text treatment")
    sub.add_argument(
        "--or-synthetic",
        action="store_true",
        help="where no source has R8, take a generated corpus; the last line of output names the corpus to use",
    )
    add_text_options(sub)

    sub = verb("train", run_train, "train a base classifier")
    corpus_options(sub)
    sub.add_argument("--recipe", choices=("strong", "public"), default="strong")
    sub.add_argument("--protocol", choices=("seam", "reference"), help="text treatment (default: the recipe's own)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--epochs", type=positive, help="default: the recipe's own")
    sub.add_argument("--num-layers", type=positive, default=1, help="LSTM layers")
    sub.add_argument("--bidirectional", action="store_true", help="an LSTM that reads in both directions")
    sub.add_argument("--device", default="cpu", help="cpu (default) or cuda, where the result differs by rounding")
    add_text_options(sub)
    sub.add_argument("--out", metavar="FILE", help="default: runs/NAME/base.safetensors (base_public.safetensors)")
    sub.add_argument("--reuse", action="store_true", help="keep the base that is there if it was made just so")

    sub = verb("reengineer", run_reengineer, "learn a module for each target class")
    corpus_options(sub)
    add_base_options(sub, "runs/NAME/base.safetensors")
    tokenizer_option(sub)
    sub.add_argument("--targets", default="all", help="all, or classes by number or name: 0,grain,2+3 (+ joins a set)")
    sub.add_argument("--out", metavar="DIR", help="folder for modules, record, table and pictures (default: runs/NAME)")
    sub.add_argument("--reuse", action="store_true", help="keep modules that are there if they were made just so")
    sub.add_argument("--no-plots", action="store_true", help="draw no pictures")
    sub.add_argument("--seed", type=int, default=0)
    add_settings(sub)
    sub.add_argument("--evaluate-every", type=int, default=1, help="epochs between evaluations; 0: never")
    sub.add_argument(
        "--threads", type=positive, help="modules side by side (default: all cores it may use, or all that GPUs hold)"
    )

    sub = verb("evaluate", run_evaluate, "judge a saved module on labelled documents, beside its base")
    sub.add_argument("module", metavar="MODULE", help="a .safetensors or .pth module file")
    corpus_options(sub, default=None)
    sub.add_argument(
        "--documents",
        metavar="FILE",
        help="judge it on any file of lines label<TAB>text instead of a corpus' test documents",
    )
    add_base_options(sub, "base.safetensors beside it or up to two folders up")
    tokenizer_option(sub)
    sub.add_argument("--target", help="for .pth files outside a tc_<k> folder: the class")

    sub = verb("bench", bench.run, "measure seam-fast and its rivals in turn, on this machine")
    bench.add_kinds(sub)

    verb("info", run_info, "say what is installed and which backends work")
    return parser


def add_base_options(sub, where) -> None:
    """Where the base is, and how its file is to be read."""
    sub.add_argument("--base", metavar="FILE", help=f"default: {where}")
    sub.add_argument(
        "--readout", choices=("last_word", "last_position"), help="where the LSTM is read (default: as saved)"
    )
    sub.add_argument("--read", action=OldFlag, new="--readout", values={"end": "last_position"})
    sub.add_argument(
        "--key-map",
        type=key_map,
        default={},
        metavar="OURS=THEIRS,...",
        help="what the base's file calls word_embeddings, lstm, hidden2label or a tensor of these, if not plain",
    )
    sub.add_argument(
        "--ignore-keys",
        type=lambda text: text.split(","),
        default=[],
        metavar="KEY,...",
        help="tensors of the base's file that take no part, or what their names begin with",
    )


class OldFlag(argparse.Action):
    """A flag by its old name, which works for one minor release. values: present spelling by old spelling."""

    def __init__(self, option_strings, dest, *, new, values=None):
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        self.new, self.values = new, values or {}

    def __call__(self, parser, namespace, value, option_string=None):
        value = self.values.get(value, value)
        print(
            f"seam-fast: {option_string} is deprecated, it is called {self.new} now: {self.new} {value}",
            file=sys.stderr,
        )
        action = parser._option_string_actions[self.new]
        parser._check_value(action, value)
        setattr(namespace, action.dest, value)


def add_text_options(sub) -> None:
    """The fields of ``CorpusConfig`` that people change."""
    sub.add_argument(
        "--tokenizer",
        metavar="RULE",
        help="how texts become words: words (lower case, punctuation apart; default for your own corpus), r8 (the "
        "letters a to z; default for R8 and texts that were prepared likewise), spaces (at white space; default "
        "of protocol reference), characters, or a function as MODULE:FUNCTION, such as jieba:lcut",
    )
    sub.add_argument("--min-count", type=positive, metavar="N", help="times a word must occur (default: 1)")
    sub.add_argument(
        "--max-length",
        type=positive,
        metavar="N",
        help="words read of each document (default: 64, characters 256, protocol reference 32)",
    )
    sub.add_argument(
        "--smallest-class",
        type=positive,
        metavar="N",
        help="training documents a class of your own corpus needs (default: 2)",
    )


def add_settings(sub, protocol: str = "seam") -> None:
    """The options of ``Settings`` that people change, and those of training."""
    sub.add_argument(
        "--protocol",
        choices=("seam", "reference"),
        default=protocol,
        help=f"sets all defaults below (default: {protocol})",
    )
    sub.add_argument("--schedule", choices=("seam", "port", "joint"))
    sub.add_argument("--sampling", choices=("balanced", "redraw", "all"))
    sub.add_argument("--penalty", choices=("global", "group"))
    sub.add_argument("--selection", choices=("reference", "f1", "last"))
    sub.add_argument("--alpha", type=float, help="weight of the penalty on kept weights")
    sub.add_argument("--lr-mask", "--lr_mask", type=float, help="learning rate of the scores")
    sub.add_argument("--lr-head", "--lr_head", type=float, help="learning rate of the head")
    sub.add_argument(
        "--epochs", "--n_epochs", type=positive, help="epochs (default of protocol seam: a budget in steps)"
    )
    sub.add_argument("--steps", type=int, help="budget in steps, in place of epochs")
    sub.add_argument("--batch-size", type=int)
    sub.add_argument("--word-dropout", type=float)
    sub.add_argument("--negatives-per-target", type=float)
    sub.add_argument("--shots", type=int, help="target documents to train on; -1: all")
    sub.add_argument(
        "--early-stop", "--early_stop", type=int, help="epochs without progress before stopping; -1: never"
    )
    sub.add_argument(
        "--backend",
        default="auto",
        choices=("auto", "cuda", "cpu", "torch"),
        help="what trains: cuda, all NVIDIA GPUs here, cpu, the CPU's compiled engine, torch, plain PyTorch, or auto, "
        "the first that works (default)",
    )
    sub.add_argument(
        "--lazy-update",
        default="quadrature",
        choices=("quadrature", "replay", "off"),
        help="how the compiled engines treat rows of words that a step does not use (default: quadrature, the fastest)",
    )
    sub.add_argument("--catch-up", action=OldFlag, new="--lazy-update", values={"dense": "off"})


SETTINGS = (
    "schedule",
    "sampling",
    "penalty",
    "selection",
    "alpha",
    "lr_mask",
    "lr_head",
    "epochs",
    "steps",
    "batch_size",
    "word_dropout",
    "negatives_per_target",
    "shots",
    "early_stop",
)

OTHERS = ("evaluate_every", "lazy_update", "min_count", "max_length", "smallest_class")  # options as Python names them


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def key_map(text: str) -> dict[str, str]:
    """OURS=THEIRS pairs, separated by commas, for argparse."""
    pairs = [pair.split("=") for pair in text.split(",")]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form OURS=THEIRS,OURS=THEIRS")
    return dict(pairs)


def load_base(arguments, path):
    """The base in that file, as the options say that it is to be read; says what was made of a file of other names.

    The tokenizer of the command line is for files that do not hold theirs.
    """
    from ..classifier.model import LSTMClassifier
    from ..data.tokenizer import tokenizer_named
    from .workflow import say

    options = {"readout": arguments.readout, "key_map": arguments.key_map, "ignore_keys": arguments.ignore_keys}
    if arguments.tokenizer:
        options["tokenizer"] = tokenizer_named(arguments.tokenizer)
    base = LSTMClassifier.load(path, **options)
    if base.info.get("adapted"):
        say(f"{path}: {'; '.join(base.info['adapted'])}")
    return base


def settings_from(arguments):
    """The protocol's settings with the options given on the command line."""
    from ..search.settings import Settings

    if getattr(arguments, "evaluate_every", 1) == 0 and arguments.selection not in (None, "last"):
        raise TrainingError(
            "--selection has no effect with --evaluate-every 0, which keeps the last epoch; leave it out"
        )
    options = {name: getattr(arguments, name, None) for name in SETTINGS}
    return Settings.for_protocol(arguments.protocol).with_options(**options)


def run_data(arguments) -> int:
    from .workflow import SYNTHETIC, get_corpus, say

    dataset = arguments.dataset
    options = text_settings(arguments)
    place = dataset, arguments.data_dir
    try:
        corpus = get_corpus(*place, arguments.protocol, None, say, arguments.smallest_class, **options)
    except NoSourceError as error:
        if not arguments.or_synthetic:
            raise
        say(f"{error}\nGoing on with a generated corpus of the same shape, to show how it works.")
        dataset = SYNTHETIC
        corpus = get_corpus(dataset, None, arguments.protocol, None, say, **options)
    counts = {
        name: [int((split.labels == k).sum()) for split in (corpus.train, corpus.test)]
        for k, name in enumerate(corpus.class_names)
    }
    if arguments.json:
        facts = {"name": corpus.name, "source": corpus.source, "synthetic": corpus.synthetic, "classes": counts}
        facts |= {"words": corpus.vocab_size, "config": corpus.config.as_dict(), "data_hash": corpus.data_hash}
        print_json(facts)
        return 0
    mark = "SYNTHETIC " if corpus.synthetic else ""
    print(f"{mark}{corpus.name}: {corpus.source}")
    print(f"{mark}{len(corpus.train)} training and {len(corpus.test)} test documents, {corpus.vocab_size} words")
    config = corpus.config
    print(f"{mark}tokenizer {config.tokenizer.name}; the first {config.max_length} words of each document are read")
    width = max(len(name) for name in counts)
    for name, (train, test) in counts.items():
        print(f"{mark}  {name:{width}}  {train:5} train  {test:5} test")
    if arguments.or_synthetic:
        print(dataset)
    return 0


def run_train(arguments) -> int:
    from ..classifier.device_training import training_device
    from ..common.arguments import seed_number
    from .workflow import RECIPE_PROTOCOL, check_writable, describe_base, get_corpus, say, train_base

    name = "base.safetensors" if arguments.recipe == "strong" else f"base_{arguments.recipe}.safetensors"
    path = Path(arguments.out or Path("runs") / arguments.dataset / name)
    check_writable(path, (".safetensors", ".pt", ".pth"))
    protocol = arguments.protocol or RECIPE_PROTOCOL[arguments.recipe]
    seed_number(arguments.seed)
    device = training_device(arguments.device)
    place = arguments.dataset, arguments.data_dir
    corpus = get_corpus(*place, protocol, None, say, arguments.smallest_class, **text_settings(arguments))
    options = {"num_layers": arguments.num_layers, "bidirectional": arguments.bidirectional}
    options |= {"epochs": arguments.epochs} if arguments.epochs else {}
    options["device"] = device
    base = reusable_base(path, corpus, arguments) if arguments.reuse else None
    if base is None:
        base = train_base(corpus, arguments.recipe, arguments.seed, path, say, **options)
    else:
        say(f"{path} is there already: kept ({describe_base(base)})")
    if arguments.json:
        print_json({"path": str(path), "hash": base.hash, "info": base.info})
    return 0


def reusable_base(path: Path, corpus, arguments):
    """The base in that file if this command would make the same; None otherwise."""
    from dataclasses import asdict, replace

    from ..classifier.device_training import device_name
    from ..classifier.model import LSTMClassifier
    from ..classifier.training import RECIPES

    if not path.is_file():
        return None
    try:
        base = LSTMClassifier.load(path)
    except SeamFastError:
        return None
    recipe = RECIPES[arguments.recipe]()
    settings = asdict(replace(recipe, epochs=arguments.epochs) if arguments.epochs else recipe)
    wanted = {
        "recipe": arguments.recipe,
        "seed": arguments.seed,
        "data_hash": corpus.data_hash,
        "settings": json.loads(json.dumps(settings)),  # as it comes back from the file
        "device": device_name(arguments.device),
    }
    same_shape = (base.num_layers, base.bidirectional) == (arguments.num_layers, arguments.bidirectional)
    as_trained = base.info.get("weights_hash") in (None, base.hash)  # older files do not say
    same = same_shape and as_trained and base.tokenizer == corpus.config.tokenizer
    return base if same and all(base.info.get(key) == value for key, value in wanted.items()) else None


def text_settings(arguments) -> dict:
    """The fields of ``CorpusConfig`` that the command line gives."""
    from ..data.tokenizer import tokenizer_named

    given = {"min_count": arguments.min_count, "max_length": arguments.max_length}
    given["tokenizer"] = tokenizer_named(arguments.tokenizer) if arguments.tokenizer else None
    return {name: value for name, value in given.items() if value is not None}


def run_reengineer(arguments) -> int:
    from ..search.auto_engine import engines_on_card
    from ..search.reengineer import reengineer
    from ..training.devices import ask_for_queues
    from . import report
    from .workflow import (
        ModuleFiles,
        can_draw,
        check_run,
        corpus_for_base,
        describe_base,
        draw_run,
        module_file,
        parse_targets,
        reusable,
        run_folder,
        save_run,
        say,
        with_documents,
    )

    ask_for_queues()
    folder = Path(arguments.out or Path("runs") / arguments.dataset)
    settings = settings_from(arguments)
    base = load_base(arguments, arguments.base or Path("runs") / arguments.dataset / "base.safetensors")
    corpus = corpus_for_base(base, arguments.dataset, arguments.data_dir, say)
    targets = parse_targets(arguments.targets, corpus)
    if arguments.targets == "all":
        targets = with_documents(targets, corpus, say)
    paths = {target: module_file(folder, target, corpus.class_names) for target in targets}
    if arguments.targets != "all":  # the record of the whole run stays what it is
        folder = run_folder(folder, targets)
    done = {}
    if arguments.reuse:
        wanted = {"settings": settings.as_dict(), "seed": arguments.seed, "evaluate_every": arguments.evaluate_every}
        engines = engines_on_card(base.weights(), arguments.backend, arguments.lazy_update, settings.batch_size)
        found = {target: reusable(paths[target], base, corpus, wanted, engines) for target in targets}
        done = {target: module for target, module in found.items() if module is not None}
        if done:
            say(f"{len(done)} of {len(targets)} modules are there already: kept")
    todo = [target for target in targets if target not in done]
    draw = not arguments.no_plots and can_draw(say)
    check_run([paths[target] for target in todo], folder, base, draw)
    if todo:
        say(f"re-engineering {len(todo)} targets from a base with {describe_base(base)}")
    mark = "SYNTHETIC: " if corpus.synthetic else ""
    files = ModuleFiles({target: paths[target] for target in todo}, mark, say)
    try:
        made = reengineer(
            base,
            corpus,
            todo,
            settings=settings,
            seed=arguments.seed,
            evaluate_every=arguments.evaluate_every,
            threads=arguments.threads,
            backend=arguments.backend,
            lazy_update=arguments.lazy_update,
            progress=True,
            on_module=lambda job, module: files.save(module),
        )
    except BaseException as error:
        files.save_all(getattr(error, "modules", None) or ())
        if files.saved and not arguments.json:
            print(report.table(sorted(files.saved, key=lambda module: todo.index(module.target))))
        raise
    modules = [done.get(target) or made[todo.index(target)] for target in targets]
    try:
        if not arguments.json:
            print(report.table(modules), flush=True)
    finally:
        files.save_all(made)
    record, metrics, written = save_run(modules, base, corpus, folder, arguments.command_line)
    if draw:
        written += draw_run(modules, metrics, folder, say)
    for path in written:
        say(f"{mark}wrote {path}")
    if arguments.json:
        print_json(record)
    return 0


def run_evaluate(arguments) -> int:
    from ..search.evaluate import evaluate_module
    from . import report
    from .workflow import find_base_beside

    if arguments.documents and (arguments.dataset or arguments.data_dir):
        beside = "--dataset" if arguments.dataset else "--data-dir"
        raise TrainingError(f"{beside} has no effect with --documents, which names the file to judge on; leave one out")
    path = Path(arguments.module)
    base_path, named = (arguments.base, None) if arguments.base else find_base_beside(path)
    base = load_base(arguments, base_path)
    dataset = arguments.dataset or named or base.info.get("corpus") or "r8"
    module = None if base.class_names is None else load_module(path, base, arguments.target, base)
    documents, source = documents_to_judge_on(base, dataset, arguments)
    module = module or load_module(path, base, arguments.target, documents)
    if base.vocabulary is None and module.card.get("data_hash") not in (None, documents.data_hash):
        raise CheckpointError(
            f"{path}: its base does not say its words, and these are not the documents it was trained on, by which "
            "they could be numbered, or the tokenizer was another (--tokenizer)"
        )
    evaluate_module(module, documents, source)
    if arguments.json:
        print_json(report.module_row(module) | {"metrics": module.metrics, "source": source})
    else:
        print(report.comparison(module))
    return 0


def documents_to_judge_on(base, dataset: str, arguments):
    """Documents as the base sees them, and where they came from.

    They are the test documents alone, for any base that says its words and classes; other bases take theirs from the
    whole corpus.
    """
    from ..data.corpus import load_split, split_for
    from .workflow import corpus_for_base, raw_test_documents, say

    if arguments.documents:
        return load_split(arguments.documents, base), str(arguments.documents)
    if base.vocabulary is None or base.class_names is None:
        corpus = corpus_for_base(base, dataset, arguments.data_dir, say)
        return corpus, corpus.source
    documents, source = raw_test_documents(dataset, arguments.data_dir, say)
    return split_for(base, documents), source


def load_module(path: Path, base, target: str | None, classes):
    """The module in a file. target: what the command line says of it; classes: what knows the classes' names."""
    from ..modules.seam_module import SeamModule
    from .workflow import parse_targets

    targets = parse_targets(target, classes) if target else [None]
    if len(targets) != 1:
        raise TrainingError(f"--target {target} names {len(targets)} targets; a module has one (+ joins a set)")
    module = SeamModule.load(path, base, target=targets[0])
    if targets[0] not in (None, module.target):
        raise CheckpointError(f"{path}: its card says target {list(module.target)}, not {list(targets[0])}")
    return module


def run_info(arguments) -> int:
    from .. import _ext
    from ..backend import backends, choose_engine, supported_gpus
    from ..search.auto_engine import what_auto_takes
    from ..training.devices import describe

    try:
        training = choose_engine(warn=False)
    except SeamFastError as error:  # SEAM_FAST_BACKEND asks for what cannot train
        training = f"not possible: {error}"
    gpus = supported_gpus() if training == "cuda" else []
    facts = {
        "seam-fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}, {cores_in_words()}",
        "package": str(Path(__file__).resolve().parents[1]),
        "training": training,
        "gpus": [describe(index) for index in gpus],
        "auto": what_auto_takes(training, len(gpus)),
        "backends": backends(),
        "build": _ext.build_info(),
    }
    if _ext.isa_note:
        facts["isa_note"] = _ext.isa_note
    if arguments.json:
        print_json(facts)
        return 0
    for name in ("seam-fast", "package", "python", "torch", "system"):
        print(f"{name:14} {facts[name]}")
    for name, reason in facts["backends"].items():
        print(f"{'backend ' + name:14} {'usable' if not reason else 'not usable: ' + reason}")
    print(f"{'training':14} {training}" + (f" ({'; '.join(facts['gpus'])})" if facts["gpus"] else ""))
    for line in facts["auto"]:
        print(f"{'':14} {line}")
    build = facts["build"]
    if build["loaded"]:
        cuda = f"CUDA {build['cuda']}" if build["with_cuda"] else "no CUDA"
        threads = "OpenMP" if build["openmp"] else "no OpenMP"
        print(f"{'compiled':14} for torch {build['torch']} by {build['compiler']}, {cuda}, {threads}")
        print(f"{'flags':14} {build['flags']}")
        print(f"{'instructions':14} {build['isa']}, of {', '.join(build['isas'])}")
        if _ext.isa_note:
            print(f"{'':14} {_ext.isa_note}")
    return 0


def cores_in_words() -> str:
    """How many cores this process may use, and of how many where it may not use all."""
    usable, there = usable_cores(), os.cpu_count() or 1
    return f"{usable} cores" + (f" (of {there}: a CPU quota or an affinity mask)" if usable < there else "")


def print_json(value) -> None:
    """One JSON document on standard output."""
    print(to_json(value, indent=1))


if __name__ == "__main__":
    sys.exit(main())
