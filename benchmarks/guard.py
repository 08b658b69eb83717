"""The regression guard: paired ratios of a new record against the newest committed one of the same kind of machine.

Ratios, not seconds: a busy or slower machine changes both sides. A ratio is too low where it is below what the older
record's own rounds call an outlier (the lower quartile less one and a half times the distance of the quartiles), but
not before it is 5 % below the older median, since two runs differ by more than the rounds of one.
"""

import json
from pathlib import Path

import machine

from seam_fast.errors import SeamFastError
from seam_fast.workflow import say

RECORDS = Path(__file__).resolve().parent / "records"
KIND_OF = {
    "seam-fast masked lstm": "op",
    "seam-fast step": "step",
    "seam-fast job": "job",
    "seam-fast curves": "curves",
}


def check(record: dict, kind: str, folder: Path = RECORDS) -> int:
    """Says in one sentence how the ratios stand; 0 where none is too low. Raises SeamFastError where one is."""
    path, old = newest(record, kind, folder)
    before, now = ratios(old), ratios(record)
    both = [name for name in now if name in before]
    if not both:
        raise SeamFastError(f"{path.name} has none of the ratios of this run, so nothing was compared")
    low = [name for name in both if now[name]["median"] < allowed(before[name])]
    if low:
        parts = [
            f"{name} is {now[name]['median']:.3g}, below {allowed(before[name]):.3g} "
            f"(recorded: {before[name]['median']:.3g}, quartiles {before[name]['q1']:.3g} to {before[name]['q3']:.3g})"
            for name in low
        ]
        raise SeamFastError(f"{len(low)} of {len(both)} ratios fell below what {path.name} allows: {'; '.join(parts)}")
    say(f"check: none of the {len(both)} ratios is below what {path.name} allows ({old['machine']['date'][:10]})")
    return 0


def allowed(old: dict) -> float:
    """The lowest median that is not a regression, by the spread of an older record."""
    return min(old["q1"] - 1.5 * (old["q3"] - old["q1"]), 0.95 * old["median"])


def newest(record: dict, kind: str, folder: Path) -> tuple[Path, dict]:
    """The latest committed record of that kind, of one process where rivals can have their own, from such a machine."""
    wanted = likeness(record)
    found = []
    for path in sorted(folder.glob("*.json")):
        old = json.loads(path.read_text())
        if KIND_OF.get(old["format"].rstrip("0123456789 ")) != kind:
            continue
        if likeness(old) == wanted:
            found.append((old["machine"]["date"], path, old))
    if not found:
        cpu, cores, isa, gpu = machine.kind(record["machine"])
        raise SeamFastError(
            f"nothing to compare with: {folder.name}/ has no {kind} record of a machine like this one ({cpu}, {cores} "
            f"cores, {isa or 'no compiled kernels'}, {gpu or 'no GPU'}) and of such documents; make one with "
            f"`seam-fast bench {kind} --out benchmarks/records/NAME.json`"
        )
    return max(found, key=lambda entry: entry[0])[1:]


def likeness(record: dict) -> tuple:
    """What two records must share: kind of machine, way of measuring, and whether the documents were invented."""
    invented = record.get("synthetic", record.get("workload", {}).get("synthetic", False))
    return machine.kind(record["machine"]), record["machine"].get("processes"), invented


def ratios(record: dict) -> dict[str, dict]:
    """Paired ratios by name, of what is seam-fast's own against a rival; above 1 seam-fast is faster."""
    found = {}
    for row in record.get("rows", ()):
        if "ratio" in row:
            found[f"{row['shape']} against {'PackedSequence' if row['sizes']['lengths'] else 'torch'}"] = row["ratio"]
        for other, ours in row.get("against", {}).items():
            for name, figures in ours.items():
                if name.startswith("native"):
                    found[f"{name} against {other} at batch {row['batch_size']}"] = figures
    for axis, curve in record.get("curves", {}).items():
        for point in curve["points"]:
            for other, figures in point["against"].items():
                found[f"native against {other} at {axis} {point['x']}"] = figures
    for part in ("one", "to_f1"):
        for other, ours in ((record.get(part) or {}).get("against") or {}).items():
            if part == "one":  # whole runs to an F1 differ by far more than a spread of three seeds tells
                found |= {f"{name} against {other}, one class": figures for name, figures in ours.items()}
    return found
