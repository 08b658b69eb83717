"""Finds the tensors of an LSTM text classifier in checkpoints that were written by other programs.

A checkpoint may hold them within a dictionary (``state_dict``, ``model_state_dict``), with a prefix (``module.``,
``_orig_mod.``), under other names, and without biases. They are recognised by the LSTM, whose tensors have torch's own
names everywhere, and by shapes; names decide where several shapes fit. What is ambiguous, or belongs to a computation
that is not this model's, is refused with a message that says which argument to pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ..errors import CheckpointError
from .state_keys import EMBEDDING, LINEAR_KEYS, lstm_keys, lstm_shape

_DEPTH = 16  # how deep dictionaries within dictionaries are searched
PARTS = ("word_embeddings", "lstm", "hidden2label")  # of the model, by their names in its state dict
_Found = dict[str, tuple[str, Any]]  # by this package's key: the file's name and the tensor
_LSTM_TENSOR = re.compile(r"(?:weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)_l\d+(?:_reverse)?")
# Where several matrices have a fitting shape, the one with such a word in its name is taken.
_HINTS = {
    "word_embeddings": ("emb", "lookup", "wte"),
    "hidden2label": ("label", "linear", "fc", "out", "class", "head", "dense", "proj", "tag", "logit", "decod", "pred"),
}


def standard_tensors(
    path: Path, content: Mapping[str, Any], key_map: Mapping[str, str] | None = None, ignore_keys: Iterable[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The tensors of a checkpoint under this package's keys.

    The caller checks shapes, dtypes and values.

    Args:
        path: the file, for messages.
        content: what the file holds; dictionaries in it may hold dictionaries.
        key_map: the file's names by this package's, of parts (``word_embeddings``, ``lstm``, ``hidden2label``) or of
            single tensors.
        ignore_keys: names of tensors, or how they begin, that take no part in the computation.

    Returns:
        The tensors by key, and how the checkpoint was adapted, one clause each.

    Raises:
        CheckpointError: it is ambiguous which tensors are meant.
    """
    key_map = dict(key_map or {})
    if not all(isinstance(name, str) for pair in key_map.items() for name in pair):
        raise CheckpointError(f"key_map is {key_map!r}; it must say by strings what the file calls which tensor")
    ignore_keys = (ignore_keys,) if isinstance(ignore_keys, str) else tuple(ignore_keys)
    return _Checkpoint(path, content, key_map, ignore_keys).read()


class _Checkpoint:
    """A checkpoint while it is searched; arguments as in `standard_tensors`.

    Attributes:
        levels: every dictionary in the file: the prefix of its names, and its entries that are no dictionaries.
        everything: all entries by their names with prefix.
        notes: how the checkpoint was adapted so far.
    """

    def __init__(
        self, path: Path, content: Mapping[str, Any], key_map: dict[str, str], ignored: tuple[str, ...]
    ) -> None:
        self.path, self.key_map = path, key_map
        self.levels = [
            (
                prefix,
                {key: level[key] for key in level if not _begins(prefix + key, ignored) and not _begins(key, ignored)},
            )
            for prefix, level in _levels(content)
        ]
        every = [key for prefix, level in _levels(content) for inner in level for key in (inner, prefix + inner)]
        for name in ignored:
            if not any(_begins(key, (name,)) for key in every):
                raise CheckpointError(f"{path}: holds no {name}, which is to be ignored (ignore_keys, --ignore-keys).")
        self.everything = {prefix + key: value for prefix, level in self.levels for key, value in level.items()}
        self.notes: list[str] = []

    def read(self) -> tuple[dict[str, Any], list[str]]:
        """The tensors by this package's keys, and how the checkpoint was adapted."""
        self._refuse_computed()
        mapped = self._mapped()
        lstm = self._lstm_prefix(mapped)
        pool = self._pool(lstm)
        root = self._own_root(lstm, pool)
        if root is None:
            found, pool = self._by_shape(mapped, lstm, pool)
        else:
            found = {key.removeprefix(root): (key, pool[key]) for key in pool if key.startswith(root)} | mapped
        names = {key: name for key, (name, _) in found.items()}
        tensors = {key: value for key, (_, value) in found.items()}
        self._add_zero_biases(tensors)
        self._refuse_others(tensors, set(names.values()), pool)
        self._note_names(names)
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

    # -- the key map ----------------------------------------------------------------------------------------------

    def _mapped(self) -> _Found:
        """The tensors that ``key_map`` names, except those of ``lstm`` as a whole part."""
        found: _Found = {}
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

    def _lstm_prefix(self, mapped: _Found) -> str:
        """The prefix of the LSTM's tensors, empty where the key map names each of them."""
        if "lstm" in self.key_map:
            prefix = self.key_map["lstm"].rstrip(".") + "."
            name, _ = self._look_up(f"{prefix}weight_hh_l0")
            return name.removesuffix("weight_hh_l0")
        if "lstm.weight_hh_l0" in mapped:
            return ""
        prefixes = [key.removesuffix("weight_hh_l0") for key in self.everything if _last(key) == "weight_hh_l0"]
        if len(prefixes) > 1 and "lstm." in prefixes and EMBEDDING in self.everything:
            return "lstm."  # a base of this package's own form, whatever else is in the file
        if len(prefixes) != 1:
            every = ", ".join(prefix.rstrip(".") or "at the top" for prefix in prefixes[:6])
            what = f"holds {len(prefixes)} LSTMs ({every})" if prefixes else f"no LSTM was found; {self._holdings()}"
            raise CheckpointError(
                f"{self.path}: {what}; say which it is: key_map={{'lstm': NAME}}, on the command line --key-map "
                "lstm=NAME, where NAME is what stands before .weight_hh_l0."
            )
        return prefixes[0]

    def _pool(self, lstm: str) -> dict[str, Any]:
        """The entries among which the model is searched, by name with prefix.

        These are the entries of the dictionary that holds the LSTM, or all where it holds no other matrix.
        """
        prefix, level = max(
            (
                (prefix, level)
                for prefix, level in self.levels
                if f"{lstm}weight_hh_l0" in {prefix + key for key in level}
            ),
            key=lambda found: len(found[0]),
            default=("", self.everything),
        )
        if not any(_is_matrix(value) and not _LSTM_TENSOR.fullmatch(_last(key)) for key, value in level.items()):
            return self.everything
        return {prefix + key: value for key, value in level.items()}

    def _own_root(self, lstm: str, pool: Mapping[str, Any]) -> str | None:
        """The prefix of keys that are otherwise this package's own; None where the file has other names."""
        root = lstm.removesuffix("lstm.")
        own = (EMBEDDING, LINEAR_KEYS[0])
        return root if lstm.endswith("lstm.") and any(root + key in pool for key in own) else None

    # -- other names -----------------------------------------------------------------------------------------------

    def _by_shape(self, mapped: _Found, lstm: str, pool: dict[str, Any]) -> tuple[_Found, dict[str, Any]]:
        """The tensors as their shapes and names tell them apart, and the entries among which they were searched."""
        found = dict(mapped)
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
        choices = {part: self._matrices(pool, columns, names) for part, (_, columns) in wanted.items()}
        if not all(choices.values()):  # a part of the model is in another dictionary
            pool = self.everything
            choices = {part: self._matrices(pool, columns, names) for part, (_, columns) in wanted.items()}
        for part, weight in self._choose(choices).items():
            found[wanted[part][0]] = weight, pool[weight]
            bias = weight.removesuffix("weight") + "bias"
            if part == "hidden2label" and weight.endswith("weight") and bias in pool:
                found.setdefault(LINEAR_KEYS[1], (bias, pool[bias]))
        return found, pool

    def _matrices(self, pool: Mapping[str, Any], columns: int, taken: set[str]) -> list[str]:
        """Names of the matrices with that number of columns that are neither an LSTM's nor in ``taken``."""
        return [
            key
            for key, value in pool.items()
            if _is_matrix(value)
            and value.shape[1] == columns
            and key not in taken
            and not _LSTM_TENSOR.fullmatch(_last(key))
        ]

    def _check_kind(self, tensors: Mapping[str, Any], lstm: str) -> None:
        """Raises CheckpointError for a GRU or plain RNN, or where weights of the LSTM are missing."""
        input_weight, hidden_weight = (tensors.get(f"lstm.{name}_l0") for name in ("weight_ih", "weight_hh"))
        if not (_is_matrix(input_weight) and _is_matrix(hidden_weight)):
            raise CheckpointError(
                f"{self.path}: {lstm}weight_ih_l0 and {lstm}weight_hh_l0 must both be matrices of an LSTM."
            )
        rows, columns = hidden_weight.shape
        if rows in (columns, 3 * columns):
            kind = "a GRU" if rows == 3 * columns else "a plain RNN"
            raise CheckpointError(f"{self.path}: {lstm.rstrip('.') or 'it'} is {kind}, not an LSTM (4 gates).")

    def _choose(self, choices: dict[str, list[str]]) -> dict[str, str]:
        """One name for each part, out of several, all different. Raises CheckpointError where it is ambiguous."""
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

    def _add_zero_biases(self, tensors: dict[str, Any]) -> None:
        """Adds zero biases to a part without any, which does not change its outputs."""
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

    def _refuse_others(self, tensors: dict[str, Any], taken: set[str], pool: Mapping[str, Any]) -> None:
        """Drops entries that are no weights; raises CheckpointError for weights that this model does not have."""
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
        if others and not set(tensors) - known:  # otherwise the caller's check names the unknown keys
            raise CheckpointError(
                f"{self.path}: holds more than embedding, LSTM and linear layer: {', '.join(others[:8])}"
                f"{' and more' if len(others) > 8 else ''}; a model that computes with these is not supported. Where "
                "they take no part, pass ignore_keys=[NAME], on the command line --ignore-keys NAME."
            )

    def _note_names(self, names: dict[str, str]) -> None:
        """Notes which names of the file were taken for which of this package's, unless all are the same."""
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


def _levels(
    content: Mapping[str, Any], prefix: str = "", known: set[int] | None = None, depth: int = 0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each dictionary with the dictionaries in it: the prefix of its names, and its entries that are no dictionaries.

    A dictionary that is there twice, or holds itself, comes once; those deeper than ``_DEPTH`` do not come.
    """
    known = {id(content)} if known is None else known
    yield prefix, {key: value for key, value in content.items() if not isinstance(value, Mapping)}
    for key, value in content.items():
        if depth == _DEPTH or not isinstance(value, Mapping) or id(value) in known:
            continue
        if all(isinstance(name, str) for name in value):
            known.add(id(value))
            yield from _levels(value, f"{prefix}{key}.", known, depth + 1)


def _begins(key: str, names: Iterable[str]) -> bool:
    """Whether a key is one of these names or begins with one and a dot."""
    return any(key == name or key.startswith(name.rstrip(".") + ".") for name in names)


def _last(key: str) -> str:
    """The part of a key after its last dot."""
    return key.rpartition(".")[2]


def _is_matrix(value: Any) -> TypeGuard[Tensor]:
    """Whether it is a tensor of two dimensions."""
    return isinstance(value, Tensor) and value.dim() == 2


def _is_counter(value: Any) -> bool:
    """Whether it is an integer scalar, such as the number of models that were averaged, and so no weight."""
    return isinstance(value, Tensor) and value.dim() == 0 and not value.is_floating_point() and not value.is_complex()


def _hints_at(part: str, name: str) -> bool:
    """Whether a tensor's name has a word that is usual for that part of the model."""
    return any(hint in name.lower() for hint in _HINTS[part])


def float_dtype(tensors: Iterable[Tensor]) -> torch.dtype:
    """float64 where a tensor has it, since others would round its values; else float32, which holds 16-bit values."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
