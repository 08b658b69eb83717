"""The tables of the sizes' record: one file for several sizes, beside modules that were trained for each size."""

import statistics

import numpy as np

from benchmarks.report.words import table

NEAR = 0.01  # of F1: a nested mask serves as well as one trained for its size
ORDER = "group"  # in which a file for several sizes is cut
RESAMPLES = 2000


def trained(record: dict) -> dict[str, dict[int, dict]]:
    """The pieces of modules that were trained for one size: by share, and there by seed."""
    found: dict[str, dict[int, dict]] = {}
    for piece in sorted(record["pieces"], key=lambda piece: piece["sizes"]):
        if len(piece["sizes"]) == 1:
            found.setdefault(f"{piece['sizes'][0]:g}", {})[piece["seed"]] = piece
    return found


def one_file(record: dict) -> dict[int, dict]:
    """The pieces of modules that were trained for several sizes, by seed."""
    return {piece["seed"]: piece for piece in record["pieces"] if len(piece["sizes"]) > 1}


def pairs(record: dict) -> dict[str, list[tuple[dict, dict]]]:
    """What is compared: by share, pairs of pieces of one seed, for several sizes and for just that one."""
    several = one_file(record)
    found = {
        share: [(several[seed], piece) for seed, piece in by_seed.items() if seed in several]
        for share, by_seed in trained(record).items()
    }
    return {share: each for share, each in found.items() if each}


def _mean(values) -> float | None:
    values = [value for value in values if value is not None]
    return statistics.fmean(values) if values else None


def _of_file(piece: dict, share: str, split: str, name: str = "f1", way: str = ORDER) -> float | None:
    """The mean over a piece's classes of a figure of one of its nested masks."""
    return _mean(row["nested"][way][share][split][name] for row in piece["modules"])


def _of_trained(piece: dict, split: str, name: str = "f1") -> float | None:
    """The mean over a piece's classes of a figure."""
    return _mean(row["own"][split][name] for row in piece["modules"])


def differences(record: dict) -> dict[str, dict]:
    """Mean test F1 of the one file less that of the modules that were trained for each size.

    Returns:
        By share ``mean``, ``seeds`` (the difference of each), and ``low`` and ``high``: the middle 95 % of the mean
        over paired samples of the test documents, drawn with replacement, the same for all classes and seeds.
    """
    counts = record["base"]["test_documents"]
    first = dict(zip(counts, np.cumsum([0, *counts.values()]), strict=False))
    total = sum(counts.values())
    drawn = np.random.default_rng(0).multinomial(total, [1 / total] * total, RESAMPLES).astype(np.float64)

    def f1(name: str, figures: dict) -> np.ndarray:
        """F1 of a class in each sample, (RESAMPLES,); 0 where nothing is found and nothing is there."""
        wanted, wrong = np.zeros(total, dtype=bool), np.zeros(total, dtype=bool)
        for one in name.split("+"):
            wanted[first[one] : first[one] + counts[one]] = True
        wrong[np.array(figures["wrong"].split(), dtype=int)] = True
        hits, errors = drawn @ (wanted & ~wrong), drawn @ wrong
        return 2 * hits / np.maximum(2 * hits + errors, 1)

    found = {}
    for share, compared in pairs(record).items():
        seeds = [_of_file(file, share, "test") - _of_trained(piece, "test") for file, piece in compared]
        samples = [
            f1(row["class"], row["nested"][ORDER][share]) - f1(row["class"], other["own"])
            for file, piece in compared
            for row, other in zip(file["modules"], piece["modules"], strict=True)
        ]
        low, high = np.quantile(np.mean(samples, axis=0), (0.025, 0.975))
        found[share] = {"mean": statistics.fmean(seeds), "seeds": seeds, "low": float(low), "high": float(high)}
    return found


def sizes(record: dict) -> str:
    """A row for each size: the one file beside the modules that were trained for it, means over classes and seeds."""
    rows, lost = [], differences(record)
    for share, compared in pairs(record).items():

        def file(split: str, name: str = "f1", share=share, compared=compared) -> str:
            return _digits(_mean(_of_file(piece, share, split, name) for piece, _ in compared))

        def one(split: str, name: str = "f1", compared=compared) -> str:
            return _digits(_mean(_of_trained(piece, split, name) for _, piece in compared))

        found = lost[share]
        rows.append(
            [
                f"{100 * float(share):g}",
                *(f("validation") for f in (file, one)),
                *(f"{f('test')} ({f('test', 'average_precision')})" for f in (file, one)),
                f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})",
                " ".join(f"{each:+.3f}" for each in found["seeds"]),
            ]
        )
    head = ["kept %", "validation F1: one file", "trained for it", "test F1 (AP): one file", "trained for it"]
    return table([*head, "difference of test F1 (95 %)", "by seed"], rows)


def ways(record: dict) -> str:
    """A row for each size: validation F1 of masks that are nested in the one file, and in modules that were trained by
    the penalty alone, by each way of cutting.
    """
    own = {piece["seed"]: piece for piece in record["pieces"] if not piece["sizes"]}
    sources = [one_file(record), own]
    names = ("group", "global", "refit")
    rows = []
    for share in pairs(record):
        found = [
            _digits(_mean(_of_file(piece, share, "validation", way=way) for piece in source.values()))
            for source in sources
            if source
            for way in names
        ]
        rows.append([f"{100 * float(share):g}", *found])
    words = ["by group", "by the scores alone", "by group, head refitted"]
    head = [f"one file: {words[0]}", *words[1:]]
    if own:
        head += [f"one size ({100 * _kept(own):.1f} %): {words[0]}", *words[1:]]
    return "Mean validation F1 of nested masks:\n\n" + table(["kept %", *head], rows)


def _kept(pieces: dict[int, dict]) -> float:
    return statistics.fmean(row["own"]["kept"] for piece in pieces.values() for row in piece["modules"])


def by_class(record: dict) -> str:
    """A row for each class: test F1 of the one file and of the trained module at each size, means over seeds."""
    compared = pairs(record)
    names = [row["class"] for row in record["pieces"][0]["modules"]]
    rows = []
    for k, name in enumerate(names):
        cells = [name]
        for share, each in compared.items():
            file = _mean(several["modules"][k]["nested"][ORDER][share]["test"]["f1"] for several, _ in each)
            one = _mean(piece["modules"][k]["own"]["test"]["f1"] for _, piece in each)
            cells.append(f"{_digits(file)} / {_digits(one)}")
        rows.append(cells)
    return table(["class", *(f"{100 * float(share):g} %: one file / trained" for share in compared)], rows)


def verdict(record: dict) -> str:
    """Where a mask that is nested in the one file is within .01 of one trained for its size, on average over the
    classes, and where not.
    """
    near, far = [], []
    found = differences(record)
    for share, each in found.items():
        (near if each["mean"] >= -NEAR else far).append(f"{100 * float(share):g} % ({each['mean']:+.3f})")
    seeds = max(len(each["seeds"]) for each in found.values())
    text = "Mean test F1 of the one file less that of the modules that were trained for each size, "
    text += f"{seeds} seed{'s' * (seeds > 1)}: "
    parts = [f"within {NEAR} or better at {', '.join(near)}"] if near else []
    parts += [f"more than {NEAR} below at {', '.join(far)}"] if far else []
    lowest = min(found.values(), key=lambda each: each["low"])["low"]
    sure = f" The 95 % intervals reach down to {lowest:+.3f}, so a loss of {NEAR} is "
    return text + "; ".join(parts) + "." + sure + ("not excluded." if lowest < -NEAR else "excluded at every size.")


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
