"""The regression guard: paired ratios of a new record against the newest committed one of the same kind of machine.

It compares ratios, not seconds, because a busy or slower machine changes both sides of a ratio. A median of n rounds is
uncertain by about 1.57 times the interquartile range divided by the square root of n (the notch of a box plot). A ratio
is too low if the notches of both records, computed from the older one's spread, do not overlap and it is at least a
fifth below the older median: two records of almost the same kernels differed by so much on a shared machine (h256
against torch: 1.01 and 1.20; lengths: 4.88 and 5.77). The plain reference is left out of steps if its best form was
timed and all rivals shared a process, because the time of its step then depends on the memory that others have left.
"""

import json
from pathlib import Path

from benchmarks import RECORDS
from benchmarks.harness import machine, schema
from seam_fast.common.progress import say
from seam_fast.errors import SeamFastError

KIND_OF = {
    "seam-fast masked lstm": "op",
    "seam-fast step": "step",
    "seam-fast job": "job",
    "seam-fast curves": "curves",
}


def check(record: dict, kind: str, folder: Path = RECORDS) -> int:
    """Compares the ratios of a record with the newest committed one and prints a sentence.

    Returns:
        0, an exit code.

    Raises:
        SeamFastError: A ratio is too low, or there is nothing to compare with.
    """
    path, old = newest(record, kind, folder)
    before, now = ratios(old), ratios(record)
    both = [name for name in now if name in before]
    if not both:
        raise SeamFastError(f"{path.name} has none of the ratios of this run, so nothing was compared")
    least = {name: allowed(*before[name], now[name][1]) for name in both}
    low = [name for name in both if now[name][0]["median"] < least[name]]
    if low:
        parts = [
            f"{name} is {now[name][0]['median']:.3g}, below {least[name]:.3g} (recorded: "
            f"{before[name][0]['median']:.3g}, quartiles {before[name][0]['q1']:.3g} to {before[name][0]['q3']:.3g})"
            for name in low
        ]
        raise SeamFastError(f"{len(low)} of {len(both)} ratios fell below what {path.name} allows: {'; '.join(parts)}")
    say(f"check: none of the {len(both)} ratios is below what {path.name} allows ({old['machine']['date'][:10]})")
    return 0


def allowed(old: dict, rounds: int, rounds_now: int) -> float:
    """The lowest median of ``rounds_now`` rounds that is no regression, given an older spread and its rounds."""
    notches = 1.57 * (old["q3"] - old["q1"]) * (rounds**-0.5 + rounds_now**-0.5)
    return old["median"] - max(notches, 0.2 * old["median"])


def newest(record: dict, kind: str, folder: Path) -> tuple[Path, dict]:
    """The latest committed record of that kind from such a machine; quick ones do not count."""
    wanted = comparison_key(record)
    found = []
    for path in sorted(folder.glob("*.json")):
        old = json.loads(path.read_text())
        if KIND_OF.get(old["format"].rstrip("0123456789 ")) != kind:
            continue
        if not old["quick"] and comparison_key(old) == wanted:
            found.append((old["machine"]["date"], path, old))
    if not found:
        cpu, cores, isa, gpu = machine.comparison_key(record["machine"])
        raise SeamFastError(
            f"nothing to compare with: {folder.name}/ has no {kind} record of a machine like this one ({cpu}, {cores} "
            f"cores, {isa or 'no compiled kernels'}, {gpu or 'no GPU'}), such threads and such documents; make one "
            f"with `seam-fast bench {kind} --out benchmarks/records/NAME.json`"
        )
    return max(found, key=lambda entry: entry[0])[1:]


def comparison_key(record: dict) -> tuple:
    """What two records must have in common: machine, way of measuring, and whether documents were invented."""
    about = record["machine"]
    used = about["backend"]["used"]
    return machine.comparison_key(about), about.get("processes"), about["threads"], used, schema.invented(record)


def reliable_rivals(against: dict, record: dict) -> dict:
    """The ratios against rivals whose time does not depend on the memory that others have left."""
    own = record["machine"].get("processes") == "own"
    return {
        name: found for name, found in against.items() if own or name != "reference" or "reference_best" not in against
    }


def ratios(record: dict) -> dict[str, tuple[dict, int]]:
    """Ratios of seam-fast against rivals, and their rounds, by name; above 1 seam-fast is faster."""
    found = {}
    for row in record.get("rows", ()):
        if "ratio" in row:
            rival = "PackedSequence" if row["sizes"]["lengths"] else "torch"
            found[f"{row['shape']} against {rival}"] = row["ratio"], row["rounds"]
        for other, ours in reliable_rivals(row.get("against", {}), record).items():
            for name, figures in ours.items():
                if name.startswith("native"):
                    found[f"{name} against {other} at batch {row['batch_size']}"] = figures, row["rounds"]
    for axis, curve in record.get("curves", {}).items():
        for point in curve["points"]:
            for other, figures in point["against"].items():
                found[f"native against {other} at {axis} {point['x']}"] = figures, point["rounds"]
    one = record.get("one") or {"against": {}}  # to_f1 is left out: its few seeds do not show how much runs differ
    for other, ours in one["against"].items():
        for name, figures in ours.items():
            if name.startswith("native"):
                words = f"{name} against {other}, one class, {one['epochs']} epochs"
                found[words] = figures, one["rounds"]
    return found
