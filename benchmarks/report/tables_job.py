"""Tables of a record of whole runs."""

import statistics

from benchmarks.report.words import RIVALS, number, percent, ratio, table


def summary(record: dict) -> str:
    """One sentence on the run of all classes."""
    part = record["eight"]
    if not part:
        return ""
    figures = part["figures"]
    slowest = max(part["rows"], key=lambda row: row["seconds"])
    return (
        f"{len(part['rows'])} classes, {part['settings']['epochs']} epochs, every epoch evaluated, {part['workers']} "
        f"workers: {figures['seconds']:.0f} seconds, {figures['steps']:,} steps, {figures['steps_a_second']:,.0f} a "
        f"second, at most {figures['peak_resident'] / 1e6:.0f} MB of memory. The longest, {slowest['class']}, took "
        f"{slowest['seconds']:.0f} s: a module is trained by one core."
    )


def eight(record: dict) -> str:
    """All classes by the reference's figures and by those of the whole test set."""
    part = record["eight"]
    if not part:
        return ""

    def cells(name, get, steps, seconds):
        selected = f"{percent(get('selected_accuracy'))} ({percent(get('best_accuracy'))})"
        shares = [get("whole_test", key) for key in ("f1", "precision", "recall")]
        f1 = f"{shares[0]:.3f} ({shares[1]:.2f}, {shares[2]:.2f})"
        kept = [percent(get("kept"), 2), percent(get("kept_by_group", "lstm")), percent(get("vocabulary_floor"))]
        return [name, percent(get("acc_pre")), selected, *kept, f1, f"{get('base_f1'):.3f}", steps, seconds]

    def field(row, *keys):
        for key in keys:
            row = row[key]
        return row

    rows = part["rows"]
    lines = [
        cells(row["class"], lambda *keys, row=row: field(row, *keys), f"{row['steps']:,}", f"{row['seconds']:.1f}")
        for row in rows
    ]
    lines.append(cells("mean", lambda *keys: statistics.fmean(field(row, *keys) for row in rows), "", ""))
    head = ["class", "acc_pre", "selected accuracy (best)", "kept %", "LSTM kept %", "vocabulary floor %"]
    head += ["F1 on the whole test set (precision, recall)", "base F1", "steps", "s"]
    return table(head, lines)


def one(record: dict) -> str:
    """One class by every rival."""
    part = record.get("one")
    if not part:
        return ""
    rows = []
    others = [name for name in ("reference", "reference_best") if name in part["against"]]
    for name, found in part["rivals"].items():
        seconds = number(found["seconds"]["median"])
        seconds += f", estimated from {found['epochs_run']} epochs" if found["estimated"] else ""
        memory = [found["peak_resident"] / 1e6, (found["peak_resident"] - found["resident_before"]) / 1e6]
        ratios = [part["against"][other].get(name) for other in others]
        cells = [number(found["ms_a_step"]["median"]), seconds, *(ratio(found) if found else "-" for found in ratios)]
        then = f"{percent(found['then']['accuracy'])} / {percent(found['then']['kept'])}"
        rows.append([RIVALS[name][0], *cells, f"{memory[0]:.0f} ({memory[1]:.0f})", then])
    epoch = next(iter(part["rivals"].values()))["then"]["epoch"]
    head = [f"class {part['class']}, {part['epochs']} epochs, one core", "ms a step, evaluation included", "s"]
    head += [f"times as fast as {RIVALS[other][0]}" for other in others]
    head += ["most memory MB (beyond what it began with)", f"accuracy / kept % after {epoch} epochs"]
    return table(head, rows)


def to_f1(record: dict) -> str:
    """Seconds and epochs of every rival to the same F1."""
    part = record.get("to_f1")
    if not part:
        return ""
    names = list(part["rows"][0]["rivals"])
    rows = []
    for row in part["rows"]:
        cells = [f"{number(found['seconds'])} ({found['epoch'] + 1})" for found in row["rivals"].values()]
        rows.append([str(row["seed"]), f"{row['f1']:.3f}", *cells])
    ratios = part["against"].get("reference", {})
    rows.append(
        ["times as fast as the reference", "", *(ratio(ratios[name]) if name in ratios else "-" for name in names)]
    )
    head = [f"class {part['class']}: seed", "F1", *(f"{RIVALS[name][1]}: s (epochs)" for name in names)]
    return table(head, rows)
