"""A module of one base read as scores over another: words by their spelling, classes by name, units by their weights.

An older base may have other words, other classes and other units. What its module keeps says something of a weight of
the newer base only where that weight is the same thing; where it is not, nothing is taken over and the report says why.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..classifier.model import LSTMClassifier
from ..classifier.state_keys import EMBEDDING, LINEAR_KEYS, groups, lstm_keys
from ..data.checks import few
from ..errors import CheckpointError
from .mask import Head
from .seam_module import SeamModule

SAME_UNITS = 0.5
"""From this correlation of their weights on, unit k of one base is taken for unit k of another. Of bases that were
trained from different beginnings it is near 0, of one that was trained further near 1."""
BY_WEIGHT, BY_WORD = "weight by weight", "word by word"


class Rebase:
    """How modules of an older base are read over a newer one.

    Args:
        old: The base that the modules were made on.
        new: The base of the run.
        words: The newer base's words, where it does not say them.
        class_names: Its class names, likewise.

    Attributes:
        same: Whether both are the same base, so that everything is taken over as it is.
        old_word: For each word id of the newer base the older one's, int64 (V,), or -1.
        old_class: For each class of the newer base the older one's number, int64 (C,), or -1.
        similarity: Correlation of the weights of both, by group, over the words and classes that both have; None where
            their shapes differ, or nothing is shared.
        taken: How each group is taken over: ``BY_WEIGHT``, of the embedding also ``BY_WORD``, or "" for not at all.
        reasons: Why, by group, where it is not weight by weight.

    Raises:
        CheckpointError: Nothing at all can be taken over.
    """

    def __init__(
        self,
        old: LSTMClassifier,
        new: LSTMClassifier,
        words: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.same = old is new or old.hash == new.hash
        self.old_base_hash = old.hash
        self._old_words, self._words = old.vocabulary, words if new.vocabulary is None else new.vocabulary
        self.old_names = old.class_names
        self.class_names = class_names if new.class_names is None else new.class_names
        self.similarity: dict[str, float | None] = {}
        self.reasons: dict[str, str] = {}
        self._shapes = {key: tuple(weight.shape) for key, weight in new.weights().items()}
        if self.same:
            self.old_word, self.old_class = torch.arange(new.vocab_size), torch.arange(new.num_classes)
            self.taken = dict.fromkeys(groups(self._shapes), BY_WEIGHT)
            return
        self.old_word = _places(self._old_words, self._words, new.vocab_size)
        self.old_class = self._classes(old, new)
        mine, theirs = new.weights(), old.weights()
        self.taken = {
            "embedding": self._embedding(mine[EMBEDDING], theirs[EMBEDDING]),
            "lstm": self._lstm(mine, theirs),
            "linear": self._linear(mine, theirs),
        }
        if not any(self.taken.values()):
            whys = "; ".join(f"{group}: {why}" for group, why in self.reasons.items())
            raise CheckpointError(
                f"nothing of a module of the base {self.old_base_hash[:12]} can be taken over to this base "
                f"({new.hash[:12]}): {whys}"
            )

    def _classes(self, old: LSTMClassifier, new: LSTMClassifier) -> Tensor:
        """``old_class``: by name, or by number where one of the bases does not say its names and both have as many."""
        if self.old_names is not None and self.class_names is not None:
            return _places(self.old_names, self.class_names, new.num_classes)
        if old.num_classes == new.num_classes:
            return torch.arange(new.num_classes)
        return torch.full((new.num_classes,), -1)

    def _embedding(self, mine: Tensor, theirs: Tensor) -> str:
        """How the embedding is taken over."""
        shared = self.old_word >= 0
        if not shared.any():
            unsaid = self._old_words is None or self._words is None
            self.reasons["embedding"] = "a base does not say its words" if unsaid else "the bases share no word"
            return ""
        if mine.shape[1] != theirs.shape[1]:
            self.reasons["embedding"] = f"a word has {mine.shape[1]} numbers now and had {theirs.shape[1]}"
            return BY_WORD
        return self._by_similarity("embedding", mine[shared], theirs[self.old_word[shared]], BY_WORD)

    def _lstm(self, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
        """How the LSTM is taken over."""
        keys = lstm_keys(mine)
        if keys != lstm_keys(theirs) or any(mine[key].shape != theirs[key].shape for key in keys):
            self.reasons["lstm"] = "its layers, directions or sizes are others"
            return ""
        matrices = [key for key in keys if mine[key].ndim > 1]  # all biases of bases are alike
        ours, others = (torch.cat([weights[key].flatten() for key in matrices]) for weights in (mine, theirs))
        return self._by_similarity("lstm", ours, others, "")

    def _linear(self, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
        """How the linear layer is taken over."""
        shared = self.old_class >= 0
        if not shared.any():
            self.reasons["linear"] = "no class can be told to be the same in both bases"
            return ""
        weight = LINEAR_KEYS[0]
        if mine[weight].shape[1] != theirs[weight].shape[1]:
            self.reasons["linear"] = f"it reads {mine[weight].shape[1]} units now and read {theirs[weight].shape[1]}"
            return ""
        return self._by_similarity("linear", mine[weight][shared], theirs[weight][self.old_class[shared]], "")

    def _by_similarity(self, group: str, mine: Tensor, theirs: Tensor, otherwise: str) -> str:
        """``BY_WEIGHT`` where the weights of both bases are correlated, else ``otherwise``."""
        found = self.similarity[group] = correlation(mine, theirs)
        if found >= SAME_UNITS:
            return BY_WEIGHT
        self.reasons[group] = f"the units of the bases are not the same (correlation of their weights {found:.2f})"
        return otherwise

    def scores(self, module: SeamModule) -> dict[str, Tensor]:
        """A module's scores over the newer base, in its weights' shapes by weight key, float64; NaN where nothing is
        known. Taken over word by word, all weights of a word have the highest of its old scores.
        """
        old = {key: score.detach().cpu().double() for key, score in scores_of(module).items()}
        old = {key: torch.where(score.isnan(), -math.inf, score) for key, score in old.items()}  # NaN: dropped
        if self.same:
            return old
        found = {key: torch.full(shape, math.nan, dtype=torch.float64) for key, shape in self._shapes.items()}
        words, classes = self.old_word >= 0, self.old_class >= 0
        if self.taken["embedding"]:
            rows = old[EMBEDDING][self.old_word[words]]
            found[EMBEDDING][words] = rows if self.taken["embedding"] == BY_WEIGHT else rows.amax(1, keepdim=True)
        if self.taken["lstm"]:
            found |= {key: old[key] for key in lstm_keys(found)}
        if self.taken["linear"]:
            for key in LINEAR_KEYS:
                found[key][classes] = old[key][self.old_class[classes]]
        return found

    def head(self, module: SeamModule, initial: Head) -> Head:
        """A module's head over the newer base's classes: weight (2, C) and bias (2,), in the dtype of ``initial``, from
        which the columns of classes come that the older base does not have.
        """
        known = self.old_class >= 0
        weight, bias = (part.clone() for part in initial)
        weight[:, known] = module.head[0].to(weight)[:, self.old_class[known]]
        bias.copy_(module.head[1])
        return weight, bias

    def target(self, module: SeamModule) -> tuple[int, ...] | None:
        """A module's target in class numbers of the newer base; None where it does not have all of its classes."""
        new_class = {old: new for new, old in enumerate(self.old_class.tolist()) if old >= 0}
        found = [new_class.get(k) for k in module.target]
        return None if None in found else tuple(sorted(k for k in found if k is not None))

    def as_dict(self) -> dict[str, Any]:
        """What was found, as plain values, for cards and records."""
        known = self.old_word >= 0
        renumbered = [(new, old) for new, old in enumerate(self.old_class.tolist()) if old not in (-1, new)]
        names = self.class_names or [str(k) for k in range(len(self.old_class))]
        return {
            "base_hash": self.old_base_hash,
            "words": {"taken_over": int(known.sum()), "new": int((~known).sum()), "gone": self._words_gone()},
            "classes": {
                "taken_over": [names[k] for k in torch.nonzero(self.old_class >= 0).flatten().tolist()],
                "new": [names[k] for k in torch.nonzero(self.old_class < 0).flatten().tolist()],
                "gone": self._classes_gone(),
                "renumbered": {names[new]: [old, new] for new, old in renumbered},
            },
            "groups": {
                group: {
                    "taken_over": how or "not at all",
                    "reason": self.reasons.get(group, ""),
                    "correlation": self.similarity.get(group),
                }
                for group, how in self.taken.items()
            },
        }

    def sentences(self) -> list[str]:
        """What has changed between the bases and what becomes of it, a line each; none where they are the same."""
        if self.same:
            return []
        found = self.as_dict()
        words, classes = found["words"], found["classes"]
        lines = [
            f"an older base ({self.old_base_hash[:12]}): {words['taken_over']:,} words taken over, {words['new']:,} "
            f"new, {words['gone']:,} gone; new words start kept, as all do without a prior, since nothing is known of "
            "them"
        ]
        parts = [f"{len(classes['taken_over'])} taken over"]
        parts += [f"{len(classes[kind])} {kind} ({few(classes[kind])})" for kind in ("new", "gone") if classes[kind]]
        if moved := [f"{name} {old} -> {new}" for name, (old, new) in classes["renumbered"].items()]:
            parts.append(f"{len(moved)} renumbered ({', '.join(moved[:3])}{', ...' * (len(moved) > 3)})")
        by = "by name" if self.old_names is not None and self.class_names is not None else "by number, not by name"
        lines.append(f"classes, {by}: {', '.join(parts)}")
        for group, how in self.taken.items():
            if how == BY_WORD:
                end = "a word of which the old module keeps anything starts whole"
                lines.append(f"{group}: taken over word by word, since {self.reasons[group]}; {end}")
            elif not how:
                lines.append(f"{group}: not taken over, since {self.reasons[group]}; its weights start kept")
        return lines

    def _words_gone(self) -> int:
        """Number of the older base's words that the newer one does not have."""
        old = 0 if self._old_words is None else len(set(self._old_words))
        return 0 if self.same else max(0, old - int((self.old_word >= 0).sum()))

    def _classes_gone(self) -> list[str]:
        """Names of the older base's classes that the newer one does not have."""
        here = set(self.old_class.tolist())
        return [name for k, name in enumerate(self.old_names or ()) if k not in here]


def scores_of(module: SeamModule) -> dict[str, Tensor]:
    """A module's scores, in its base's shapes by weight key. Where it knows no more than its mask, they are made anew
    and not kept: the modules of a run are many, and a score takes 32 times what a bit of a mask does.
    """
    return copy.copy(module).scores


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's correlation of the values of two tensors of one shape; 0 where one of them is constant."""
    a, b = (part.detach().cpu().double().flatten() for part in (one, other))
    a, b = a - a.mean(), b - b.mean()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 0 and math.isfinite(size) else 0.0


def _places(old: Sequence[str] | None, new: Sequence[str] | None, count: int) -> Tensor:
    """For each of ``count`` new names its place among the old ones, or -1: int64 (count,)."""
    if old is None or new is None:
        return torch.full((count,), -1)
    place = {name: k for k, name in enumerate(old)}
    return torch.tensor([place.get(name, -1) for name in new], dtype=torch.int64)
