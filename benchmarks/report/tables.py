"""All tables of a record, as ``seam-fast bench`` prints them."""

from benchmarks.harness import machine, schema
from benchmarks.report import tables_job as job
from benchmarks.report import tables_op as op
from benchmarks.report import tables_step as step
from benchmarks.report.words import RIVALS, number, ratio, table


def whole(record: dict) -> str:
    """All tables of a record of any kind of ``seam-fast bench``, and a line on the machine."""
    kind = record["format"].removeprefix("seam-fast ").rstrip("0123456789 ")
    if kind == "masked lstm":
        parts = [op.pair(record), op.others(record), op.losses(record)]
    elif kind == "step":
        parts = [step.steps(record) if record["rows"] else "", step.memory(record), step.vocabulary(record)]
    elif kind == "curves":
        parts = curves(record)
    else:
        parts = [job.one(record), job.eight(record), job.summary(record), job.to_f1(record)]
    about = machine.in_words(record["machine"]) + "; SYNTHETIC documents, not R8" * schema.invented(record)
    return "\n\n".join([*filter(None, parts), about])


def same_point(record: dict) -> str:
    """A sentence on how much the times of the point that all curves share, the reference's sizes, differ."""
    sizes, keys = record["workload"], {"batch": "B", "hidden": "H", "length": "T", "vocabulary": "V"}
    points = [
        point
        for axis, curve in record["curves"].items()
        for point in curve["points"]
        if point["x"] == (sizes[keys[axis]] if axis in keys else 1)
    ]
    if len(points) < 2:
        return ""
    ranges = []
    for name in record["rivals"]:
        times = [point["ms"][name]["median"] for point in points]
        ranges.append(f"{number(min(times))} to {number(max(times))} ms ({RIVALS[name][0]})")
    return (
        f"The point of the reference's own sizes is in {len(points)} of these tables, and its times lie apart as those "
        f"of a shared machine do: {', '.join(ranges)}."
    )


def curves(record: dict) -> list[str]:
    """One table per curve."""
    found = []
    for curve in record["curves"].values():
        names = record["rivals"]
        rows = []
        for point in curve["points"]:
            times = [number(point["ms"][name]["median"]) if name in point["ms"] else "-" for name in names]
            ours = [
                ratio(point["against"][name]) if name in point["against"] else "-" for name in names if name != "native"
            ]
            rows.append([f"{point['x']:,}", *times, *ours])
        head = [curve["x"], *(f"{RIVALS[name][1]}, ms" for name in names)]
        head += [f"engine: times as fast as {RIVALS[name][0]}" for name in names if name != "native"]
        found.append(
            table(head, rows)
            if "native" in names
            else table(head[: 1 + len(names)], [r[: 1 + len(names)] for r in rows])
        )
    return found
