"""Tables of the quality records: bases, modules, the reference's procedure, and the study with its baselines."""

import statistics

from benchmarks.report.words import percent, table

BASELINES = {
    "vocabulary_floor": "vocabulary floor",
    "random_mask": "random mask",
    "magnitude_mask": "magnitude mask",
    "tiny_lstm": "tiny LSTM from nothing",
}


def bases(record: dict) -> str:
    """A row per seed: accuracy and F1 on the test set."""
    names = [entry["name"] for entry in record["seeds"][0]["info"]["test"]["classes"]]
    rows = []
    for row in record["seeds"]:
        test = row["info"]["test"]
        f1 = [f"{entry['f1']:.2f}" for entry in test["classes"]]
        rows.append([str(row["seed"]), percent(test["accuracy"], 2), f"{test['mean_f1']:.3f}", *f1])
    return table(["seed", "test accuracy %", "mean F1", *names], rows)


def bases_sentence(record: dict) -> str:
    accuracy, f1 = record["accuracy"], record["mean_f1"]
    return (
        f"{percent(accuracy['mean'], 2)} % ({percent(accuracy['min'], 2)} to {percent(accuracy['max'], 2)} over "
        f"{len(record['seeds'])} seeds), mean class F1 {f1['mean']:.3f}"
    )


def blind(record: dict) -> str:
    """Classes of which no base finds a single test document."""
    tests = [row["info"]["test"]["classes"] for row in record["seeds"]]
    return " and ".join(
        found[0]["name"] for found in zip(*tests, strict=True) if all(entry["recall"] == 0 for entry in found)
    )


def modules(record: dict) -> str:
    """A row per class, seeds side by side."""
    names = [row["name"] for row in record["seeds"][0]["modules"]]
    lines = []
    for k, name in enumerate((*names, "mean")):
        rows = [run["modules"][k] if name != "mean" else run["mean"] for run in record["seeds"]]
        each = " ".join(f"{row['f1']:.3f}" for row in rows)
        lines.append(
            [
                name,
                f"{rows[0]['base_f1']:.3f}",
                f"{statistics.fmean(row['f1'] for row in rows):.3f} ({each})",
                percent(statistics.fmean(row["kept"] for row in rows), 2),
                percent(statistics.fmean(row["kept_by_group"]["lstm"] for row in rows)),
                percent(rows[0]["vocabulary_floor"]),
            ]
        )
    head = ["class", "base F1", "module F1, mean over seeds (each)", "kept %", "LSTM kept %", "vocabulary floor %"]
    return table(head, lines)


def modules_sentence(record: dict) -> str:
    """What modules keep, and what they gain and lose."""
    runs = record["seeds"]
    changes = []
    for k, row in enumerate(runs[0]["modules"]):
        f1 = statistics.fmean(run["modules"][k]["f1"] for run in runs)
        changes.append((100 * (f1 - row["base_f1"]), row["name"]))
    lost = [f"{name} ({points:.1f})" for points, name in sorted(changes) if points <= -2]
    won = [f"{name} (+{points:.1f})" for points, name in sorted(changes, reverse=True) if points >= 2]
    mean = 100 * (record["f1"]["mean"] - record["base_f1"])
    text = (
        f"On average a module keeps {percent(record['kept']['mean'])} % of the weights and "
        f"{percent(record['kept_lstm']['mean'])} % of the LSTM's, and its F1 is {mean:+.1f} points from the base's. "
    )
    text += f"Two points or more are lost by {', '.join(lost)}" if lost else "No class loses two points"
    return text + (f", and won by {', '.join(won)}." if won else ".")


def reference_table(rows: list[dict]) -> str:
    """The reference's procedure: a row per class and schedule, seeds side by side."""
    keys = dict.fromkeys((row["class"], row["schedule"]) for row in rows)
    seeds = " / ".join(str(seed) for seed in dict.fromkeys(row["seed"] for row in rows))
    head = ["class", "schedule", "epochs", "acc_pre", f"selected accuracy (best), seeds {seeds}"]
    head += ["precision on the whole test set", "weights kept %"]
    head += ["of which embedding / weight_ih / weight_hh %, mean"]
    lines = []
    for key in keys:
        found = [row for row in rows if (row["class"], row["schedule"]) == key]
        groups = []
        for name in ("word_embeddings.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"):
            groups.append(100 * statistics.fmean(row["kept_by_weight"][name] for row in found))
        accuracy = [f"{percent(row['selected_accuracy'])} ({percent(row['best_accuracy'])})" for row in found]
        lines.append(
            [
                *key,
                str(found[0]["epochs"]),
                percent(found[0]["acc_pre"]),
                " / ".join(accuracy),
                " / ".join(f"{row['whole_test']['precision']:.2f}" for row in found),
                " / ".join(percent(row["kept"], 2) for row in found),
                f"{groups[0]:.1f} / {groups[1]:.0f} / {groups[2]:.0f}",
            ]
        )
    return table(head, lines)


def kinds(record: dict):
    """The pieces of a study by protocol, engine and epochs, one per seed."""
    keys = dict.fromkeys((piece["protocol"], piece["engine"], piece["epochs"]) for piece in record["pieces"])
    for key in keys:
        yield *key, [p for p in record["pieces"] if (p["protocol"], p["engine"], p["epochs"]) == key]


def length(epochs: int | None) -> str:
    return "own budget" if epochs is None else f"{epochs} epochs"


def baseline_f1(modules: list[dict], name: str) -> float | None:
    """A baseline's F1, mean over modules; None if it was not measured."""
    if not all(name in module["baselines"] for module in modules):
        return None
    return statistics.fmean(module["baselines"][name]["test"]["f1"] for module in modules)


def study(record: dict) -> str:
    """A row per kind of piece, means over classes and seeds; baselines beside modules."""
    rows = []
    for protocol, engine, epochs, pieces in kinds(record):
        found = [module for piece in pieces for module in piece["modules"]]

        def mean(get, found=found):
            return statistics.fmean(get(module) for module in found)

        by_seed = [statistics.fmean(module["test"]["f1"] for module in piece["modules"]) for piece in pieces]
        cells = [f"{mean(lambda m: m['test']['f1']):.3f} ({min(by_seed):.3f} to {max(by_seed):.3f})"]
        cells.append(f"{mean(lambda m: m['base']['f1']):.3f}")
        cells.append(f"{percent(mean(lambda m: m['selected_accuracy']))} ({percent(mean(lambda m: m['acc_pre']))})")
        cells.append(f"{percent(mean(lambda m: m['kept']), 2)} / {percent(mean(lambda m: m['kept_by_group']['lstm']))}")
        cells.append(percent(mean(lambda m: m["vocabulary_floor"])))
        for name in BASELINES:
            f1 = baseline_f1(found, name)
            cells.append("-" if f1 is None else f"{f1:.3f}")
        words = "engine" if engine == "cpu" else "plain PyTorch" if engine == "torch" else engine
        rows.append([protocol, words, length(epochs).removesuffix(" epochs"), str(len(pieces)), *cells])
    head = ["protocol", "trained by", "epochs", "seeds", "F1 of modules (means of the seeds)", "of the base"]
    head += ["selected accuracy (acc_pre) %", "kept / LSTM kept %", "floor %"]
    return table([*head, *(f"F1: {words}" for words in BASELINES.values())], rows)


def study_losses(record: dict) -> str:
    """A sentence on the baselines that are better than the modules."""
    found = []
    for protocol, _, epochs, pieces in kinds(record):
        modules = [module for piece in pieces for module in piece["modules"]]
        f1 = statistics.fmean(module["test"]["f1"] for module in modules)
        others = {name: baseline_f1(modules, name) for name in BASELINES}
        better = [f"{BASELINES[name]} ({other:.3f})" for name, other in others.items() if other and other > f1]
        if better:
            found.append(f"protocol `{protocol}`, {length(epochs)} ({f1:.3f}): {', '.join(better)}")
    if not found:
        return "No baseline does better than the modules."
    return f"What does better than the modules, by mean F1: {'; '.join(found)}."


def by_class(record: dict, protocol: str, epochs: int | None) -> str:
    """A row per class for one kind of piece of the engine: modules and baselines, means over seeds."""
    pieces = [
        p
        for p in record["pieces"]
        if p["protocol"] == protocol and p["epochs"] == epochs and p["modules"][0]["baselines"]
    ]
    rows = []
    for found in zip(*(piece["modules"] for piece in pieces), strict=True):
        f1 = statistics.fmean(module["test"]["f1"] for module in found)
        others = [statistics.fmean(m["baselines"][name]["test"]["f1"] for m in found) for name in BASELINES]
        best = max(f1, *others)
        cells = [f"**{value:.3f}**" if value == best else f"{value:.3f}" for value in (f1, *others)]
        kept = percent(statistics.fmean(module["kept"] for module in found), 2)
        rows.append([found[0]["class"], f"{found[0]['base']['f1']:.3f}", kept, *cells])
    head = ["class", "base F1", "kept %", "module F1", *BASELINES.values()]
    return table(head, rows) if rows else ""
