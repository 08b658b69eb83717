"""Tables of a record of the masked LSTM."""

from benchmarks.report.words import WAYS, joined, number, ratio, table


def sizes(row: dict) -> str:
    found = row["sizes"]
    return f"{found['I']}, {found['H']}, {found['B']}, {found['T']}" + ", lengths 1 to T" * bool(found["lengths"])


def pair(record: dict) -> str:
    """The op beside everything that torch needs for the same result."""
    rows = []
    for row in record["rows"]:
        rates = [row["gflops"][name] for name in ("seam", "rival")]
        shares = ["-" if not row["of_peak"] else f"{100 * row['of_peak'][name]:.0f} %" for name in ("seam", "rival")]
        memory = [row["memory"][name]["of_saved"] for name in ("seam", "rival")]
        rows.append(
            [
                sizes(row) + (" (R8)" if row["shape"] == "r8" else ""),
                number(row["seam_ms"]["median"]),
                number(row["rival_ms"]["median"]),
                ratio(row["ratio"]),
                " / ".join(f"{rate:.0f} ({share})" for rate, share in zip(rates, shares, strict=True)),
                " / ".join(f"{size:.2f}" for size in memory),
            ]
        )
    head = ["I, H, B, T", "seam-fast ms", "torch ms", "times as fast (quartiles)"]
    head += ["GFLOP/s (of the peak), seam-fast / torch", "extra memory / saved activations, seam-fast / torch"]
    return table(head, rows)


def others(record: dict) -> str:
    """All other ways beside seam-fast, bold if faster; empty if none was timed."""
    names = [name for name in WAYS if any(name in row["others"] for row in record["rows"])]
    if not names:
        return ""
    rows = [
        [
            sizes(row),
            number(row["others"]["seam"]["ms"]["median"]),
            *(other(row, name) if name in row["others"] else "-" for name in names),
        ]
        for row in record["rows"]
    ]
    return table(["I, H, B, T: ms (times as long)", "seam-fast", *(WAYS[name] for name in names)], rows)


def other(row: dict, name: str) -> str:
    """A way's milliseconds and its ratio to seam-fast, forward only to forward only."""
    found = row["others"][name]
    ms = number(found["ms"]["median"])
    return f"{ms} ({ratio(found['ratio'], False)})" if "ratio" in found else ms


def vmap(record: dict) -> str:
    """Many sets of scores: vmap beside loops over the sets; a row per layer and number of sets."""
    threads = list(dict.fromkeys(row["threads"] for row in record["rows"]))
    head = ["I, H, B, T", "sets"]
    for count in threads:
        head += [
            f"{count} thread{'s' * (count > 1)}: loop / of `torch.func.grad` / vmap, ms",
            "times as fast as the loop",
        ]
    found: dict[tuple, list[str]] = {}
    for row in record["rows"]:
        times = " / ".join(number(row["ms"][name]["median"]) for name in ("loop", "func_loop", "vmap"))
        found.setdefault((sizes(row), str(row["modules"])), []).extend([times, ratio(row["against"]["loop"])])
    return table(head, [[*key, *figures] for key, figures in found.items()])


def losses(record: dict) -> str:
    """Sentences on the shapes where torch is faster."""

    def below(ratios):
        return [f"{sizes(row)} ({ratio['median']:.2f})" for row, ratio in ratios if ratio["median"] < 1]

    found = below((row, row["ratio"]) for row in record["rows"])
    text = f"Torch is faster at {joined(found)}." if found else "In none of these rows is torch faster."
    for name, words in (
        ("rival_forward", "Forward only, it is faster at"),
        ("kernel_only", "Its kernel alone, which gives no score's gradient, is faster at"),
        ("kernel_only_forward", "The kernel alone, forward only, is faster at"),
    ):
        found = below((row, row["others"][name]["ratio"]) for row in record["rows"] if name in row["others"])
        text += f" {words} {joined(found)}." if found else ""
    return text
