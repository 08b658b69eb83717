"""Tables of a record of training steps."""

from benchmarks.report.words import RIVALS, number, ratio, table

AGAINST = ("reference", "reference_best", "best_torch")


def steps(record: dict) -> str:
    """Milliseconds per step of every rival, and how many times as fast the engine is."""
    names = record["rivals"]
    others = [name for name in AGAINST if name in names and name != "native"]
    rows = []
    for row in record["rows"]:
        times = [number(row["ms"][name]["median"]) for name in names]
        ratios = [ratio(row["against"][other]["native"]) for other in others] if "native" in names else []
        rows.append([str(row["batch_size"]), *times, *ratios])
    head = ["batch", *(f"{RIVALS[name][1]}, ms" for name in names)]
    if "native" in names:
        head += [f"engine: times as fast as {RIVALS[other][0]}" for other in others]
    return table(head, rows)


def memory(record: dict) -> str:
    """Memory of a module beyond the base."""
    rows = []
    for name, found in (record["memory"] or {}).items():
        taken = {key: f"{value / 1e6:.1f}" for key, value in found["resident_bytes"].items()}
        cell = f"{taken['median']} ({taken['q1']} to {taken['q3']})"
        rows.append([RIVALS[name][0], cell, f"{found['tensor_bytes'] / 1e6:.1f}"])
    return table(["memory a module beyond the base", "resident MB (quartiles)", "tensors MB"], rows) if rows else ""


def vocabulary(record: dict) -> str:
    """Step times with both sizes of the vocabulary."""
    found = record["vocabulary"]
    if not found:
        return ""
    rows = []
    for name, figures in found["rivals"].items():
        spread = figures["ratio"]
        cell = f"{spread['median']:.2f} ({spread['q1']:.2f} to {spread['q3']:.2f})"
        rows.append([RIVALS[name][0], *(number(figures["ms"][size]["median"]) for size in ("small", "large")), cell])
    small, large = found["V"]["small"], found["V"]["large"]
    head = ["vocabulary", f"ms a step, {small:,} words", f"{large:,} words", "times as long (quartiles)"]
    return table(head, rows)
