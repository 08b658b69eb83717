"""The text beside a record of the training engine on a GPU: the figures with targets, then every piece."""

import re

PIECES = ("step", "scaling", "eight", "study", "kernels")  # in the order of measuring: profiling may slow down the rest
EPOCHS = 300  # of the runs that the targets are about
# must, aim: microseconds, times as fast, seconds
TARGETS = {"us": (50, 32), "us_tf32": (42, 26), "reference": (100, 150), "graph": (4.5, 7), "eight": (18, 11)}
TARGETS |= {"study": (25, 15)}


def failures(row: dict) -> list[str]:
    """What failed or gave wrong results: the whole row, or ways in it that have no figures therefore."""
    ways = [f"{row['key']}, {name}: {why}" for name, why in row.get("wrong", {}).items()]
    return ([f"{row['key']}: {row['fault']}"] if row["fault"] else []) + ways


def describe(row: dict) -> str:
    """One line, printed as soon as a piece is measured."""
    if row["fault"]:
        return f"{row['key']}: FAILED: {row['fault']}"
    if row["piece"] in ("step", "scaling"):
        times = [f"{name} {found['median']:.4g} us" for name, found in row["us"].items()]
        times += [f"without {name} ({why})" for name, why in row["left_out"].items()]
        times += [f"FAILED: {name} ({why})" for name, why in row.get("wrong", {}).items()]
        return f"{row['key']}: " + ", ".join(times)
    if row["piece"] == "kernels":
        times = [f"{name} {found['us']:g} us" for name, found in row["steps"].items()]
        return f"{row['key']}: " + (", ".join(times) or "nothing was seen")
    return f"{row['key']}: {row['modules_in_all']} modules, {seconds_in_words(row)}"


def seconds_in_words(row: dict) -> str:
    if row["cut"]:
        return f"about {row['cut']['estimate']:g} s (stopped after {row['cut']['seconds']:g} s: estimated)"
    return f"{row['seconds']['median']:.4g} s ({row['seconds']['min']:.4g} to {row['seconds']['max']:.4g})"


def reached(value: float, must: float, aim: float) -> str:
    sign = 1 if aim > must else -1
    return "aim" if sign * value >= sign * aim else "must" if sign * value >= sign * must else "below must"


def of_spread(found: dict) -> str:
    return f"{found['median']:.4g} ({found['q1']:.4g} to {found['q3']:.4g})"


def off_by(step: dict, name: str) -> str:
    """For a rival less exact than our ways must be: its error and the engine's, as words for a table; else ""."""
    agreement = step["agreement"]
    found = agreement.get("first_rivals", {"errors": {}})["errors"].get(name, {})
    allowed = agreement["first"]["allowed"]
    over = {part: error / allowed[part] for part, error in found.items() if part.endswith(" error")}
    worst = max(over, key=over.get, default=None)
    if worst is None or over[worst] <= 1:
        return ""
    ours = agreement["first"]["errors"]["engine"][worst]
    return f"; less exact: scores of {worst.removesuffix(' error')} off by {found[worst]:.1g}, the engine's {ours:.1g}"


def left_out(step: dict, name: str) -> str | None:
    """Why a way has no time; if several results were off, the first of them."""
    reason = step["left_out"].get(name)
    if reason is None:
        return None
    off = re.search(r"(?:: )?([^:]+?)(?: error)? of \S+ is off by (\S+), more than the (\S+) allowed", reason)
    return "left out: " + (f"{off[1]} off by {off[2]}, allowed {off[3]}" if off else reason)


def largest_error(step: dict, name: str) -> str:
    """The largest error of scores and head of a way after the first steps."""
    for part in ("first", "first_rivals", "first_tf32"):
        if name in step["agreement"].get(part, {"errors": ()})["errors"]:
            errors = step["agreement"][part]["errors"][name]
            return f"{max(error for key, error in errors.items() if key.endswith(' error')):.1g}"
    return "-"


def summary(record: dict) -> str:
    """A table with a line per figure that has a target, and notes on faults, machine and workload."""
    found = {row["piece"]: row for row in record["rows"] if not row["fault"]}
    run = record["runs"][-1]
    lines = ["| what | found | must | aim | reached |", "|---|---|---|---|---|"]

    def line(words, target, value=None, text=None, counts=True):
        must, aim = TARGETS[target] if target else ("-", "-")
        verdict = reached(value, must, aim) if target and value is not None and counts else "-"
        lines.append(f"| {words} | {text or 'not measured'} | {must} | {aim} | {verdict} |")

    step = found.get("step")
    ratio = step["ratio"] if step else {}
    counts = not run["settings"]["dry"]  # a dry run says nothing about speed
    for words, target, name in (("float32", "us", "engine"), ("tf32", "us_tf32", "engine_tf32")):
        us, text = step and step["us"].get(name), None
        if us:
            kernels = found["kernels"]["steps"].get(name) if "kernels" in found else None
            text = of_spread(us) + (f"; the GPU works {kernels['us']:g} of it" if kernels else "")
            if name == "engine_tf32" and "graph_rows_tf32" in ratio:
                text += f"; graph_rows_tf32 / engine_tf32 {of_spread(ratio['graph_rows_tf32'])}"
        elif step:
            text = "FAILED" if name in step.get("wrong", {}) else step["left_out"].get(name)
        line(f"one module, us a step, {words}", target, us and us["median"], text, counts)
    for words, target, name in (
        ("the reference, eager / engine", "reference", "reference"),
        ("the same without copies of gradients", None, "reference_without_copies"),
        ("the reference at its best, eager", None, "reference_best"),
        ("captured graph of cuDNN + fused Adam, rows that occur / engine", "graph", "graph_rows"),
        ("the same over the whole table", None, "graph_table"),
        ("CudaGraphTrainer / engine", None, "graph_trainer"),
    ):
        value = ratio.get(name)
        text = of_spread(value) + off_by(step, name) if value else step and left_out(step, name)
        line(words, target, value and value["median"], text, counts)
    for piece in ("eight", "study"):
        row = found.get(piece)
        if row is None:
            line({"eight": "8 classes, s", "study": "128 modules, s"}[piece], piece)
            continue
        value = row["cut"]["estimate"] if row["cut"] else row["seconds"]["median"]
        words = f"{row['modules_in_all']} modules, {row['epochs']} epochs, s"
        line(words, piece, value, seconds_in_words(row), counts and row["epochs"] == EPOCHS)
    scaling = found.get("scaling")
    if scaling:
        gain = scaling["gain"][str(scaling["most"])]["median"]
        line(f"{scaling['most']} modules at once: modules a second, against one", None, gain, f"{gain:.3g} times")
    faults = [f"FAILED: {why}" for row in record["rows"] for why in failures(row)]
    about, workload = run["machine"], run["workload"]
    lines += ["", *faults, *([""] if faults else [])]
    lines.append(
        f"{about['gpu']['name']}, driver {(about['gpu'].get('state') or {}).get('driver_version', 'unknown')}, torch "
        f"{about['torch']}, CUDA {about['cuda']}, cuDNN {about['cudnn']}, commit {about['commit']}, {about['date']}; "
        f"{workload['corpus']}{' (SYNTHETIC)' * workload['synthetic']}, {workload['target']}, "
        + ", ".join(f"{letter} {size}" for letter, size in workload["sizes"].items())
    )
    if record["unmeasured"]:
        lines.append(f"Not measured: {', '.join(record['unmeasured'])}: {run['stopped']}.")
    lines += [f"Not measured: {name}: {why}." for name, why in record["left_out"].items()]
    return "\n".join(lines)


def details(record: dict) -> list[str]:
    """A table per piece."""
    found = []
    for row in record["rows"]:
        if row["fault"]:
            continue
        if row["piece"] == "step":
            lines = ["| way | us a step | by events | engine is faster by | largest error of a score |"]
            lines.append("|---" * 5 + "|")
            for name, us in row["us"].items():
                events, ratio = (row[key].get(name) for key in ("us_events", "ratio"))
                lines.append(
                    f"| {name} | {of_spread(us)} | {of_spread(events) if events else '-'} "
                    f"| {of_spread(ratio) if ratio else '-'} | {largest_error(row, name)} |"
                )
        elif row["piece"] == "kernels":
            lines = ["| way | the GPU works, us a step | launches | largest shares |", "|---" * 4 + "|"]
            for name, part in row["steps"].items():
                shares = ", ".join(f"{100 * share:.0f} % {kernel}" for kernel, share in part["largest"].items())
                lines.append(f"| {name} | {part['us']:g} | {part['launches']:g} | {shares} |")
        elif row["piece"] == "scaling":
            lines = ["| modules at once | us a step of each | modules a second, against one | cores busy |"]
            lines.append("|---" * 4 + "|")
            for name, us in row["us"].items():
                gain, cores = row["gain"][name]["median"], row["cores_busy"][name]["median"]
                lines.append(f"| {name} | {of_spread(us)} | {gain:.3g} | {cores:.2g} |")
        else:
            lines = ["| class | alpha | lr_mask | accuracy | base | kept % | epoch | steps | s |", "|---" * 9 + "|"]
            for module in row["modules"]:
                lines.append(
                    f"| {module['class']} | {module['alpha']} | {module['lr_mask']} | {module['accuracy']:.4f} "
                    f"| {module['base_accuracy']:.4f} | {100 * module['kept']:.1f} | {module['epoch']} "
                    f"| {module['steps']} | {module['seconds']:.3g} |"
                )
        found.append("\n".join([f"{row['key']}:", "", *lines]))
    return found
