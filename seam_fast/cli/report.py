"""The results of a run: the table that people read and the record that machines read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..classifier.tfidf import has_sklearn
from ..modules.marks import MARKS, marks_on
from ..modules.pareto import pareto
from ..modules.seam_module import SeamModule
from .machine import machine

SYNTHETIC_NOTE = "SYNTHETIC corpus: generated documents, no figure here says anything about R8"

COLUMNS = (
    ("class", "<"),
    ("base F1", ">"),
    ("F1", ">"),
    ("SVM", ">"),
    ("prec.", ">"),
    ("recall", ">"),
    ("accuracy (95 %)", ">"),
    ("kept %", ">"),
    ("floor %", ">"),
    ("emb. %", ">"),
    ("LSTM %", ">"),
    ("lin. %", ">"),
    ("epoch", ">"),
    ("s", ">"),
    ("marks", "<"),
)


def module_row(module: SeamModule) -> dict[str, Any]:
    """One module's figures by name.

    Args:
        module: a module that was trained here, or one of the reference, whose card is nearly empty.

    Returns:
        Plain numbers and strings; None for what the card does not tell, and for figures of the test documents where
        the module was not evaluated. Shares, such as ``kept``, are fractions of 1; ``seconds`` are of the training.
    """
    card, test = module.card, module.metrics.get("test", {})
    return {
        "target": list(module.target),
        "name": "+".join(card.get("target_names", map(str, module.target))),
        "synthetic": bool(card.get("synthetic")),
        "interrupted": bool(card.get("interrupted")),
        "base_f1": module.metrics.get("base", {}).get("f1"),
        "svm": _svm(module),
        "svm_f1": _svm(module).get("l2", {}).get("f1"),
        **{key: test.get(key) for key in ("f1", "precision", "recall", "accuracy", "accuracy_low", "accuracy_high")},
        "balanced_accuracy": module.metrics.get("test_balanced", {}).get("accuracy"),
        "base_balanced_accuracy": module.metrics.get("base_balanced", {}).get("accuracy"),
        "kept": module.kept,
        "vocabulary_floor": card.get("vocabulary_floor"),
        "kept_by_group": module.kept_by_group,
        "targets": test.get("targets"),
        "qualified": card.get("qualified"),
        "marks": marks_on(card),
        "threshold": card.get("threshold"),
        "epochs": card.get("epochs"),
        "best_epoch": card.get("best_epoch"),
        "steps": card.get("steps"),
        "seconds": card.get("seconds"),
    }


def _svm(module: SeamModule) -> dict[str, dict[str, Any]]:
    """What is known of linear detectors beside a module, by penalty; see `seam_fast.search.linear_svm`."""
    keys = ("f1", "weights", "difference", "low", "high", "verdict")
    return {kind: {key: each[key] for key in keys} for kind, each in module.card.get("svm", {}).items()}


def front_rows(module: SeamModule) -> list[dict[str, Any]]:
    """The Pareto front of the module's run as plain figures, sorted by kept; empty where no epoch was evaluated."""
    keys = ("epoch", "accuracy", "f1", "kept")
    return [{key: figures[key] for key in keys} for figures in pareto(module.history)]


_SHARES = ("kept", "vocabulary_floor")


def start_of(module: SeamModule) -> dict[str, Any]:
    """What the record says of where a module's scores started, as ``start``; nothing where all weights were kept."""
    return {"start": module.card["start"]} if "start" in module.card else {}


def mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the rows of `module_row`, of those figures for which a mean makes sense; None counts for nothing."""

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    keys = [
        "base_f1",
        "f1",
        "svm_f1",
        "precision",
        "recall",
        "accuracy",
        "balanced_accuracy",
        "kept",
        "vocabulary_floor",
    ]
    row: dict[str, Any] = {key: mean(row[key] for row in rows) for key in keys}
    row["kept_by_group"] = {g: mean(row["kept_by_group"][g] for row in rows) for g in rows[0]["kept_by_group"]}
    return row | {"name": "mean"}


def table(modules: Sequence[SeamModule]) -> str:
    """The table at the end of a run: a row for each module, their means, and notes that explain marks and columns."""
    rows = [module_row(module) for module in modules]
    synthetic = any(module.card.get("synthetic") for module in modules)
    columns = COLUMNS if any(row["marks"] for row in rows) else COLUMNS[:-1]
    cells = [[name for name, _ in columns]] + [_cells(row) for row in rows]
    if len(rows) > 1:
        cells.append(_cells(mean_row(rows)))
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    mark = "SYNTHETIC  " if synthetic else ""
    lines = [
        mark
        + "  ".join(
            f"{cell:{side}{width}}" for cell, (_, side), width in zip(line, columns, widths, strict=False)
        ).rstrip()
        for line in cells
    ]
    rule = mark + "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines.insert(1, rule)
    if len(rows) > 1:
        lines.insert(-1, rule)
    below = [r["name"] for r in rows if r["f1"] is not None and r["base_f1"] is not None and r["f1"] < r["base_f1"]]
    notes = [f"below the base (marked v): {', '.join(below)}"] if below else []
    for wrong, (words, advice) in MARKS.items():
        if marked := [row["name"] for row in rows if wrong in row["marks"]]:
            notes += [f"{wrong}: {', '.join(marked)}", f"    {words};", f"    {advice}"]
    unseen = [r["name"] for r in rows if r["targets"] == 0]
    if unseen:
        notes.append(f"without test documents, so nothing can be said of their F1 (-): {', '.join(unseen)}")
    notes += _svm_notes(rows)
    notes.append("F1, precision, recall, accuracy: target against rest on the whole test set; floor: weights left when")
    notes.append(
        "only rows of words absent from the target's balanced training documents are dropped, nothing learned."
    )
    if synthetic:
        notes.append("generated documents: no figure here says anything about R8")
    return "\n".join(lines + [mark + note for note in notes])


def _svm_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the column SVM says, and what the verdicts are."""
    known = [row for row in rows if row["svm"]]
    if not known:
        way_out = "seam-fast evaluate MODULE --svm fits one" if has_sklearn() else "pip install 'seam-fast[sklearn]'"
        return [f"SVM: no linear detector was fitted beside the modules ({way_out})"]
    fewest = [row["svm"]["l1"] for row in known if row["svm"]["l1"]["f1"] is not None]
    notes = ["SVM: F1 of a linear SVM fitted to the same documents and words, of no more weights than the module;"]
    if fewest:
        words, f1 = (sum(each[key] for each in fewest) / len(fewest) for key in ("weights", "f1"))
        notes.append(f"with L1 penalty it has {words:,.0f} words in the mean, and F1 {f1:.3f}.")
    verdicts = {mark: [row["name"] for row in known if _verdict(row) == mark] for mark in ("better", "worse")}
    told = "; ".join(f"{mark} (marked {_MARKS[mark]}): {', '.join(names)}" for mark, names in verdicts.items() if names)
    notes.append(f"told apart from it by a paired bootstrap (95 %): {told or 'no module'}")
    return notes


_MARKS = {"better": "+", "worse": "-"}


def _verdict(row: Mapping[str, Any]) -> str | None:
    """What the bootstrap says of a module beside the linear SVM; None where there is none, or of a mean."""
    verdict: str | None = row.get("svm", {}).get("l2", {}).get("verdict")
    return verdict


def _cells(row: Mapping[str, Any]) -> list[str]:
    """A row of `module_row` or `mean_row` as the texts of the table's `COLUMNS`."""

    def percent(value: float | None, digits: int = 1) -> str:
        return "-" if value is None else f"{100 * value:.{digits}f}"

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}".removeprefix("0")

    groups = row["kept_by_group"]
    below = row["f1"] is not None and row["base_f1"] is not None and row["f1"] < row["base_f1"]
    accuracy = percent(row["accuracy"])
    if row.get("accuracy_low") is not None:
        accuracy += f" ({percent(row['accuracy_low'])}-{percent(row['accuracy_high'])})"
    epoch = "-" if row.get("best_epoch") is None else f"{row['best_epoch'] + 1}/{row['epochs']}"
    return [
        row["name"] + (" (cut short)" if row.get("interrupted") else ""),
        share(row["base_f1"]),
        share(row["f1"]) + ("v" if below else " "),
        share(row["svm_f1"]) + _MARKS.get(_verdict(row) or "", " "),
        share(row["precision"]),
        share(row["recall"]),
        accuracy,
        percent(row["kept"], 2),
        percent(row["vocabulary_floor"]),
        percent(groups["embedding"], 2),
        percent(groups["lstm"]),
        percent(groups["linear"]),
        epoch,
        "-" if row.get("seconds") is None else f"{row['seconds']:.1f}",
        ", ".join(row.get("marks", ())),
    ]


def in_a_line(module: SeamModule) -> str:
    """The figures of the line that is printed as soon as a module is ready."""
    row = module_row(module)
    f1 = [] if row["f1"] is None else [f"F1 {row['f1']:.3f}"]
    if f1 and row["base_f1"] is not None:
        f1 = [f"{f1[0]}, base {row['base_f1']:.3f}"]
    seconds = [] if row["seconds"] is None else [f"{row['seconds']:.1f} s"]
    marks = [wrong.upper() for wrong in row["marks"]]
    return ", ".join([*f1, f"kept {100 * row['kept']:.2f} %", *seconds, *marks])


def _in_columns(figures: Mapping[str, Any]) -> str:
    """Precision, recall and F1 in columns."""
    values = (figures[name] for name in ("precision", "recall", "f1"))
    return "".join(f"{'-':>8}" if value is None else f"{value:8.3f}" for value in values)


def comparison(module: SeamModule) -> str:
    """One module beside its base: precision, recall, F1 and accuracy with its 95 % interval, and what is kept."""
    mark = "SYNTHETIC  " if module.card.get("synthetic") else ""
    row = module_row(module)
    source = module.card.get("evaluated_on", {}).get("source")
    title = f"target {row['name']}" + (f" on {source}" if source else "")
    lines = [title, f"{'':28}{'prec.':>8}{'recall':>8}{'F1':>8}   accuracy (95 % interval)"]
    for label, key in (
        ("module, whole test set", "test"),
        ("base, whole test set", "base"),
        ("module, balanced subset", "test_balanced"),
        ("base, balanced subset", "base_balanced"),
    ):
        figures = module.metrics[key]
        accuracy = "-"
        if figures["accuracy"] is not None:
            interval = f"{100 * figures['accuracy_low']:.1f}-{100 * figures['accuracy_high']:.1f}"
            accuracy = f"{100 * figures['accuracy']:.1f} % ({interval})"
        lines.append(f"{label:28}{_in_columns(figures)}   {accuracy} of {figures['documents']}")
    for kind, svm in module.card.get("svm", {}).items():
        accuracy = "-" if svm["accuracy"] is None else f"{100 * svm['accuracy']:.1f} %"
        label = f"{kind.upper()} SVM, {svm['weights']:,} words"
        lines.append(f"{label:28}{_in_columns(svm)}   {accuracy}")
        if svm["difference"] is not None:
            interval = f"{svm['low']:+.3f} to {svm['high']:+.3f}"
            lines.append(f"    the module's F1 less this: {svm['difference']:+.3f} ({interval}), {svm['verdict']}")
    if row["targets"] == 0:
        lines.append("none of these documents is of the target, so nothing can be said of its F1 (-)")
    if row["interrupted"]:
        lines.append("its training was cut short")
    if moved := row["threshold"]:
        before, after = ("-" if moved[name] is None else f"{moved[name]:.3f}" for name in ("f1_before", "f1"))
        lines.append(f"threshold moved on the documents that chose its epoch, from F1 {before} to {after} on these")
    for wrong in row["marks"]:
        words, advice = MARKS[wrong]
        lines += [f"{wrong.upper()}: {words}", f"    {advice}"]
    kept = ", ".join(f"{group} {100 * share:.2f} %" for group, share in row["kept_by_group"].items())
    lines.append(f"kept {100 * row['kept']:.2f} % of all weights: {kept}")
    if row["vocabulary_floor"] is not None:
        lines.append(f"vocabulary floor {100 * row['vocabulary_floor']:.1f} %")
    return "\n".join(mark + line for line in lines)


def record(
    modules: Sequence[SeamModule], command: str, base_metrics: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Everything about a run that can be written as JSON: machine, versions, settings, figures, fronts, histories.

    Args:
        modules: all modules of the run, at least one; they share base, corpus and settings.
        command: the command line.
        base_metrics: more entries for the record's ``base``.

    Returns:
        The content of ``record.json``.
    """
    rows = [module_row(module) for module in modules]
    card = modules[0].card
    return {
        "format": "seam-fast record 1",
        "command": command,
        "machine": machine(),
        "corpus": {key: card.get(key) for key in ("corpus", "synthetic", "data_hash")},
        "base": {"hash": card.get("base_hash"), **(base_metrics or {})},
        "settings": card.get("settings"),
        "seed": card.get("seed"),
        "modules": [
            row | start_of(module) | {"metrics": module.metrics, "front": front_rows(module), "history": module.history}
            for row, module in zip(rows, modules, strict=True)
        ],
        "mean": mean_row(rows),
    }
