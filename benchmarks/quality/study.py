"""How good modules are: all classes by protocol, engine and seed, with baselines, measured in pieces.

``python -m benchmarks.quality study`` runs it. The engine trains for 300 epochs and, by protocol seam, for its own
budget in steps as well; plain PyTorch for a few.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

import seam_fast as sf
from benchmarks.harness import records
from benchmarks.harness.bases import load_base
from benchmarks.quality.baselines import SHOWN, baselines
from benchmarks.report.tables_quality import study as study_table
from seam_fast.backend import untrainable_reason
from seam_fast.classifier.model import LSTMClassifier
from seam_fast.classifier.training import train_classifier
from seam_fast.cli import report
from seam_fast.cli.bases import train_base
from seam_fast.cli.corpora import corpus_for_base, get_corpus
from seam_fast.common.progress import say
from seam_fast.data.synthetic import synthetic_r8
from seam_fast.errors import SeamFastError

FORMAT = "seam-fast quality study 1"
SEEDS = (100, 101, 102)  # no setting was chosen with these
METHOD = (
    "Modules of every class by seam_fast.reengineer; figures of the target on the whole test set, natural class "
    "shares, looked at once a module, beside the base's own. Protocol reference: the base of the public recipe; its "
    "selection looks at the test set as the reference does, and selected_accuracy and acc_pre are on its balanced "
    "subset of it. Protocol seam: the base of the strong recipe; the epoch is chosen on documents held out of "
    "training (there selected_accuracy and acc_pre are on these). Baselines of each module of the engine, trained on "
    "its documents (of five epochs, where they are drawn anew): vocabulary_floor, everything but the rows of words "
    "that they do not hold; random_mask and magnitude_mask, as many weights of each group as the module keeps, at "
    "random or the largest; these three with a head trained on the base's masked outputs; tiny_lstm, a network of no "
    "more weights than the module, trained from nothing on them for 800 steps of 32 documents. kept: share of the "
    "base's weights."
)


@dataclass(frozen=True)
class Piece:
    """The modules of all classes that are trained in one go. epochs: None for the protocol's own budget."""

    protocol: str
    engine: str
    epochs: int | None
    seed: int

    @property
    def key(self) -> str:
        length = "own budget" if self.epochs is None else f"{self.epochs} epochs"
        return f"{self.protocol}, {self.engine}, {length}, seed {self.seed}"


def plan(arguments) -> list[Piece]:
    """All pieces, seed by seed."""
    epochs, few = (2, 1) if arguments.smoke else (20, 2) if arguments.quick else (300, 10)
    seeds = arguments.seeds or (SEEDS[:1] if arguments.smoke or arguments.quick else SEEDS)
    engine = "torch" if untrainable_reason(torch.float32) else "cpu"
    pieces = []
    for seed in seeds:
        pieces += [Piece("reference", engine, epochs, seed), Piece("seam", engine, None, seed)]
        pieces += [Piece("seam", engine, epochs, seed)]
        pieces += [Piece(protocol, "torch", few, seed) for protocol in ("reference", "seam") if engine != "torch"]
    return pieces


def run(arguments, command: str) -> int:
    """Measures the pieces that the record in ``--more`` lacks; writes the record after each."""
    torch.set_num_threads(1)
    begun = time.monotonic()
    out = records.check_path(Path(arguments.out or f"{arguments.records}/quality_study.json"))
    record = {"format": FORMAT, "method": METHOD, "runs": [], "bases": {}, "unmeasured": [], "pieces": []}
    record = records.resumed(arguments.more, "quality.study", record)
    this = {"command": command, "machine": report.machine(), "stopped": ""}
    record["runs"].append(this)
    known = {piece["key"] for piece in record["pieces"]}
    todo = [piece for piece in plan(arguments) if piece.key not in known]
    record["unmeasured"] = [piece.key for piece in todo]
    sources = Sources(arguments, record)
    while todo:
        if arguments.minutes is not None and time.monotonic() - begun > 60 * arguments.minutes:
            this["stopped"] = f"the {arguments.minutes:g} minutes were over"
            break
        piece = todo.pop(0)
        say(f"{piece.key}: {len(todo)} to go")
        found = measure_piece(piece, *sources.get(piece.protocol), sources.targets)
        record["pieces"].append(found | {"run": len(record["runs"]) - 1})
        record["unmeasured"] = [piece.key for piece in todo]
        records.save(record, out)
    records.save(record, out)
    print(study_table(record))
    return 0


class Sources:
    """Base and corpus of each protocol, noted in the record, or compared with what it already says of them."""

    def __init__(self, arguments, record: dict):
        self.arguments, self.record, self.known = arguments, record, {}
        self.targets = (4, 5) if arguments.smoke else (4, 5, 6) if arguments.quick else None

    def get(self, protocol: str):
        if protocol not in self.known:
            base, corpus = self.known[protocol] = self._load(protocol)
            test = base.info.get("test") or sf.evaluate_classifier(base, corpus.test).as_dict(corpus.class_names)
            about = {"hash": base.hash, "recipe": base.info.get("recipe", "public"), "data_hash": corpus.data_hash}
            about |= {"synthetic": corpus.synthetic, "test": {key: test[key] for key in ("accuracy", "mean_f1")}}
            if self.record["bases"].setdefault(protocol, about) != about:
                raise SeamFastError(f"the record is of another base or corpus of protocol {protocol}")
        return self.known[protocol]

    def _load(self, protocol: str):
        arguments = self.arguments
        if protocol == "reference":
            arguments.base = arguments.public_base
            return load_base(arguments)
        if arguments.smoke:
            corpus = synthetic_r8("seam")
            with torch.random.fork_rng():
                torch.manual_seed(0)
                return LSTMClassifier(corpus.vocab_size, 6, 5, corpus.num_classes, readout="last_word"), corpus
        path = Path(arguments.base_of_seam)
        if path.exists():
            base = LSTMClassifier.load(path)
            return base, corpus_for_base(base, "r8", arguments.data_dir, say)
        corpus = get_corpus("r8", arguments.data_dir, "seam", None, say)
        if arguments.quick:
            return train_classifier(corpus, "strong", 0, epochs=3, progress=True), corpus
        return train_base(corpus, "strong", 0, path, say), corpus


def measure_piece(piece: Piece, base, corpus, targets=None) -> dict:
    """Trains a piece: modules of all classes (or of ``targets``), each with its baselines."""
    begun = time.perf_counter()
    options = {"protocol": piece.protocol, "seed": piece.seed, "backend": piece.engine, "progress": True}
    options |= {} if piece.epochs is None else {"epochs": piece.epochs}
    modules = sf.reengineer(base, corpus, targets or range(corpus.num_classes), **options)
    seconds = time.perf_counter() - begun
    settings = sf.Settings(**modules[0].card["settings"])
    fit = corpus.validation_indices()[0] if settings.evaluation == "validation" else torch.arange(len(corpus.train))
    rows = []
    for module in modules:
        with_baselines = piece.engine == "cpu" or piece.epochs is None or piece.epochs > 50
        rows.append(
            {
                "class": "+".join(module.card["target_names"]),
                "acc_pre": module.card["evaluation"]["base"]["accuracy"],
                "selected_accuracy": module.history[module.card["best_epoch"]]["accuracy"],
                "base": {name: module.metrics["base"][name] for name in SHOWN},
                "test": {name: module.metrics["test"][name] for name in SHOWN},
                "kept": module.kept,
                "kept_by_group": module.kept_by_group,
                "vocabulary_floor": module.card["vocabulary_floor"],
                "steps": module.card["steps"],
                "baselines": baselines(module, corpus, fit, settings, piece.seed) if with_baselines else {},
            }
        )
    return {
        "key": piece.key,
        "protocol": piece.protocol,
        "engine": piece.engine,
        "epochs": piece.epochs,
        "seed": piece.seed,
        "settings": modules[0].card["settings"],
        "seconds": round(seconds, 3),
        "modules": rows,
    }
