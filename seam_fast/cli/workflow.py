"""What the commands share: finding corpus and base, naming files, and saving what a run made."""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..classifier.model import LSTMClassifier, evaluate_classifier, predict_logits
from ..classifier.training import train_classifier
from ..common.progress import is_terminal, say
from ..data.corpus import Corpus, CorpusConfig, load_corpus
from ..data.documents import Documents
from ..data.r8 import find_documents, load_r8
from ..data.read_files import read_documents
from ..data.synthetic import synthetic_documents, synthetic_r8
from ..errors import CheckpointError, DataError, TrainingError
from ..files.atomic import to_json, unfinished, write_atomically
from ..modules.seam_module import SeamModule
from ..search.evaluate import warn_of_chance
from ..search.settings import Settings
from . import plots, report

SYNTHETIC = "r8-synthetic"
MODULE_CARD = 1 << 18  # bytes of card, history and head of a module's file, more rather than less
RECIPE_PROTOCOL = {"strong": "seam", "public": "reference"}  # the text treatment each recipe was made for

Log = Callable[[str], object]


def get_corpus(
    dataset: str,
    data_dir: str | None,
    protocol: str,
    config: CorpusConfig | None,
    log: Log,
    smallest_class: int | None = None,
    base: LSTMClassifier | None = None,
    **options,
) -> Corpus:
    """The corpus of that name: R8 from wherever it can be had, the synthetic one, or the caller's own folder.

    smallest_class: training documents a class of the caller's own corpus needs; None: two. base: words and classes are
    numbered as this base has them. options: override fields of the configuration.
    """
    if smallest_class is not None and dataset in ("r8", SYNTHETIC):
        raise DataError(
            f"--smallest-class is for a corpus of your own, the classes of {dataset} are what they are; leave it out"
        )
    if dataset == SYNTHETIC:
        if data_dir is not None:
            raise DataError(f"--data-dir has no effect with --dataset {SYNTHETIC}, which is generated; leave it out")
        log(report.SYNTHETIC_NOTE)
        return synthetic_r8(protocol, config, base=base, **options)
    if dataset == "r8":
        return load_r8(data_dir, protocol, config, log, base, **options)
    return load_corpus(own_folder(dataset, data_dir), dataset, protocol, config, smallest_class, base, **options)


def own_folder(dataset: str, data_dir: str | None) -> str:
    """The folder of the caller's own corpus, which has to be named."""
    if data_dir is None:
        raise DataError(f"the corpus {dataset!r} needs --data-dir, the folder with {dataset}-train-all-terms.txt")
    return data_dir


def corpus_for_base(base: LSTMClassifier, dataset: str, data_dir: str | None, log: Log) -> Corpus:
    """The corpus, its documents treated and its words and classes numbered as when the base was trained."""
    config = base.corpus_config
    own = dataset not in ("r8", SYNTHETIC) and base.class_names is None  # classes are as they were at training
    corpus = get_corpus(dataset, data_dir, "seam", config, log, smallest_class=1 if own else None, base=base)
    if base.info.get("data_hash") not in (None, corpus.data_hash):
        log("note: these documents are not those the base was trained on (their hashes differ)")
    elif base.vocabulary is None:
        log(
            "note: this base does not say its words, so they are numbered as they come in these documents, which is "
            "right for the very documents it was trained on alone"
        )
    return corpus


def raw_test_documents(dataset: str, data_dir: str | None, log: Log) -> tuple[Documents, str]:
    """The raw test documents of the corpus of that name, and a sentence saying where they came from."""
    if dataset == SYNTHETIC:
        log(report.SYNTHETIC_NOTE)
        _, documents, source = synthetic_documents()
    elif dataset == "r8":
        _, documents, source = find_documents(data_dir, log)
    else:
        _, documents = read_documents(own_folder(dataset, data_dir), dataset)
        source = documents.path
    return documents, source


def train_base(corpus: Corpus, recipe: str, seed: int, path: Path, log: Log, **options) -> LSTMClassifier:
    """Trains a base and saves it, the metrics on the test documents in its metadata.

    What there is when the training is cut short goes to a file beside, marked ``.interrupted``.
    """
    mark = "SYNTHETIC: " if corpus.synthetic else ""
    size = f"{len(corpus.train)} documents, {corpus.num_classes} classes"
    log(f"{mark}training the base: recipe {recipe}, {size}, seed {seed}")
    check_room(path.parent, 8 * corpus.vocab_size * options.get("embedding_dim", 100))  # a new file beside the old one
    lines = None if is_terminal(sys.stderr) else say  # on a terminal there is a bar
    try:
        base = train_classifier(corpus, recipe, seed, progress=True, log=lines, **options)
    except BaseException as error:
        base = getattr(error, "base", None)
        if base is not None:
            beside = base.save(path.with_name(f"{path.stem}.interrupted{path.suffix}"))
            log(f"{mark}cut short; the base after {base.info['interrupted']} epochs: {beside}")
        raise
    base.save(path)  # before anything else is made of it
    base.info["test"] = evaluate_classifier(base, corpus.test).as_dict(corpus.class_names)
    warn_of_chance(predict_logits(base, corpus.test.ids, corpus.test.lengths), corpus.test.labels, "the test documents")
    base.save(path)
    log(f"{mark}base: {path} ({describe_base(base)})")
    return base


def describe_base(base: LSTMClassifier) -> str:
    """One line about a base's quality, from its metadata."""
    test = base.info.get("test")
    if not isinstance(test, dict):
        return f"{base.num_classes} classes, {base.vocab_size} words"
    mark = "SYNTHETIC, " if base.info.get("synthetic") else ""
    low, high = test["accuracy_low"], test["accuracy_high"]
    interval = f"95 % interval {100 * low:.1f}-{100 * high:.1f}"
    return f"{mark}test accuracy {100 * test['accuracy']:.2f} % ({interval}), mean class F1 {test['mean_f1']:.3f}"


def with_documents(targets: list[tuple[int, ...]], corpus: Corpus, log: Log) -> list[tuple[int, ...]]:
    """Those targets that have training documents; the others are named."""
    there = set(corpus.train.labels.tolist())
    missing = [corpus.class_names[k] for target in targets for k in target if not there.issuperset(target)]
    if missing:
        log(f"note: no training documents, and so no module: {', '.join(missing)}")
    return [target for target in targets if there.issuperset(target)]


def parse_targets(text: str, corpus: Corpus | LSTMClassifier) -> list[tuple[int, ...]]:
    """``all``, or a comma-separated list of classes by number or name, joined with ``+`` where a target is a set.

    Digits are a class number, even where some class bears them as its name. A name that holds a comma or a plus can
    stand alone only.
    """
    if text == "all":
        return [(k,) for k in range(corpus.num_classes)]
    if text in corpus.class_names and not text.isdecimal():
        return [(corpus.class_names.index(text),)]

    def number(word: str) -> int:
        if word.isdecimal() and int(word) < corpus.num_classes:
            return int(word)
        if word in corpus.class_names and not word.isdecimal():
            return corpus.class_names.index(word)
        names = ", ".join(corpus.class_names[:12]) + (", ..." if corpus.num_classes > 12 else "")
        raise TrainingError(f"no class {word!r}; there are 0 to {corpus.num_classes - 1}, or by name: {names}")

    targets = (tuple(sorted({number(word.strip()) for word in part.split("+")})) for part in text.split(","))
    return list(dict.fromkeys(targets))


def module_file(folder: Path, target: Sequence[int], class_names: Sequence[str]) -> Path:
    """Where a module goes: its class names, with only plain characters, behind the class number."""
    names = "+".join(class_names[k] for k in target)
    plain = "".join(c if c in "+-_" or (c.isalnum() and can_be_in_a_name(c)) else "_" for c in names)[:60]
    return folder / "modules" / f"{shortened('+'.join(map(str, target)))}-{shortened(plain)}.safetensors"


def reference_file(root: Path, dataset: str, target: Sequence[int], settings: Settings) -> Path:
    """The reference's path for a module's scores, floats written as Python writes them."""
    name = f"lr_head_mask_{float(settings.lr_head)}_{float(settings.lr_mask)}_alpha_{float(settings.alpha)}.pth"
    folder = "tc_" + shortened("+".join(map(str, target)))
    return root / "binary_classification" / f"lstm_{dataset}" / folder / name


def run_folder(folder: Path, targets: Sequence[Sequence[int]]) -> Path:
    """Where the record of a few targets goes, beside that of all."""
    return folder / f"targets_{shortened('_'.join('+'.join(map(str, target)) for target in targets))}"


def shortened(text: str, most: int = 100) -> str:
    """A part of a file name in at most so many bytes: the text, or its beginning and a hash of all of it."""
    data = os.fsencode(text)
    if len(data) <= most:
        return text
    mark = f"-{hashlib.sha256(data).hexdigest()[:8]}"
    return data[: most - len(mark)].decode(sys.getfilesystemencoding(), "ignore") + mark


def can_be_in_a_name(character: str) -> bool:
    """Whether the file system's encoding has it."""
    try:
        os.fsencode(character)
    except UnicodeEncodeError:
        return False
    return True


def reusable(
    path: Path, base: LSTMClassifier, corpus: Corpus, wanted: dict, engines: Iterable[dict] = ({},)
) -> SeamModule | None:
    """The module in that file if it is just what this run would make; None otherwise.

    wanted: what its card must say of settings, seed and evaluate_every; engines: one of these of its engine.
    """
    if not path.is_file():
        return None
    try:
        module = SeamModule.load(path, base)
    except CheckpointError:
        return None
    wanted = wanted | {"data_hash": corpus.data_hash, "interrupted": None}

    def says(facts):
        return all(module.card.get(key) == value for key, value in facts.items())

    return module if says(wanted) and any(map(says, engines)) else None


class ModuleFiles:
    """Writes modules to their files, each as soon as it is there, and says so.

    paths: by target. saved: the modules that are on disk.
    """

    def __init__(self, paths: dict[tuple[int, ...], Path], mark: str, log: Log):
        self.paths, self.mark, self.log = paths, mark, log
        self.saved: list[SeamModule] = []

    def save(self, module: SeamModule) -> None:
        """A disk that is full now may not be so at the end, when `save_all` tries again: the training goes on."""
        try:
            self._save(module)
        except OSError as error:
            self.log(f"{self.mark}{self.paths[module.target]} cannot be written yet: {error.strerror or error}")

    def save_all(self, modules: Iterable[SeamModule | None]) -> None:
        """Those that are there and not yet on disk; one that was cut short does not take the place of a whole one."""
        error = None
        for module in modules:
            if module is not None and not any(module is other for other in self.saved):
                try:
                    self._save(module)
                except OSError as failure:
                    error = failure
        if error is not None:
            raise error

    def _save(self, module: SeamModule) -> None:
        path = self.paths[module.target]
        if module.card.get("interrupted"):
            path = not_in_the_way(path)
        module.save(path)
        self.saved.append(module)
        count = f"{len(self.saved)} of {len(self.paths)}"
        self.log(f"{self.mark}module: {path} ({report.in_a_line(module)}; {count})")


def check_run(paths: Sequence[Path], folder: Path, base: LSTMClassifier, draw: bool) -> None:
    """Finds out before the training whether its results can be saved. paths: of modules; folder: of the record."""
    names = ["record.json", "table.txt", *(plots.NAMES if draw else ())]
    for path in [*paths, *(folder / name for name in names)]:
        check_writable(path, (path.suffix,))
    weights = sum(weight.numel() for weight in base.weights().values())
    check_room(folder, len(paths) * (weights // 8 + MODULE_CARD))


def can_draw(log: Log) -> bool:
    """Whether matplotlib, of the extra [cli], is installed; where it is not, that is said before the training."""
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    log('no pictures will be drawn, since matplotlib is not installed: pip install "seam-fast[cli]"')
    return False


def check_room(folder: Path, size: int) -> None:
    """Raises CheckpointError where a folder's disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise CheckpointError(
            f"{folder}: about {size / 1e6:,.0f} MB will be written, and the disk has {free / 1e6:,.0f} MB free; make "
            "room or choose another folder"
        )


def save_run(
    modules: Sequence[SeamModule], base: LSTMClassifier, corpus: Corpus, folder: Path, command: str
) -> tuple[dict, dict, list[Path]]:
    """Writes record and table of a run into a folder; returns the record, the base's metrics and the paths."""
    metrics = evaluate_classifier(base, corpus.test).as_dict(corpus.class_names)
    record = report.record(modules, command, base_metrics={"test": metrics})
    record["corpus"]["config"] = corpus.config.as_dict()
    paths = [write_json(folder / "record.json", record)]
    table = report.table(modules) + "\n"
    paths.append(write_atomically(folder / "table.txt", table.encode("utf-8", "backslashreplace")))
    return record, metrics, paths


def draw_run(modules: Sequence[SeamModule], metrics: dict, folder: Path, log: Log) -> list[Path]:
    """Draws the pictures of a run into a folder; one that cannot be drawn is said to be missing. Returns the paths."""
    try:
        return plots.plot_all(modules, metrics["confusion"], folder)
    except Exception as error:  # whatever a font or a library says: it is no reason to lose sight of the results
        log(f"the pictures could not all be drawn: {type(error).__name__}: {error}")
        return []


def write_json(path: Path, value) -> Path:
    """A JSON file, whole or not at all."""
    return write_atomically(path, (to_json(value, indent=1, ensure_ascii=False) + "\n").encode())


def reference_base(root: Path, dataset: str) -> Path:
    """Where the reference's layout keeps the base: ``models/LSTM_classifier.pt``, for R8 without the corpus' name."""
    return root / "models" / f"LSTM_classifier{'' if dataset == 'r8' else '_' + dataset}.pt"


def find_base_beside(module_path: Path) -> tuple[Path, str | None]:
    """The base of a module saved by the command line, and the corpus' name where the path tells it.

    That is ``base.safetensors`` in the module's folder or one of the two above, or the base of the reference's layout.
    """
    parents = list(module_path.absolute().parents)
    for folder in parents[:3]:
        if (folder / "base.safetensors").is_file():
            return folder / "base.safetensors", None
    if len(parents) > 3 and parents[2].name == "binary_classification" and parents[1].name.startswith("lstm_"):
        dataset = parents[1].name.removeprefix("lstm_")
        if reference_base(parents[3], dataset).is_file():
            return reference_base(parents[3], dataset), dataset
    raise CheckpointError(
        f"{module_path}: found no base.safetensors beside it or up to two folders up; name it with --base"
    )


def not_in_the_way(path: Path) -> Path:
    """Where a half-trained module goes: that path, or one marked ``.interrupted`` if a module is there already."""
    return path.with_name(f"{path.stem}.interrupted{path.suffix}") if path.exists() else path


def check_writable(path: Path, suffixes: tuple[str, ...]) -> None:
    """Finds out before hours of training whether its result can be saved: the ending is known, the name possible, the
    folder writable. Raises CheckpointError or OSError.
    """
    if path.suffix not in suffixes:
        raise CheckpointError(f"{path}: the name must end in {' or '.join(suffixes)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder is in the way; remove it or choose another name")
    with contextlib.suppress(FileNotFoundError):
        os.lstat(path)  # says whether the name is too long
    trial = unfinished(path)
    try:
        trial.touch(exist_ok=False)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written ({error.strerror})", str(path)) from None
    trial.unlink()
