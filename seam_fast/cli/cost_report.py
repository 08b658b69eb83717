"""What modules cost, as a table that people read and as figures for records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..modules.compact import CompactModule
from ..modules.costs import inference_times, module_costs
from ..modules.seam_module import SeamModule
from ..runtime import to_bytes
from .judged import Judged

KINDS = ("base", "module", "compact")


def costs_of(module: SeamModule, lengths: Tensor, path: Path, base_path: Path) -> dict[str, Any]:
    """What there is to count, without any measuring.

    Args:
        module: the module.
        lengths: numbers of words of the documents, (N,).
        path: the module's file.
        base_path: its base's file.

    Returns:
        The figures of `module_costs`, with the ``bytes`` of the files. There is no ``compact`` where the base does not
        say its words; that file's bytes are those that ``seam-fast compact`` writes by default.
    """
    return _with_bytes(module, lengths, _compact(module), path, base_path)


def measured_costs(judged: Judged) -> dict[str, Any]:
    """`costs_of` a module, with the ``milliseconds`` that a document takes."""
    compact, split = _compact(judged.module), judged.split
    costs = _with_bytes(judged.module, split.lengths, compact, judged.path, judged.base_path)
    for kind, time in inference_times(judged.module, split.ids, split.lengths, compact).items():
        costs[kind]["milliseconds"] = time
    return costs


def _compact(module: SeamModule) -> CompactModule | None:
    """The compact module; None where there is none."""
    try:
        return module.compact()
    except CheckpointError:  # the base does not say its words
        return None


def _with_bytes(
    module: SeamModule, lengths: Tensor, compact: CompactModule | None, path: Path, base_path: Path
) -> dict[str, Any]:
    """`costs_of` a module whose compact form is at hand."""
    costs = module_costs(module, lengths, compact)
    for kind, file in (("base", base_path), ("module", path)):
        costs[kind]["bytes"] = file.stat().st_size if file.is_file() else None
    if compact is not None:
        costs["compact"]["bytes"] = len(to_bytes(compact))
    return costs


def comparison(costs: Mapping[str, Any], synthetic: bool = False) -> str:
    """The costs of one module beside its base: a row each for base, module and compact module."""
    mark = "SYNTHETIC  " if synthetic else ""
    lines = [
        f"cost of a document of {costs['mean_length']:.1f} words, the mean",
        f"{'':10}{'parameters':>20}{'bytes':>20}{'MACs':>20}{'ms':>18}",
    ]
    for kind in (kind for kind in KINDS if kind in costs):
        cells = [_beside(costs[kind].get(key), costs["base"].get(key)) for key in ("parameters", "bytes", "macs")]
        time = costs[kind].get("milliseconds")
        cells.append("-" if time is None else f"{time:.3f} {_percent(time, costs['base']['milliseconds'])}")
        lines.append(f"{kind:10}{cells[0]:>20}{cells[1]:>20}{cells[2]:>20}{cells[3]:>18}")
    lines.append(
        "parameters: of the module those kept and its head; MACs: multiplications of matrices, of the module only"
    )
    lines.append("those that are kept, as a sparse kernel would do; ms: a document by itself on one core, the median")
    if "compact" in costs:
        looked_up = costs["compact"]["macs_with_table"]
        lines.append(f"the compact module looks up what words add to the gates, which leaves {looked_up:,.0f} MACs")
    return "\n".join(mark + line for line in lines)


def table(modules: Sequence[Mapping[str, Any]], synthetic: bool = False) -> str:
    """The costs of a run's modules: a row for the base and one for each module.

    Args:
        modules: of each module its ``name`` and, as ``costs``, the figures of `costs_of`, as a record has them.
        synthetic: whether the documents were generated.
    """
    mark = "SYNTHETIC  " if synthetic else ""
    heads = ("", "parameters", "bytes", "MACs", "compact: parameters", "bytes", "MACs", "looked up")
    keys = ("parameters", "bytes", "macs")
    first = modules[0]["costs"]
    cells = [heads, ("base", *(_number(first["base"][key]) for key in keys), "", "", "", "")]
    for each in modules:
        costs, compact = each["costs"], each["costs"].get("compact", {})
        row = [_number(costs["module"][key]) for key in keys]
        row += [_number(compact.get(key)) for key in (*keys, "macs_with_table")]
        cells.append((each["name"], *row))
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = [
        "  ".join(f"{cell:{'<' if i == 0 else '>'}{widths[i]}}" for i, cell in enumerate(row)).rstrip() for row in cells
    ]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    lines += [
        f"MACs: multiplications of matrices for a test document of {first['mean_length']:.1f} words, the mean; of a",
        "module those that are kept, as a sparse kernel would do; looked up: where words' part is taken from a table.",
    ]
    return "\n".join(mark + line for line in lines)


def _number(value: float | None) -> str:
    """A number as the tables show it."""
    return "-" if value is None else f"{value:,.0f}"


def _beside(value: float | None, whole: float | None) -> str:
    """A number, and what it is of another one in per cent."""
    return "-" if value is None else f"{value:,.0f} {_percent(value, whole)}"


def _percent(value: float, whole: float | None) -> str:
    """What a number is of another one, in seven characters."""
    return f"{'':7}" if not whole else f"{f'{100 * value / whole:.1f} %':>7}"
