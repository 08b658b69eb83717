"""The schema of the records: the shape of every format, and the check of a record against it.

The file is long because it is one table.

A shape is a type (``float`` also takes whole numbers), a list of one shape (of every item), or a dict of shapes by key;
a key that ends in "?" may be absent. ``each`` and ``maybe`` make the others.
"""

import math

from seam_fast.errors import SeamFastError


def each(shape):
    """A dict with keys of any name."""
    return ("each", shape)


def maybe(shape):
    """None, or that."""
    return ("maybe", shape)


SPREAD = {"median": float, "min": float, "max": float, "q1": float, "q3": float}
VERDICT = {"must?": float, "aim?": float, "reached?": str}
SHARES = {"precision": float, "recall": float, "f1": float}
GROUPS = {"embedding": float, "lstm": float, "linear": float}

# report.machine(), which every record has ...
MACHINE = {"date": str, "cpu": str, "cores": int, "system": str, "python": str, "torch": str, "seam_fast": str}
MACHINE |= {"commit": maybe(str)}
# ... and what machine.describe() adds.
BENCH = MACHINE | {
    "gpu": maybe(str),
    "backend": {"asked": str, "used": str},
    "backends": each(str),
    "build": maybe(each(object)),
    "isa": {"asked": str, "seam": maybe(str), "available": [str], "torch": str, "limits": each(str)},
    "caches": [str],
    "threads": int,
    "load": {"before": [float], "after": [float], "busy?": maybe(float)},
    "peak": {"gflops": maybe(float), "by_isa": each(SPREAD), "matrix_product_gflops": float, "reason": str},
}
HEADER = {"format": str, "command": str}
BENCH_HEADER = HEADER | {"quick": bool}
AGREEMENT = {"errors": each(each(float)), "allowed": each(float)}

MEMORY = {"peak": int, "kept": int, "largest": [int], "of_saved": float}
OP_ROW = {
    "shape": str,
    "sizes": {"I": int, "H": int, "B": int, "T": int, "lengths": maybe(str)},
    "must": float,
    "aim": float,
    "rounds": int,
    "loops": {"seam": int, "rival": int},
    "flop": int,
    "seam_ms": SPREAD,
    "rival_ms": SPREAD,
    "ratio": SPREAD,
    "ratio_of_minima": float,
    "gflops": {"seam": float, "rival": float},
    "verdict": str,
    "others": each({"ms": SPREAD, "rounds": int, "loops": int, "ratio?": SPREAD}),
    "left_out": each(str),
    "agreement": AGREEMENT | {"clamped": float},
    "memory": {"saved_bytes": int, "seam": MEMORY, "rival": MEMORY, "within": bool},
    "of_peak": maybe(each(float)),
    "ratio_at_peak": maybe(float),
}
OP = BENCH_HEADER | {"machine": BENCH, "method": str, "seeds": each(int), "left_out": each(str), "rows": [OP_ROW]}

WORKLOAD = {
    "base": str,
    "data_hash": str,
    "synthetic": bool,
    "target": str,
    "documents": int,
    "words": int,
    "weights": int,
    "sizes": {"V": int, "E": int, "H": int, "C": int, "T": int},
    "alpha": float,
    "lr_mask": float,
    "lr_head": float,
    "schedule": str,
}
STEP_ROW = {
    "batch_size": int,
    "steps_an_epoch": int,
    "rounds": int,
    "steps_a_block": each(int),
    "ms": each(SPREAD),
    "page_faults": each(SPREAD),
    "against": each(each(SPREAD)),
    "verdicts": [{"rival": str, "against": str, "must": float, "aim": float, "reached": str}],
    "agreement": each(AGREEMENT | {"steps": int}),
}
STEP = BENCH_HEADER | {
    "machine": BENCH | {"processes": str},
    "method": str,
    "seeds": each(int),
    "workload": WORKLOAD,
    "rivals": [str],
    "left_out": each(str),
    "rows": [STEP_ROW],
    "memory": maybe(each({"resident_bytes": SPREAD, "tensor_bytes": int, "modules": int} | VERDICT)),
    "vocabulary": maybe(
        {
            "V": {"small": int, "large": int},
            "rivals": each({"ms": each(SPREAD), "ratio": SPREAD, "rounds": int, "steps_a_block": int} | VERDICT),
        }
    ),
}

POINT = {"x": int, "rounds": int, "ms": each(SPREAD), "against": each(SPREAD), "agreement": maybe(AGREEMENT)}
CURVES = BENCH_HEADER | {
    "machine": BENCH | {"processes": str},
    "method": str,
    "seeds": each(int),
    "synthetic": bool,
    "data_hash": str,
    "workload": {"V": int, "E": int, "H": int, "C": int, "T": int, "B": int},
    "rivals": [str],
    "left_out": each(str),
    "curves": each({"x": str, "points": [POINT]}),
}

JOB_FIGURES = {
    "seconds": float,
    "steps": int,
    "steps_a_second": float,
    "resident_before": int,
    "peak_resident": int,
} | VERDICT
JOB_ROW = {
    "class": str,
    "acc_pre": float,
    "selected_accuracy": float,
    "selected_epoch": int,
    "best_accuracy": float,
    "kept": float,
    "kept_by_group": GROUPS,
    "vocabulary_floor": float,
    "whole_test": SHARES,
    "base_f1": float,
    "steps": int,
    "seconds": float,
}
EIGHT = {"settings": each(object), "seed": int, "figures": JOB_FIGURES, "rows": [JOB_ROW]}
ONE = {
    "class": str,
    "epochs": int,
    "steps_an_epoch": int,
    "rounds": int,
    "rivals": each(
        {
            "epochs_run": int,
            "ms_a_step": SPREAD,
            "seconds": SPREAD,
            "estimated": bool,
            "resident_before": int,
            "peak_resident": int,
            "then": {"epoch": int, "accuracy": float, "kept": float},
        }
    ),
    "against": each(each(SPREAD)),
}
TO_F1 = {
    "class": str,
    "epochs": int,
    "seeds": [int],
    "seeds_without_f1": [int],
    "rows": [
        {
            "seed": int,
            "f1": float,
            "rivals": each(
                {"best_f1": float, "epoch": int, "seconds": float, "f1_by_epoch": [float], "seconds_by_epoch": [float]}
            ),
        }
    ],
    "against": each(each(SPREAD)),
}
JOB = BENCH_HEADER | {
    "machine": BENCH | {"engine": str, "catch_up": maybe(str)},
    "method": str,
    "base": {"hash": str, "vocabulary": int},
    "data_hash": str,
    "synthetic": bool,
    "seeds": each(int),
    "rivals": [str],
    "left_out": each(str),
    "agreement": each(AGREEMENT | {"steps": int}),
    "one": maybe(ONE),
    "eight": maybe(EIGHT | {"engine": str, "workers": int}),
    "to_f1": maybe(TO_F1),
}

RANGE = {"mean": float, "min": float, "max": float}
QUALITY_BASE = HEADER | {
    "machine": MACHINE,
    "recipe": str,
    "data_hash": str,
    "accuracy": RANGE,
    "mean_f1": RANGE,
    "seeds": [{"seed": int, "hash": str, "info": each(object)}],
}
QUALITY_MODULES = HEADER | {
    "machine": MACHINE,
    "base": {"hash": str, "info": each(object)},
    "data_hash": str,
    "engine": str,
    "settings": each(object),
    "base_f1": float,
    "f1": RANGE,
    "kept": RANGE,
    "kept_lstm": RANGE,
    "seeds": [{"seed": int, "modules": [each(object)], "mean": each(object)}],
}
REFERENCE_TABLE = HEADER | {
    "machine": MACHINE,
    "base": {"hash": str, "recipe": str, "test_accuracy": float},
    "data_hash": str,
    "engine": str,
    "rows": [
        {
            "class": str,
            "schedule": str,
            "epochs": int,
            "seed": int,
            "acc_pre": float,
            "selected_accuracy": float,
            "best_accuracy": float,
            "whole_test": SHARES,
            "kept": float,
            "kept_by_weight": each(float),
            "selected_epoch": int,
            "seconds": float,
            "steps": int,
        }
    ],
}
JUDGED = {"test": SHARES | {"accuracy": float}, "kept": float, "kept_by_group": maybe(GROUPS)}
STUDY = {
    "format": str,
    "method": str,
    "runs": [{"command": str, "machine": MACHINE, "stopped": str}],
    "bases": each({"hash": str, "recipe": str, "data_hash": str, "synthetic": bool, "test": each(object)}),
    "unmeasured": [str],
    "pieces": [
        {
            "key": str,
            "run": int,
            "protocol": str,
            "engine": str,
            "epochs": maybe(int),
            "seed": int,
            "settings": each(object),
            "seconds": float,
            "modules": [
                JUDGED
                | {
                    "class": str,
                    "acc_pre": float,
                    "selected_accuracy": float,
                    "base": SHARES | {"accuracy": float},
                    "vocabulary_floor": float,
                    "steps": int,
                    "baselines": each(JUDGED),
                }
            ],
        }
    ],
}
CUDA_ROW = {"key": str, "run": int, "group": str, "row": str, "dtype": str, "sizes": each(object), "fault": str}
CUDA_LSTM = {
    "format": str,
    "method": str,
    "rivals_only": bool,
    "left_out": each(str),
    "runs": [{"command": str, "machine": each(object), "settings": each(object), "stopped": str, "gpu_after?": object}],
    "unmeasured": [str],
    "rows": [CUDA_ROW | {"...": object}],
}
CUDA_ENGINE = {
    "format": str,
    "method": str,
    "left_out": each(str),
    "runs": [
        {"command": str, "machine": each(object), "settings": each(object), "workload": each(object), "stopped": str}
        | {"gpu_after?": object}
    ],
    "unmeasured": [str],
    "rows": [
        {"key": str, "piece": str, "run": int, "left_out": each(str), "wrong": each(str), "fault": str, "whole": bool}
        | {"...": object}
    ],
}

VMAP_ROW = {
    "shape": str,
    "sizes": {"I": int, "H": int, "B": int, "T": int, "lengths": maybe(str)},
    "modules": int,
    "threads": int,
    "backend": str,
    "rounds": int,
    "loops": each(int),
    "ms": each(SPREAD),
    "against": each(SPREAD),
    "agreement": AGREEMENT,
}
VMAP = BENCH_HEADER | {
    "machine": MACHINE | {"load": {"before": [float], "after": [float], "busy": maybe(float)}},
    "method": str,
    "alone": bool,
    "seeds": each(int),
    "rows": [VMAP_ROW],
}

SIZE_FIGURES = {"f1": maybe(float), "average_precision": maybe(float)}
SIZED = {"kept": float, "kept_by_group": GROUPS, "validation": SIZE_FIGURES, "test": SIZE_FIGURES, "wrong?": str}
SIZES = {
    "format": str,
    "method": str,
    "base": {"hash": str, "data_hash": str, "synthetic": bool, "test_documents": each(int)},
    "runs": [{"command": str, "machine": MACHINE}],
    "unmeasured": [str],
    "pieces": [
        {
            "sizes": [float],
            "seed": int,
            "settings": each(object),
            "engine": str,
            "seconds": float,
            "modules": [{"class": str, "best_epoch": int, "own": SIZED, "nested?": each(each(SIZED))}],
        }
    ],
}
INTERVAL = {"mean": float, "low": float, "high": float}
START = {
    "format": str,
    "method": str,
    "runs": [{"command": str, "machine": MACHINE}],
    "base": {"hash": str, "data_hash": str, "synthetic": bool},
    "settings": each(object),
    "budgets": [int],
    "tolerance": float,
    "larger": float,
    "unmeasured": [str],
    "means": [
        {"start": str, "steps": int, "seeds": [int], "test_f1": INTERVAL, "test_f1_less_reference": INTERVAL},
    ],
    "pieces": [
        {
            "start": str,
            "steps": int,
            "seed": int,
            "rebase": each(object),
            "modules": [
                {
                    "class": str,
                    "kept": float,
                    "validation_f1": float,
                    "test": each(float),
                    "started_with": float,
                    "reached": maybe(int),
                    "steps": int,
                }
            ],
        }
    ],
}

RANKED = SHARES | {"average_precision": float}
CORPORA = {
    "format": str,
    "method": str,
    "runs": [{"command": str, "machine": MACHINE}],
    "unmeasured": [str],
    "corpora": each({"classes": int, "train": int, "test": int, "data_hash": str, "synthetic": bool}),
    "pieces": [
        {
            "corpus": str,
            "run": int,
            "seed": int,
            "base": {"hash": str, "accuracy": float, "mean_f1": float},
            "settings": each(object),
            "engine": str,
            "seconds": float,
            "modules": [
                {
                    "class": str,
                    "documents": each(int),
                    "base": RANKED,
                    "test": RANKED,
                    "difference": {"f1": float, "low": float, "high": float},
                    "kept": float,
                    "marks": [str],
                    "threshold": float,
                    "seconds": float,
                }
            ],
        }
    ],
}

INFERENCE_ROW = {
    "class": str,
    "kept": float,
    "module_bytes": int,
    "base_bytes": int,
    "f1": each(float),
    "agreement": each(float),
    "times": [{"batch": int, "rounds": int, "us": each(SPREAD), "against": each(each(SPREAD))}],
    "stored": [{"dtype": str, "unknown": str, "bytes": int, "changed": int, "f1": float, "load_ms": SPREAD}],
}
INFERENCE = BENCH_HEADER | {
    "machine": MACHINE
    | {
        "load": {"before": [float], "after": [float], "busy": maybe(float)},
        "threads": int,
        "isa": {"seam": maybe(str)},
    },
    "method": str,
    "alone": bool,
    "seeds": each(int),
    "texts": int,
    "left_out": each(str),
    "base": str,
    "rows": [INFERENCE_ROW],
}

FRONTIER = {
    "format": str,
    "method": str,
    "base": {
        "hash": str,
        "recipe": str,
        "data_hash": str,
        "synthetic": bool,
        "classes": each(each({"f1": maybe(float), "average_precision": maybe(float)})),
    },
    "runs": [{"command": str, "machine": MACHINE}],
    "unmeasured": [str],
    "pieces": [
        {
            "alpha": float,
            "scale": float,
            "seed": int,
            "settings": each(object),
            "engine": str,
            "seconds": float,
            "modules": [SIZED | {"class": str}],
        }
    ],
}
DETECTOR = {"f1": maybe(float), "weights": float}
LINEAR = HEADER | {
    "machine": MACHINE,
    "method": str,
    "corpora": [
        {
            "corpus": str,
            "data_hash": str,
            "documents": {"train": int, "test": int},
            "words_read": int,
            "classifier": {"accuracy": float, "accuracy_low": float, "accuracy_high": float, "mean_f1": float},
            "mean": each({"f1": float, "weights": float}),
            "classes": [{"class": str, "targets": int, "l2": DETECTOR, "l1": DETECTOR}],
            "seconds": float,
        }
    ],
}

FORMATS = {
    "seam-fast masked lstm 3": OP,
    "seam-fast step 3": STEP,
    "seam-fast curves 2": CURVES,
    "seam-fast job 3": JOB,
    "seam-fast quality base 1": QUALITY_BASE,
    "seam-fast quality modules 1": QUALITY_MODULES,
    "seam-fast reference table 1": REFERENCE_TABLE,
    "seam-fast quality study 1": STUDY,
    "seam-fast quality sizes 2": SIZES,
    "seam-fast linear 1": LINEAR,
    "seam-fast quality frontier 1": FRONTIER,
    "seam-fast quality start 1": START,
    "seam-fast quality corpora 1": CORPORA,
    "seam-fast cuda lstm 1": CUDA_LSTM,
    "seam-fast cuda engine 1": CUDA_ENGINE,
    "seam-fast vmap scores 1": VMAP,
    "seam-fast inference 1": INFERENCE,
}


def check(record: dict) -> dict:
    """Returns the record. Raises SeamFastError, which names the field, if it does not have the shape of its format."""
    shape = FORMATS.get(record.get("format"))
    if shape is None:
        raise SeamFastError(f"no record has the format {record.get('format')!r}")
    _check(record, shape, "record")
    return record


def invented(record: dict) -> bool:
    """Whether the documents of a record, if it has any, were invented."""
    return record.get("synthetic", record.get("workload", {}).get("synthetic", False))


def _check(value, shape, where: str) -> None:
    if isinstance(shape, tuple):
        kind, inner = shape
        if kind == "maybe" and value is None:
            return
        if kind == "each":
            _expect(isinstance(value, dict), where, "an object", value)
            shape = dict.fromkeys(value, inner)
        else:
            shape = inner
        _check(value, shape, where)
    elif isinstance(shape, dict):
        _expect(isinstance(value, dict), where, "an object", value)
        known = {key.removesuffix("?") for key in shape}
        for key, inner in shape.items():
            name = key.removesuffix("?")
            if name in value:
                _check(value[name], inner, f"{where}.{name}")
            elif key != "..." and not key.endswith("?"):
                raise SeamFastError(f"{where} has no {name!r}")
        unknown = [] if "..." in shape else sorted(set(value) - known)
        if unknown:
            raise SeamFastError(f"{where} has {unknown[0]!r}, which its format does not know")
    elif isinstance(shape, list):
        _expect(isinstance(value, list), where, "a list", value)
        for number, item in enumerate(value):
            _check(item, shape[0], f"{where}[{number}]")
    elif shape is float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        _expect(good, where, "a number", value)
    elif shape is int:
        _expect(isinstance(value, int) and not isinstance(value, bool), where, "a whole number", value)
    elif shape is not object:
        _expect(isinstance(value, shape), where, f"a {shape.__name__}", value)


def _expect(good: bool, where: str, what: str, value) -> None:
    if not good:
        raise SeamFastError(f"{where} must be {what}, but is {value!r:.60}")
