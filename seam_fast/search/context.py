"""What all modules of one settings share."""

import collections
import threading
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..backend import NAMES
from ..classifier.corpus_check import check_corpus
from ..classifier.inference import class_logits, logits_at_once, project_words
from ..classifier.model import LSTMClassifier
from ..classifier.state_keys import EMBEDDING, group_sizes, groups
from ..common import rng
from ..common.arguments import choice
from ..data.corpus import Corpus, Split
from ..modules.mask import Head
from ..training.base import Trainer
from ..training.config import LAZY_UPDATES, StepConfig
from ..training.cpu_trainer import copy_to_huge_pages
from ..training.devices import CPU
from ..training.registry import trainer_class
from .sampling import Address, Teacher
from .settings import Settings, check_settings
from .start import StartModules
from .teacher_cache import TeacherCache

TEACHER_DOCUMENTS_AT_ONCE = 2048


class SearchContext:
    """What all modules of one settings share: base, corpus, settings, splits, and the base's own outputs.

    It may be used by many threads.

    Args:
        base: The trained classifier.
        corpus: The documents, numbered as the base numbers them.
        settings: How modules are trained and chosen.
        engine: ``"cuda"``, ``"cpu"`` or ``"torch"``.
        lazy_update: See ``reengineer``.
        beside: Another context of the same base, corpus and engine, with which this one shares all that does not depend
            on settings.
        start_modules: What modules start from, where the settings say so.

    Attributes:
        base: As given.
        base_hash: The base's hash when the context was made; the base may be trained further meanwhile.
        corpus: As given.
        settings: As given.
        engine: As given.
        lazy_update: As given.
        weights: The base's by weight key, on the CPU; ``weights_on`` gives those on a GPU.
        fit: Indices of the training documents that modules may be trained on, int64.
        evaluation: The documents that choose the epoch.
        trainer_class: What trains the modules.
        step_config: How the trainers take a step.
        groups: Weight keys of each of the groups embedding, lstm and linear.
        sizes: Number of weights of each group.
        total: Number of all weights.
        start_modules: As given.
        teacher_caches: By what a sampler's epochs depend on, the cache that samplers with equal epochs share.
    """

    def __init__(
        self,
        base: LSTMClassifier,
        corpus: Corpus,
        settings: Settings,
        engine: str = "torch",
        lazy_update: str = LAZY_UPDATES[0],
        beside: "SearchContext | None" = None,
        start_modules: StartModules | None = None,
    ) -> None:
        check_settings(settings)
        choice("engine", engine, NAMES)
        choice("lazy_update", lazy_update, LAZY_UPDATES)
        check_corpus(base, corpus)
        weights = {key: weight.to(CPU.device) for key, weight in base.weights().items()}
        self.base_hash: str = beside.base_hash if beside else base.hash
        self.base, self.corpus, self.settings, self.weights = base, corpus, settings, weights
        self.engine, self.lazy_update, self.start_modules = engine, lazy_update, start_modules
        self.fit: Tensor
        self.evaluation: Split
        if beside and beside.settings.evaluation == settings.evaluation:
            self.fit, self.evaluation = beside.fit, beside.evaluation
        elif settings.evaluation == "validation":
            self.fit, held_out = corpus.validation_indices()
            self.evaluation = Split(
                *(part[held_out] for part in (corpus.train.ids, corpus.train.lengths, corpus.train.labels))
            )
        else:
            self.fit, self.evaluation = torch.arange(len(corpus.train)), corpus.test
        self.trainer_class = trainer_class(engine, weights, settings.batch_size)
        if beside and self.trainer_class.fused == beside.trainer_class.fused:
            self.weights = beside.weights
        elif engine == "cpu" and self.trainer_class.fused:
            self.weights = copy_to_huge_pages(weights)
        names = ["alpha", "lr_mask", "lr_head", "schedule", "penalty", "target_weight"]
        names += ["lstm_penalty_scale", "linear_penalty_scale"]
        self.step_config = StepConfig(readout=base.readout, **{name: getattr(settings, name) for name in names})
        self.groups, self.sizes = groups(weights), group_sizes(weights)
        self.total = sum(self.sizes.values())
        self._base_logits: dict[int, Tensor] = {}
        self._copies: dict[torch.device, dict[str, Tensor]] = {}
        self._documents: dict[torch.device, Split] = {}
        self.teacher_caches: collections.defaultdict[Address, TeacherCache] = collections.defaultdict(TeacherCache)
        self._projected: dict[str, Tensor | None] = {}  # what `project_words` gave, once it was needed
        self._lock, self._projecting = threading.Lock(), threading.Lock()
        if beside:
            self._base_logits, self._copies, self._lock = beside._base_logits, beside._copies, beside._lock
            self._documents, self.teacher_caches = beside._documents, beside.teacher_caches
            self._projected, self._projecting = beside._projected, beside._projecting

    def make_trainer(self, head: Head, fed_ids: np.ndarray | Tensor, device: torch.device = CPU.device) -> Trainer:
        """A trainer on a device; arguments as of ``Trainer``."""
        return self.trainer_class.for_engine(
            self.weights_on(device), head, torch.as_tensor(fed_ids), self.step_config, self.lazy_update
        )

    def initial_head(self, seed: int, target: tuple[int, ...]) -> Head:
        """The head that a target's training begins with, in the weights' dtype."""
        weight, bias = rng.head(seed, target, self.corpus.num_classes, self.settings.head_start == "aligned")
        dtype = next(iter(self.weights.values())).dtype
        return weight.to(dtype), bias.to(dtype)

    def weights_on(self, device: torch.device) -> dict[str, Tensor]:
        """The base's weights by key on a device, copied there once for all modules."""
        if device.type == "cpu":
            return self.weights
        with self._lock:
            if device not in self._copies:
                self._copies[device] = copied_to(device, self.weights)
            return self._copies[device]

    def documents_on(self, device: torch.device) -> Split:
        """The training documents on a device, copied there once for all modules."""
        train = self.corpus.train
        if device.type == "cpu":
            return train
        with self._lock:
            if device not in self._documents:
                self._documents[device] = Split(**copied_to(device, dict(vars(train))))
            return self._documents[device]

    def base_logits(self, split: Split, device: torch.device = CPU.device) -> Tensor:
        """The base's logits for a split (N, C) on the CPU, computed once, on the device of the first call."""
        weights = self.weights_on(device)
        with self._lock:
            if id(split) not in self._base_logits:
                self._base_logits[id(split)] = self._class_logits(weights, split.ids, split.lengths)
            return self._base_logits[id(split)]

    def base_probability(
        self, target: tuple[int, ...], ids: Tensor, lengths: Tensor, device: torch.device = CPU.device
    ) -> Tensor:
        """The base's probability of a target: ids (N, T), lengths (N,) -> (N,), computed on a device."""
        for split in (self.corpus.train, self.evaluation):
            if ids is split.ids:  # the logits are the same for all modules
                logits = self.base_logits(split, device)
                break
        else:
            logits = self._class_logits(self.weights_on(device), ids, lengths)
        return torch.softmax(logits, 1)[:, list(target)].sum(1)

    def teacher_on(self, device: torch.device, target: tuple[int, ...]) -> Teacher:
        """``base_probability`` as a function of ids (T, n) and lengths (n,) on a device, without synchronisation."""
        weights = self.weights_on(device)
        wanted = torch.tensor(target).to(weights[EMBEDDING].device)

        def teacher(ids: Tensor, lengths: Tensor) -> Tensor:
            size = TEACHER_DOCUMENTS_AT_ONCE
            pieces = zip(ids.split(size, 1), lengths.split(size), strict=True)
            logits = torch.cat([logits_at_once(weights, *piece, self.base.readout) for piece in pieces])
            return torch.softmax(logits, 1).index_select(1, wanted).sum(1)

        return teacher

    def _class_logits(self, weights: dict[str, Tensor], ids: Tensor, lengths: Tensor) -> Tensor:
        """The base's logits by the context's engine: ids (N, T), lengths (N,) -> (N, C)."""
        if self.engine != "cpu":
            backend = "cuda" if weights[EMBEDDING].is_cuda else "torch"
            return class_logits(weights, ids, lengths, self.base.readout, backend)
        with self._projecting:
            if not self._projected:
                self._projected["words"] = project_words(weights, "cpu")
        return class_logits(weights, ids, lengths, self.base.readout, "cpu", self._projected["words"])


def copied_to(device: torch.device, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors by key on another device. The copies are complete when this returns, so that any stream may
    read them.
    """
    return {key: weight.to(device) for key, weight in weights.items()}
