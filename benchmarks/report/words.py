"""How figures, rivals and commands are written in tables and pictures."""

# By the name of the rival in the records: in a sentence, and at the head of a column.
RIVALS = {
    "reference": ("the reference", "reference"),
    "reference_best": ("the reference at its best", "reference at its best"),
    "best_torch": ("seam-fast's plain PyTorch", "plain PyTorch"),
    "native": ("seam-fast's engine", "engine"),
    "native_replay": ("the engine, rows replayed", "engine, `replay`"),
    "native_dense": ("the engine, no row waiting", "engine, `off`"),
}
# Scripts by the path that older records name them by, and the module that is the same today: ``python -m MODULE``.
MOVED = {
    "benchmarks/quality.py": "benchmarks.quality",
    "benchmarks/reference_table.py": "benchmarks.quality.reference_table",
    "benchmarks/vmap_scores.py": "benchmarks.cpu.vmap_scores",
    "benchmarks/cuda_lstm.py": "benchmarks.cuda.lstm",
    "benchmarks/cuda_engine.py": "benchmarks.cuda.engine",
}
WAYS = {
    "kernel_only": "kernel alone, no score's gradient",
    "parametrized": "`torch.nn.utils.parametrize`",
    "rival_without_onednn": "without oneDNN",
    "padded": "padded to T, no `c_n`",
    "plain_pytorch": "seam-fast's own plain PyTorch",
    "compiled": "`torch.compile`",
    "rival_forward": "torch, forward only",
    "kernel_only_forward": "kernel alone, forward only",
    "seam_forward": "seam-fast, forward only",
}


def number(value: float) -> str:
    """Three significant digits, no exponent: 0.355, 26.6, 1,240."""
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def ratio(figures: dict, quartiles: bool = True) -> str:
    """A ratio with quartiles, bold if it is a loss: 70 (66 to 77), **0.96** (0.94 to 1.00)."""
    digits = 0 if figures["median"] >= 10 else 1 if figures["median"] >= 5 else 2

    def short(value):
        return f"{value:.{digits}f}"

    median = short(figures["median"])
    if figures["median"] < 1:
        median = f"**{median}**"
    return f"{median} ({short(figures['q1'])} to {short(figures['q3'])})" if quartiles else median


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def command(record: dict) -> str:
    """The command that measures a record's figures today, without the options that say where the record goes and
    which commit was measured, which stands beside it.
    """
    words = record["command"].split()
    if len(words) > 1 and words[1] in MOVED:
        words[1:2] = ["-m", MOVED[words[1]]]
    for option in ("--out", "--records", "--commit"):
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
    return " ".join(words)


def joined(parts: list[str]) -> str:
    """a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
