"""Tables of a record of inference: time, size and answers of modules beside their base and a word list."""

import statistics

from benchmarks.report.words import number, ratio, table

NAMES = {
    "base": "the base, torch",
    "module": "module, over its base",
    "compact": "compact module, compiled kernels",
    "numpy": "compact module, NumPy alone",
    "c": "exported C, text by text",
    "onnx": "ONNX Runtime",
    "svm": "scikit-learn: TF-IDF, linear SVM",
    "fasttext": "fastText",
}
STORED = {
    ("float32", "own"): "float32",
    ("float16", "own"): "float16",
    ("int8", "own"): "int8",
    ("float32", "dropped"): "float32, `unknown=dropped`",
    ("int8", "dropped"): "int8, `unknown=dropped`",
}


def times(record: dict) -> str:
    """A row for each rival, medians over the classes."""
    batches = [each["batch"] for each in record["rows"][0]["times"]]
    head = ["one core, tokenizing included"]
    for batch in batches:
        head += [f"batch {batch}: us a text", "times as fast as the base", "texts a second"]
    rows = []
    for key, name in NAMES.items():
        cells = [name]
        for k in range(len(batches)):
            found = [row["times"][k] for row in record["rows"] if key in row["times"][k]["us"]]
            if not found:
                break
            us = statistics.median(each["us"][key]["median"] for each in found)
            cells += [number(us), "-" if key == "base" else over_classes(found, key), f"{1e6 / us:,.0f}"]
        if len(cells) == len(head):
            rows.append(cells)
    classes = len(record["rows"])
    return table(head, rows) + (
        f"\n\nMedians over {classes} class{'es' * (classes > 1)}, {record['texts']} texts each; in brackets the least "
        "and the greatest class."
    )


def over_classes(found: list[dict], key: str) -> str:
    """The median ratio over the classes with its range."""
    medians = [each["against"]["base"][key]["median"] for each in found]
    return ratio({"median": statistics.median(medians), "q1": min(medians), "q3": max(medians)})


def sizes(record: dict) -> str:
    """A row for each way of storing, over the classes."""
    rows = []
    for (dtype, unknown), name in STORED.items():
        found = [
            each
            for row in record["rows"]
            for each in row["stored"]
            if (each["dtype"], each["unknown"]) == (dtype, unknown)
        ]
        kilobytes = [each["bytes"] / 1000 for each in found]
        loads = statistics.median(each["load_ms"]["median"] for each in found)
        rows.append(
            [
                name,
                f"{statistics.median(kilobytes):.0f} ({min(kilobytes):.0f} to {max(kilobytes):.0f})",
                f"{min(each['changed'] for each in found)} to {max(each['changed'] for each in found)}",
                f"{statistics.fmean(each['f1'] for each in found):.3f}",
                number(loads),
            ]
        )
    module = statistics.median(row["module_bytes"] for row in record["rows"]) / 1000
    base = record["rows"][0]["base_bytes"] / 1000
    head = ["stored as", "kB, median class", "answers changed", "mean F1", "ms to load, without torch"]
    svm = [row["f1"]["svm"] for row in record["rows"] if "svm" in row["f1"]]
    words = f"\n\nThe module's own file has {module:,.0f} kB and needs its base of {base:,.0f} kB."
    if svm:
        words += f" The word list's mean F1 on the same documents is {statistics.fmean(svm):.3f}."
    fasttext = [row["f1"]["fasttext"] for row in record["rows"] if "fasttext" in row["f1"]]
    if fasttext:
        words += f" fastText's is {statistics.fmean(fasttext):.3f}."
    return table(head, rows) + words


def agreement(record: dict) -> str:
    """The largest difference between the forms of a module."""
    largest = {}
    for row in record["rows"]:
        for form, size in row["agreement"].items():
            largest[form] = max(largest.get(form, 0.0), size)
    parts = ", ".join(f"{NAMES[form]} {size:.1g}" for form, size in largest.items())
    return f"Largest difference from the module's probability in float64, over all test documents: {parts}."
