"""Finds the tensors of an LSTM text classifier in checkpoints that were written elsewhere.

A checkpoint may hold them in a dictionary among others (``state_dict``, ``model_state_dict``), with a prefix
(``module.``, ``_orig_mod.``), under other names, and without biases. What is meant is known by the LSTM, whose tensors
torch names the same everywhere, and by shapes; names decide where shapes leave a choice. Whatever could be meant in two
ways, or takes part in a computation that is not this model's, is refused with what to pass.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .state_keys import EMBEDDING, LINEAR_KEYS, lstm_keys, lstm_shape

_DEPTH = 16  # of dictionaries within one another
PARTS = ("word_embeddings", "lstm", "hidden2label")  # of the model, as its state dict names them
_LSTM_TENSOR = re.compile(r"(?:weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)_l\d+(?:_reverse)?")
# Where several matrices have a fitting shape, these words in a name say which is meant.
_HINTS = {
    "word_embeddings": ("emb", "lookup", "wte"),
    "hidden2label": ("label", "linear", "fc", "out", "class", "head", "off", "proj", "tag", "logit", "decod", "pred"),
}


def standard_tensors(
    path: Path, content: Mapping[str, Any], key_map: Mapping[str, str] | None = None, ignore_keys: Iterable[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The tensors of a checkpoint under this package's keys, and what was done to them, a clause each.

    ``content``: what the file holds; dictionaries in it may hold dictionaries. ``key_map``: this package's names of
    parts (``word_embeddings``, ``lstm``, ``hidden2label``) or of tensors -> the file's. ``ignore_keys``: tensors that
    take no part, or the beginnings of their names. Raises `CheckpointError` where it is not plain what is meant.

    Shapes, dtypes and values are for the caller to check.
    """
    key_map = dict(key_map or {})
    if not all(isinstance(name, str) for pair in key_map.items() for name in pair):
        raise CheckpointError(f"key_map is {key_map!r}; it must say by strings what the file calls which tensor")
    ignore_keys = (ignore_keys,) if isinstance(ignore_keys, str) else tuple(ignore_keys)
    return _Checkpoint(path, content, key_map, ignore_keys).read()


class _Checkpoint:
    def __init__(self, path: Path, content: Mapping[str, Any], key_map: dict[str, str], ignored: tuple[str, ...]):
        self.path, self.key_map = path, key_map
        self.boxes = [  # every dictionary with what lies directly in it
            (prefix, {key: box[key] for key in box if not _begins(prefix + key, ignored) and not _begins(key, ignored)})
            for prefix, box in _boxes(content)
        ]
        every = [key for prefix, box in _boxes(content) for inner in box for key in (inner, prefix + inner)]
        for name in ignored:
            if not any(_begins(key, (name,)) for key in every):
                raise CheckpointError(f"{path}: holds no {name}, which is to be ignored (ignore_keys, --ignore-keys).")
        self.everything = {prefix + key: value for prefix, box in self.boxes for key, value in box.items()}
        self.notes: list[str] = []

    def read(self) -> tuple[dict[str, Any], list[str]]:
        self._refuse_computed()
        tensors = self._told()
        lstm = self._lstm_prefix(tensors)
        pool = self._pool(lstm)
        root = self._own_root(lstm, pool)
        if root is None:
            found, pool = self._by_shape(tensors, lstm, pool)
        else:
            found = {key.removeprefix(root): (key, pool[key]) for key in pool if key.startswith(root)} | tensors
        names = {key: name for key, (name, _) in found.items()}
        tensors = {key: value for key, (_, value) in found.items()}
        self._without_biases(tensors)
        self._refuse_others(tensors, set(names.values()), pool)
        self._take_down(names)
        return tensors, self.notes

    def _refuse_computed(self) -> None:
        """Raises CheckpointError where weights are computed from others, by torch.nn.utils.prune or parametrize."""
        computed = [
            key
            for key in self.everything
            if "parametrizations." in key or (key.endswith("_orig") and f"{key[:-5]}_mask" in self.everything)
        ]
        if computed:
            raise CheckpointError(
                f"{self.path}: {computed[0]} belongs to a pruned or parametrized layer; make its weights plain "
                "(torch.nn.utils.prune.remove, parametrize.remove_parametrizations) and save again."
            )

    # -- what the caller says --------------------------------------------------------------------------------------

    def _told(self) -> dict[str, tuple[str, Any]]:
        """What ``key_map`` names: by this package's key, the file's name and the tensor. The LSTM's whole part is not
        looked up here.
        """
        found = {}
        for ours, theirs in self.key_map.items():
            part = ours.split(".")[0]
            if part not in PARTS:
                raise CheckpointError(
                    f"{self.path}: the key map names {ours!r}, which is no part of the model; it maps "
                    f"{', '.join(PARTS)}, or a tensor of these, to the file's names."
                )
            if ours == "lstm":
                continue
            if ours != part:
                found[ours] = self._look_up(theirs)
            elif part == "word_embeddings":
                found[EMBEDDING] = self._look_up(f"{theirs}.weight", theirs)
            else:
                weight, bias = LINEAR_KEYS
                found[weight] = self._look_up(f"{theirs}.weight", theirs)
                beside = found[weight][0].removesuffix("weight") + "bias"
                if beside in self.everything:
                    found[bias] = beside, self.everything[beside]
        return found

    def _look_up(self, *names: str) -> tuple[str, Any]:
        """The entry of that name, or the one whose name ends so; of several names the first that there is."""
        for name in names:
            if name in self.everything:
                return name, self.everything[name]
            ends = [key for key in self.everything if key.endswith("." + name)]
            if len(ends) > 1:
                raise CheckpointError(
                    f"{self.path}: several tensors are called {name} ({', '.join(ends[:4])}); give the whole name."
                )
            if ends:
                return ends[0], self.everything[ends[0]]
        raise CheckpointError(f"{self.path}: holds no {names[-1]}, which the key map names; {self._holdings()}.")

    # -- the LSTM --------------------------------------------------------------------------------------------------

    def _lstm_prefix(self, told) -> str:
        """What stands before the names of the LSTM's tensors."""
        if "lstm" in self.key_map:
            prefix = self.key_map["lstm"].rstrip(".") + "."
            name, _ = self._look_up(f"{prefix}weight_hh_l0")
            return name.removesuffix("weight_hh_l0")
        if "lstm.weight_hh_l0" in told:
            return ""
        prefixes = [key.removesuffix("weight_hh_l0") for key in self.everything if _last(key) == "weight_hh_l0"]
        if len(prefixes) > 1 and "lstm." in prefixes and EMBEDDING in self.everything:
            return "lstm."  # the file is a base of this very form, whatever else lies in it
        if len(prefixes) != 1:
            every = ", ".join(prefix.rstrip(".") or "at the top" for prefix in prefixes[:6])
            what = f"holds {len(prefixes)} LSTMs ({every})" if prefixes else f"no LSTM was found; {self._holdings()}"
            raise CheckpointError(
                f"{self.path}: {what}; say which it is: key_map={{'lstm': NAME}}, on the command line --key-map "
                "lstm=NAME, where NAME is what stands before .weight_hh_l0."
            )
        return prefixes[0]

    def _pool(self, lstm: str) -> dict[str, Any]:
        """The tensors of the dictionary that the LSTM lies in, or of all where the rest of the model is elsewhere."""
        prefix, box = max(
            ((prefix, box) for prefix, box in self.boxes if f"{lstm}weight_hh_l0" in {prefix + key for key in box}),
            key=lambda found: len(found[0]),
            default=("", self.everything),
        )
        if not any(_is_matrix(value) and not _LSTM_TENSOR.fullmatch(_last(key)) for key, value in box.items()):
            return self.everything
        return {prefix + key: value for key, value in box.items()}

    def _own_root(self, lstm: str, pool) -> str | None:
        """What stands before keys that are otherwise this package's own; None where they are others."""
        root = lstm.removesuffix("lstm.")
        own = (EMBEDDING, LINEAR_KEYS[0])
        return root if lstm.endswith("lstm.") and any(root + key in pool for key in own) else None

    # -- other names -----------------------------------------------------------------------------------------------

    def _by_shape(self, told, lstm: str, pool) -> tuple[dict[str, tuple[str, Any]], dict[str, Any]]:
        """By this package's key, the file's name and the tensor; and the tensors among which they were looked for."""
        found = dict(told)
        for key, value in pool.items():
            if key.startswith(lstm) and _LSTM_TENSOR.fullmatch(key.removeprefix(lstm)):
                found.setdefault(f"lstm.{key.removeprefix(lstm)}", (key, value))
        self._check_kind({key: value for key, (_, value) in found.items()}, lstm)
        input_size = found["lstm.weight_ih_l0"][1].shape[1]
        hidden_size = found["lstm.weight_hh_l0"][1].shape[1]
        width = hidden_size * (1 + lstm_shape(found)[1])
        wanted = {"word_embeddings": (EMBEDDING, input_size), "hidden2label": (LINEAR_KEYS[0], width)}
        wanted = {part: (key, columns) for part, (key, columns) in wanted.items() if key not in found}
        names = {name for name, _ in found.values()}
        for pool in (pool, self.everything):  # noqa: B020 (the second where the first lacks a part)
            choices = {part: self._matrices(pool, columns, names) for part, (_, columns) in wanted.items()}
            if all(choices.values()):
                break
        for part, weight in self._choose(choices).items():
            found[wanted[part][0]] = weight, pool[weight]
            bias = weight.removesuffix("weight") + "bias"
            if part == "hidden2label" and weight.endswith("weight") and bias in pool:
                found.setdefault(LINEAR_KEYS[1], (bias, pool[bias]))
        return found, pool

    def _matrices(self, pool, columns: int, but: set[str]) -> list[str]:
        """Names of the matrices with so many columns that are no part of an LSTM."""
        return [
            key
            for key, value in pool.items()
            if _is_matrix(value)
            and value.shape[1] == columns
            and key not in but
            and not _LSTM_TENSOR.fullmatch(_last(key))
        ]

    def _check_kind(self, tensors: Mapping[str, Any], lstm: str) -> None:
        """Raises CheckpointError for what is named like an LSTM and is none."""
        there = [tensors.get(f"lstm.{name}_l0") for name in ("weight_ih", "weight_hh")]
        if not all(map(_is_matrix, there)):
            raise CheckpointError(
                f"{self.path}: {lstm}weight_ih_l0 and {lstm}weight_hh_l0 must both be matrices of an LSTM."
            )
        rows, columns = there[1].shape
        if rows in (columns, 3 * columns):
            kind = "a GRU" if rows == 3 * columns else "a plain RNN"
            raise CheckpointError(f"{self.path}: {lstm.rstrip('.') or 'it'} is {kind}, not an LSTM (4 gates).")

    def _choose(self, choices: dict[str, list[str]]) -> dict[str, str]:
        """One of the names for each part, all different. Raises CheckpointError where it is not plain which."""
        chosen: dict[str, str] = {}
        hinted = {part: [name for name in names if _hints_at(part, name)] for part, names in choices.items()}
        for part, names in choices.items():
            others = {name for other, found in hinted.items() if other != part for name in found}
            for fitting in (hinted[part], [name for name in names if name not in others]):
                if len(fitting) == 1:
                    chosen[part] = fitting[0]
                    break
        missing = [part for part in choices if part not in chosen]
        if missing or len(set(chosen.values())) < len(chosen):
            part = missing[0] if missing else "hidden2label"
            what = {"word_embeddings": "embedding", "hidden2label": "last linear layer"}[part]
            names = choices[part]
            which = f"any of {', '.join(names[:6])} may be the {what}" if names else f"no {what} was found"
            holds = "" if names else f" ({self._holdings()})"
            raise CheckpointError(
                f"{self.path}: {which}{holds}; say which it is: key_map={{{part!r}: NAME}}, on the command line "
                f"--key-map {part}=NAME."
            )
        return chosen

    # -- what remains ----------------------------------------------------------------------------------------------

    def _without_biases(self, tensors: dict[str, Any]) -> None:
        """Zeros where a part has no bias at all, which computes the same."""
        keys = [key for key in lstm_keys(tensors) if ".bias_" in key]
        if not any(key in tensors for key in keys):
            for key in keys:
                beside = tensors.get(key.replace(".bias_", ".weight_"))
                if _is_matrix(beside):
                    tensors[key] = beside.new_zeros(len(beside))
            self.notes.append("an LSTM without biases: zeros in their place")
        weight, bias = (tensors.get(key) for key in LINEAR_KEYS)
        if bias is None and _is_matrix(weight) and all(key in tensors for key in lstm_keys(tensors)):
            tensors[LINEAR_KEYS[1]] = weight.new_zeros(len(weight))
            self.notes.append("a linear layer without bias: zeros in its place")

    def _refuse_others(self, tensors: dict[str, Any], taken: set[str], pool) -> None:
        """Drops what takes no part; raises CheckpointError for tensors that may be part of what is computed."""
        known = {EMBEDDING, *lstm_keys(tensors), *LINEAR_KEYS}
        for key in list(tensors):
            value = tensors[key]
            if key not in known and (not isinstance(value, Tensor) or _is_counter(value)):
                del tensors[key]
        projections = [key for key in tensors if "weight_hr_l" in key]
        if projections:
            raise CheckpointError(
                f"{self.path}: {projections[0]} is the projection of an LSTM with proj_size, which is not supported; "
                "several layers and both directions are."
            )
        others = [
            key
            for key, value in pool.items()
            if isinstance(value, Tensor) and key not in taken and not _is_counter(value)
        ]
        if others and not set(tensors) - known:  # else the caller names the keys that are too many
            raise CheckpointError(
                f"{self.path}: holds more than embedding, LSTM and linear layer: {', '.join(others[:8])}"
                f"{' and more' if len(others) > 8 else ''}; a model that computes with these is not supported. Where "
                "they take no part, pass ignore_keys=[NAME], on the command line --ignore-keys NAME."
            )

    def _take_down(self, names: dict[str, str]) -> None:
        """Which names of the file were taken for which of ours, unless all are the same."""
        parts: dict[str, str] = {}
        for ours, theirs in names.items():
            part, _, rest = ours.partition(".")
            if ours != theirs and part in PARTS:
                whole = theirs.removesuffix("." + rest)
                parts[part if whole != theirs else ours] = whole
        if parts:
            self.notes.insert(0, "keys: " + ", ".join(f"{ours} = {theirs}" for ours, theirs in parts.items()))

    def _holdings(self) -> str:
        """What the file holds, for a message."""
        tensors = [f"{key} {tuple(value.shape)}" for key, value in self.everything.items() if isinstance(value, Tensor)]
        if not tensors:
            kinds = ", ".join(f"{key} ({type(value).__name__})" for key, value in list(self.everything.items())[:8])
            return f"the file holds no tensors: {kinds or 'nothing'}"
        return f"the file holds {', '.join(tensors[:12])}{' and more' if len(tensors) > 12 else ''}"


def _boxes(content: Mapping[str, Any], prefix: str = "", known: set[int] | None = None, depth: int = 0):
    """Each dictionary of named things, and those in it, as (prefix of its names, what lies directly in it); one that
    is there twice, or holds itself, once. No checkpoint goes deeper than ``_DEPTH``, and what does is not looked at.
    """
    known = {id(content)} if known is None else known
    yield prefix, {key: value for key, value in content.items() if not isinstance(value, Mapping)}
    for key, value in content.items():
        if depth == _DEPTH or not isinstance(value, Mapping) or id(value) in known:
            continue
        if all(isinstance(name, str) for name in value):
            known.add(id(value))
            yield from _boxes(value, f"{prefix}{key}.", known, depth + 1)


def _begins(key: str, names: Iterable[str]) -> bool:
    """Whether a key is one of these names or begins with one and a dot."""
    return any(key == name or key.startswith(name.rstrip(".") + ".") for name in names)


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _is_matrix(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2


def _is_counter(value: Any) -> bool:
    """Such as the number of models that were averaged: no weight."""
    return isinstance(value, Tensor) and value.dim() == 0 and not value.is_floating_point() and not value.is_complex()


def _hints_at(part: str, name: str) -> bool:
    return any(hint in name.lower() for hint in _HINTS[part])


def float_dtype(tensors: Iterable[Tensor]) -> torch.dtype:
    """float64 where a tensor is, since a narrower one would round it; else float32, which holds both 16-bit types."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
