"""The table of the frontier's record: F1 against weights kept, by penalty."""

import statistics

from benchmarks.report.words import table


def points(record: dict) -> list[dict]:
    """A point for each setting, means over classes and seeds, by rising share of weights kept."""
    found = []
    for alpha, scale in sorted({(piece["alpha"], piece["scale"]) for piece in record["pieces"]}):
        pieces = [piece for piece in record["pieces"] if (piece["alpha"], piece["scale"]) == (alpha, scale)]
        modules = [module for piece in pieces for module in piece["modules"]]
        point = {"alpha": alpha, "scale": scale, "seeds": len(pieces)}
        point["kept"] = statistics.fmean(module["kept"] for module in modules)
        for group in ("embedding", "lstm"):
            point[group] = statistics.fmean(module["kept_by_group"][group] for module in modules)
        for split in ("validation", "test"):
            for name in ("f1", "average_precision"):
                point[f"{split} {name}"] = statistics.fmean(module[split][name] for module in modules)
        by_seed = [statistics.fmean(module["test"]["f1"] for module in piece["modules"]) for piece in pieces]
        point["test by seed"] = by_seed
        found.append(point)
    return sorted(found, key=lambda point: point["kept"])


def frontier(record: dict) -> str:
    """A row for each setting, and the base's."""
    rows = []
    for point in points(record):
        each = " ".join(f"{value:.3f}" for value in point["test by seed"])
        rows.append(
            [
                f"{point['alpha']:g}",
                f"{point['scale']:g}",
                *(f"{100 * point[name]:.2f}" for name in ("kept", "embedding", "lstm")),
                f"{point['validation f1']:.3f} ({point['validation average_precision']:.3f})",
                f"{point['test f1']:.3f} ({point['test average_precision']:.3f})",
                each,
            ]
        )
    base = record["base"]["classes"].values()
    own = [
        f"{statistics.fmean(each[split]['f1'] for each in base):.3f} "
        f"({statistics.fmean(each[split]['average_precision'] for each in base):.3f})"
        for split in ("validation", "test")
    ]
    rows.append(["the base", "", "100", "100", "100", *own, ""])
    heads = ["alpha", "LSTM scale", "kept %", "embedding %", "LSTM %", "validation F1 (AP)", "test F1 (AP)"]
    return table([*heads, "test F1 by seed"], rows)
