"""The tables of the corpora's record: modules beside their bases, and which of them fall short."""

import statistics

from benchmarks.report.words import command, joined, percent, table

ALLOWED = 0.02  # of F1 below the base
NAMES = {"r8": "R8", "mr": "MR", "r52": "R52", "trec": "TREC", "ohsumed": "Ohsumed"}


def short(row: dict) -> bool:
    """Whether a module is further below its base than is allowed, even at the upper end of the interval."""
    return row["difference"]["high"] < -ALLOWED


def names(record: dict) -> list[str]:
    """The corpora, those of ``NAMES`` first and in their order."""
    known = [name for name in NAMES if name in record["corpora"]]
    return [*known, *(name for name in record["corpora"] if name not in NAMES)]


def seeds(record: dict) -> str:
    """How many seeds the corpora were measured with."""
    counts = [sum(piece["corpus"] == name for piece in record["pieces"]) for name in record["corpora"]]
    return f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(max(counts))


def rows_of(record: dict, name: str) -> list[dict]:
    """The modules of a corpus, of all seeds."""
    return [row for piece in record["pieces"] if piece["corpus"] == name for row in piece["modules"]]


def corpora(record: dict) -> str:
    """A row a corpus: means over classes and seeds, and how many modules fall short or have a mark."""
    lines = []
    for name in names(record):
        about = record["corpora"][name]
        pieces = [piece for piece in record["pieces"] if piece["corpus"] == name]
        rows = rows_of(record, name)
        by_seed = [statistics.fmean(row["test"]["f1"] for row in piece["modules"]) for piece in pieces]
        kept, base = (
            statistics.fmean(values) for values in ([r["kept"] for r in rows], [r["base"]["f1"] for r in rows])
        )
        accuracy = statistics.fmean(piece["base"]["accuracy"] for piece in pieces)
        classes = len({row["class"] for row in rows})
        lines.append(
            [
                NAMES.get(name, name),
                f"{classes} of {about['classes']}" if classes < about["classes"] else str(classes),
                str(len(pieces)),
                percent(accuracy),
                f"{base:.3f}",
                f"{statistics.fmean(by_seed):.3f} ({min(by_seed):.3f} to {max(by_seed):.3f})",
                percent(kept, 2),
                f"{sum(map(short, rows))} of {len(rows)}",
                str(sum(bool(row["marks"]) for row in rows)),
            ]
        )
    head = ["corpus", "classes", "seeds", "base accuracy %", "base F1", "module F1 (means of the seeds)", "kept %"]
    return table([*head, f"more than {ALLOWED:g} below the base", "with a mark"], lines)


def verdict(record: dict) -> str:
    """Which modules fall short."""
    found: dict[str, list[str]] = {}
    for name in names(record):
        for row in filter(short, rows_of(record, name)):
            mark = f", {', '.join(row['marks'])}" if row["marks"] else ""
            difference = row["difference"]
            text = (
                f"{row['class']} {difference['f1']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f}{mark})"
            )
            found.setdefault(NAMES.get(name, name), []).append(text)
    if not found:
        return f"No module is more than {ALLOWED:g} of F1 below its base beyond what its interval allows."
    parts = [f"{name}: {joined(texts)}" for name, texts in found.items()]
    return f"More than {ALLOWED:g} of F1 below the base, even at the upper end of the interval: {'; '.join(parts)}."


def by_class(record: dict, name: str) -> str:
    """A row a class of a corpus: means over seeds, each seed's difference, and the marks."""
    lines = []
    for name_of_class in dict.fromkeys(row["class"] for row in rows_of(record, name)):
        rows = [row for row in rows_of(record, name) if row["class"] == name_of_class]
        documents, differences = rows[0]["documents"], [row["difference"] for row in rows]
        each_seed = [("**{:+.3f}**" if short(row) else "{:+.3f}").format(row["difference"]["f1"]) for row in rows]
        marks = dict.fromkeys(mark for row in rows for mark in row["marks"])
        lines.append(
            [
                name_of_class,
                f"{documents['train']} / {documents['held_out']} / {documents['test']}",
                f"{statistics.fmean(row['base']['f1'] for row in rows):.3f}",
                f"{statistics.fmean(row['test']['f1'] for row in rows):.3f}",
                " ".join(each_seed),
                f"{min(each['low'] for each in differences):+.3f} to {max(each['high'] for each in differences):+.3f}",
                percent(statistics.fmean(row["kept"] for row in rows), 2),
                ", ".join(marks),
            ]
        )
    head = ["class", "documents: training / held out of it / test", "base F1", "module F1", "difference, each seed"]
    return table([*head, "95 % intervals together", "kept %", "marks"], lines)


def all_classes(record: dict) -> str:
    """``by_class`` of every corpus."""
    return "\n\n".join(f"{NAMES.get(name, name)}:\n\n{by_class(record, name)}" for name in names(record))


def runs(record: dict) -> str:
    """The commands after the first, which stands below with the record; none where there was one."""
    commands = dict.fromkeys(command(run) for run in record["runs"][1:])
    return f"Then {joined([f'`{one}`' for one in commands])}." if commands else ""
