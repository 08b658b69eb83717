"""The forms of a module, and what a user would take instead, as functions from texts to answers."""

import ctypes
import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from seam_fast import runtime
from seam_fast.classifier import reference_model
from seam_fast.modules.compact import CompactModule
from seam_fast.modules.export_c import export_c
from seam_fast.modules.seam_module import SeamModule

Answer = Callable[[Sequence[str]], np.ndarray]


def make(module: SeamModule, name: str, train, folder: Path) -> tuple[dict[str, Answer], dict[str, str]]:
    """What answers, by name, and why others cannot.

    Args:
        module: The module.
        name: The name of its class.
        train: The training documents, for what is fitted to them.
        folder: Where files may be written.

    Returns:
        Functions of texts. Those of ``inference.FORMS`` give the target's probability (N,), ``base`` class
        probabilities (N, C), ``svm`` and ``fasttext`` a margin (N,).
    """
    small = module.compact()
    path = small.save(folder / "compact.safetensors")
    alone = runtime.load(path)
    base = module.base

    def by_base(texts):
        ids, lengths = base.encode(texts)
        with torch.no_grad():
            return torch.softmax(base(ids, lengths), 1).numpy()

    made: dict[str, Answer] = {
        "base": by_base,
        "module": lambda texts: module(texts).numpy(),
        "compact": small,
        "numpy": alone,
    }
    left_out = {}
    if shutil.which("cc"):
        made["c"] = _c(small, folder)
    else:
        left_out["c"] = "there is no C compiler, cc"
    others = {
        "onnx": ("onnxruntime", lambda: _onnx(small, folder)),
        "svm": ("sklearn", lambda: _svm(name, train)),
        "fasttext": ("fasttext", lambda: _fasttext(name, train, folder)),
    }
    for key, (needed, build) in others.items():
        if importlib.util.find_spec(needed) is None:
            left_out[key] = f"{needed} is not installed"
        else:
            made[key] = build()
    return made, left_out


def _c(small: CompactModule, folder: Path) -> Answer:
    """The exported C, compiled for this processor, called text by text."""
    source, library = export_c(small, folder / "module.c", name="module"), folder / "module.so"
    command = ["cc", "-std=c99", "-O3", "-march=native", "-shared", "-fPIC", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    probability = ctypes.CDLL(str(library)).module_probability
    probability.argtypes, probability.restype = [ctypes.c_char_p], ctypes.c_float
    return lambda texts: np.array([probability(text.encode()) for text in texts], dtype=np.float32)


def _onnx(small: CompactModule, folder: Path) -> Answer:
    """The module as an ONNX graph, by ONNX Runtime on one thread."""
    import onnxruntime

    from seam_fast.modules.export_onnx import export_onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(export_onnx(small, folder / "module.onnx"), options)

    def answer(texts):
        rows, lengths = small.padded(small.encode(texts))
        return session.run(["probability"], {"rows": rows, "lengths": lengths})[0]

    def in_parts(texts):  # of all test documents at once a padded batch would be large
        return np.concatenate([answer(texts[start : start + 256]) for start in range(0, len(texts), 256)])

    return in_parts


def _svm(name: str, train) -> Answer:
    """A word list: TF-IDF and a linear SVM, this class against the rest."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    pipeline = make_pipeline(TfidfVectorizer(), LinearSVC())
    pipeline.fit(train.texts, [label == name for label in train.labels])
    return pipeline.decision_function


def _fasttext(name: str, train, folder: Path) -> Answer:
    """fastText's supervised classifier of this class and the rest, with its defaults but for one thread."""
    import fasttext

    path = folder / "fasttext.txt"
    path.write_text(
        "".join(
            f"__label__{'target' if label == name else 'rest'} {text}\n"
            for label, text in zip(train.labels, train.texts, strict=True)
        ),
        encoding="utf-8",
    )
    # Its Python function predict does not work with NumPy 2; what it calls does.
    found = fasttext.train_supervised(str(path), thread=1, verbose=0).f

    def margin(text: str) -> float:
        ((probability, label),) = found.predict(text + "\n", 1, 0.0, "strict")
        return probability - 0.5 if label == "__label__target" else 0.5 - probability

    return lambda texts: np.array([margin(text) for text in texts])


def exact_probability(module: SeamModule, texts: Sequence[str]) -> np.ndarray:
    """The module's probabilities in float64 (N,), by the model that is written for reading."""
    ids, lengths = module.encode(texts)
    weights = {key: weight.double() for key, weight in module.base.weights().items()}
    head = tuple(part.double() for part in module.head)
    found = []
    for part, count in zip(ids.split(256), lengths.split(256), strict=True):
        logits = reference_model.class_logits(part, count, weights, module.scores, module.readout)
        found.append(torch.softmax(reference_model.head_logits(logits, head), 1)[:, 0])
    return torch.cat(found).numpy()


def in_batches(answer: Answer, texts: Sequence[str], batch: int) -> Callable[[], None]:
    """One pass over the texts, so many at a time."""
    parts = [texts[start : start + batch] for start in range(0, len(texts), batch)]

    def one_pass() -> None:
        for part in parts:
            answer(part)

    return one_pass
