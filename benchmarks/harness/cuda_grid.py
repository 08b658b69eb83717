"""The shapes on which the masked LSTM is timed on a GPU, by group, and the targets that they have."""

from dataclasses import dataclass, replace

from benchmarks.harness.shapes import Shape

DTYPES = ("bfloat16", "float32", "float16")


@dataclass(frozen=True)
class Row:
    """A row of the table of targets.

    target: how many times as fast as the rival, (must, aim), or None without a target. float16: the same for float16,
    for which cuDNN has a special kernel that keeps the weights on the chip.
    """

    words: str
    target: tuple[float, float] | None
    float16: tuple[float, float] | None


ROWS = {
    "h128": Row("H up to 128", (2.5, 5.0), (2.5, 5.0)),
    "h256": Row("H 129 to 256", (3.0, 5.0), None),
    "h512": Row("H 257 to 512, B up to 64", (2.0, 4.0), (0.9, 1.3)),
    "h1024": Row("H 513 to 1024, B up to 64", (1.5, 3.0), (0.8, 1.15)),
    "wide": Row("H 512 and more, B 128 and more", (1.0, 1.1), (1.0, 1.1)),
    "lengths": Row("lengths 1 to T, against a PackedSequence", (5.0, 20.0), (5.0, 20.0)),
    "between": Row("H 257 to 511, B 128 and more", None, None),
}


@dataclass(frozen=True)
class Entry:
    """What a row of the record measures. tf32: whether float32 products may round their operands to tf32."""

    group: str
    row: str
    shape: Shape
    dtype: str
    tf32: bool = False

    @property
    def key(self) -> str:
        kind = self.dtype + " by tf32" * self.tf32
        return f"{self.group}: {self.shape.words()}, {kind}"

    def target(self) -> tuple[float, float] | None:
        return ROWS[self.row].float16 if self.dtype == "float16" else ROWS[self.row].target

    def shrunk(self) -> "Entry":
        """The same row with tiny sizes, for a dry run."""
        shape = self.shape
        sizes = {"I": max(2, shape.I // 64), "H": max(2, shape.H // 64), "B": min(shape.B, 3), "T": 4}
        return replace(self, shape=replace(shape, **sizes))


def row_of(hidden: int, batch: int) -> str:
    if hidden <= 256:
        return "h128" if hidden <= 128 else "h256"
    if batch <= 64:
        return "h512" if hidden <= 512 else "h1024"
    return "wide" if hidden >= 512 else "between"


def _shape(I, H, B, T=128, spread=False) -> Shape:  # noqa: E741
    return Shape(f"i{I}_h{H}_b{B}_t{T}" + "_lengths" * spread, I, H, B, T, 0.0, 0.0, spread)


# The layer of R8, and a small, a middle and a large one.
ANCHORS = (_shape(100, 50, 5, 32), _shape(256, 128, 32), _shape(512, 512, 64, 64), _shape(1024, 1024, 32))
# The most informative first.
HIDDEN = (128, 256, 512, 1024, 64, 384, 768, 192, 50, 160, 96)
BATCHES = (32, 64, 8, 1, 128, 256)
LENGTHS = (
    _shape(100, 50, 5, 32, True),
    _shape(100, 128, 64, 128, True),
    *(_shape(hidden, hidden, batch, 128, True) for batch in (64, 32, 256) for hidden in (128, 256, 512, 64)),
)
TF32 = (*ANCHORS, *(_shape(hidden, hidden, 32) for hidden in (64, 128, 256, 512)))


def _every(group, row, shapes) -> list[Entry]:
    return [Entry(group, row or row_of(shape.H, shape.B), shape, dtype) for shape in shapes for dtype in DTYPES]


def _groups() -> dict[str, list[Entry]]:
    grid = [_shape(hidden, hidden, batch) for batch in BATCHES for hidden in HIDDEN]
    groups = {"anchors": _every("anchors", None, ANCHORS)}
    for row in ("h128", "h256", "h512", "h1024", "wide"):
        groups[row] = _every(row, row, [shape for shape in grid if row_of(shape.H, shape.B) == row])
    groups["lengths"] = _every("lengths", "lengths", LENGTHS)
    groups["tf32"] = [Entry("tf32", row_of(shape.H, shape.B), shape, "float32", tf32=True) for shape in TF32]
    groups["between"] = _every("between", None, [shape for shape in grid if row_of(shape.H, shape.B) == "between"])
    # Compiling an unrolled loop takes minutes, so this group is measured only on request.
    groups["compiled"] = _every("compiled", None, ANCHORS[:1])
    return groups


GROUPS = _groups()
DEFAULT = tuple(name for name in GROUPS if name != "compiled")
