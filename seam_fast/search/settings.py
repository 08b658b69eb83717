"""Everything that can differ between two re-engineering runs, in one object."""

import itertools
import math
from dataclasses import dataclass, fields, replace
from typing import Any

from ..common.arguments import choice, real_number, shown, truth, whole_number
from ..common.deprecation import modern, warn_renamed
from ..errors import TrainingError

CHOICES = {
    "protocol": ("seam", "reference"),
    "schedule": ("seam", "port", "joint"),
    "sampling": ("balanced", "redraw", "all"),
    "penalty": ("global", "group"),
    "selection": ("reference", "f1", "last"),
    "evaluation": ("validation", "test"),
    "lr_decay": ("none", "cosine"),
    "evaluation_subset": ("all", "sampled"),
    "start": ("full", "magnitude", "saliency", "module"),
    "threshold": ("half", "f1"),
    "head_start": ("random", "aligned"),
}
START_FROM_MODULE = CHOICES["start"][-1]
NUMBERS = {  # least and largest value
    "alpha": (0, math.inf),
    "lstm_penalty_scale": (0, math.inf),
    "linear_penalty_scale": (0, math.inf),
    "lr_mask": (0, math.inf),
    "lr_head": (0, math.inf),
    "target_weight": (0, math.inf),
    "distill_weight": (0, 1),
    "min_epoch_fraction": (0, 1),
    "word_dropout": (0, 0.999),
}
WHOLE_NUMBERS = {  # least value
    "epochs": 0,
    "steps": 1,
    "batch_size": 1,
    "targets_per_epoch": 0,
    "shots": -1,
    "early_stop": -1,
}
NEEDS = (  # a setting; the other setting and the value of it without which it has no effect; a value allowed anyway
    ("lstm_penalty_scale", "penalty", "group", 1.0),
    ("linear_penalty_scale", "penalty", "group", 1.0),
    ("negatives_per_target", "sampling", "redraw", "corpus"),
    ("targets_per_epoch", "sampling", "redraw", 0),
    ("min_epoch_fraction", "selection", "f1", 0.0),
    ("reject_constant", "selection", "reference", True),
    ("evaluation_subset", "sampling", "balanced", "all"),
)
HEAD_ONLY_EVERY = 5  # with schedule "seam" epochs 0, 5, 10, ... step only the head


RENAMED = {  # old names of fields, accepted for one minor release
    "lstm_factor": "lstm_penalty_scale",
    "settle": "min_epoch_fraction",
    "gate": "reject_constant",
    "distill": "distill_weight",
}


@dataclass(frozen=True, init=False)
class Settings:
    """How modules are trained and chosen: a protocol's defaults, except for what is given.

    Numbers of NumPy and torch are kept as Python's.

    Attributes:
        protocol: ``"seam"``, whose defaults are those below, or ``"reference"``, with the public port's.
        alpha: Weight of the penalty on kept weights.
        keep: Share of all weights that the module is to keep, such as 0.02, met to the weight: it is brought there
            between a quarter and six tenths of the epochs and then held, by shifts of the scores of each group, and its
            mask is that of the highest scores. Or several shares, rising, such as (0.005, 0.01, 0.02): the epochs take
            turns at them, the module has the largest, and ``SeamModule.resized`` gives the others. None: the size
            follows from the penalty.
        penalty: ``"global"``, alpha * kept / N over all weights, or ``"group"``, the sum of that over the groups
            embedding, LSTM and linear.
        lstm_penalty_scale: Factor of the LSTM's term in penalty ``"group"``.
        linear_penalty_scale: Factor of the linear layer's term in penalty ``"group"``. Its few weights save nothing,
            and a penalty of alpha over their number is as strong as the loss: with two classes it can drop them all.
        head_start: How the head begins: ``"random"``, as ``torch.nn.Linear`` does, or ``"aligned"``, the same numbers,
            but each class's two weights in the order that fits: the target's classes speak for it, all others against.
        lr_mask: Adam's learning rate of the scores.
        lr_head: Adam's learning rate of the head.
        lr_decay: ``"none"``, or ``"cosine"``, by which both rates fall towards 0 over the epochs (constant within an
            epoch).
        schedule: ``"seam"`` (every fifth epoch steps only the head, by an Adam of its own; the others head and scores),
            ``"port"`` (scores only, the head stays as initialised) or ``"joint"`` (head and scores in every epoch).
        epochs: Passes over the drawn documents; None: as many as ``steps`` needs.
        steps: Budget of one module where ``epochs`` is None, as it is where only ``steps`` is given.
        batch_size: Documents a step.
        sampling: ``"balanced"`` (the target's documents and as many others, drawn once, as in the reference),
            ``"redraw"`` (others drawn anew in each epoch) or ``"all"``.
        negatives_per_target: With ``"redraw"``, others for each target document: a number, or ``"corpus"``, as many as
            the corpus has for each, but at most five, or up to twenty for classes of few documents, whose epochs are
            filled up with others (see ``epoch_sizes``).
        targets_per_epoch: With ``"redraw"``, target documents of an epoch, drawn anew as well; 0: all.
        target_weight: Weight of target documents in the loss.
        distill_weight: Share of the label that is the base's own probability of the target for the very words that are
            fed; the rest is the true label.
        word_dropout: Share of words replaced by the unknown word in training.
        shots: Number of target documents to train on; -1: all.
        selection: Rule that chooses the epoch: ``"reference"`` (SeaM's, on accuracy and ratio), ``"f1"`` (best target
            F1) or ``"last"``.
        min_epoch_fraction: With ``"f1"``, share of the epochs that must have passed before one can be chosen.
        reject_constant: Whether modules are refused that a constant predictor could equal (``"f1"`` always does).
        evaluation: Documents that choose the epoch: ``"validation"`` (held out of training) or ``"test"`` (as in the
            reference).
        evaluation_subset: ``"all"`` of these, or ``"sampled"``, their balanced part where sampling is balanced.
        threshold: Where a document begins to be the target's: ``"half"``, at a probability of one half as trained, or
            ``"f1"``, where the F1 on these documents is best (see ``classifier.threshold``), to which the head's bias
            is moved so that this is one half. Of several sizes (``keep``) each has a shift of its own instead.
        early_stop: Epochs without progress, as the rule defines it, before a run ends; -1: never.
        start: Where scores start: ``"full"`` (all weights kept, as in SeaM), ``"magnitude"`` (the largest twentieth
            of each group), ``"saliency"`` (the twentieth of all weights with the largest |w * dL/dw|, for L the loss of
            the base as a detector of the target) or ``"module"`` (a module's scores and head: see ``reengineer``).

    Raises:
        TrainingError: A value is impossible, or values exclude each other.
        TypeError: There is no such field.
    """

    protocol: str = "seam"
    alpha: float = 1.0
    keep: float | tuple[float, ...] | None = None
    penalty: str = "group"
    lstm_penalty_scale: float = 0.35
    linear_penalty_scale: float = 0.0
    head_start: str = "aligned"
    lr_mask: float = 0.03
    lr_head: float = 0.01
    lr_decay: str = "cosine"
    schedule: str = "joint"
    epochs: int | None = None
    steps: int = 500
    batch_size: int = 128
    sampling: str = "redraw"
    negatives_per_target: float | str = "corpus"
    targets_per_epoch: int = 128
    target_weight: float = 1.0
    distill_weight: float = 1.0
    word_dropout: float = 0.3
    shots: int = -1
    selection: str = "f1"
    min_epoch_fraction: float = 0.75
    reject_constant: bool = True
    evaluation: str = "validation"
    evaluation_subset: str = "all"
    threshold: str = "f1"
    early_stop: int = -1
    start: str = "full"

    def __init__(self, protocol: str = "seam", **options: Any) -> None:
        names = [field.name for field in fields(self)]
        options = modern(options, RENAMED)
        for name in options:
            if name not in names:
                raise TypeError(f"Settings has no field {name!r}; there are {', '.join(names)}")
        values = defaults(protocol) | options
        if "steps" in options and "epochs" not in options:
            values["epochs"] = None
        for name in names:
            object.__setattr__(self, name, values[name])
        self._check()

    @classmethod
    def for_protocol(cls, protocol: str) -> "Settings":
        """Defaults of protocol ``"seam"`` (this package's) or ``"reference"`` (the public port's, flaws included)."""
        return cls(protocol)

    def with_options(self, **options: Any) -> "Settings":
        """A copy with other values for the options that are not None. ``steps`` replaces ``epochs`` and the reverse.

        Raises:
            TrainingError: A value is impossible, both ``epochs`` and ``steps`` are given, another protocol is asked
                for, or an option has no effect, such as ``lstm_penalty_scale`` with penalty ``"global"``.
            TypeError: There is no such field.
        """
        options = {name: value for name, value in modern(options, RENAMED).items() if value is not None}
        if "steps" in options and "epochs" in options:
            raise TrainingError("epochs and steps cannot both be given; leave one of them out")
        if options.get("protocol", self.protocol) != self.protocol:
            raise TrainingError(
                f"these settings are of protocol {self.protocol!r}; begin with Settings({options['protocol']!r})"
            )
        if "steps" in options:
            options["epochs"] = None
        made = replace(self, **options)
        for name, other, wanted, neutral in NEEDS:
            value, beside = getattr(made, name), getattr(made, other)
            if name in options and beside != wanted and value != neutral:
                raise TrainingError(
                    f"{name} is {value!r}, which has no effect where {other} is {beside!r}; leave it out, or choose "
                    f"{other} {wanted!r}"
                )
        if options.get("threshold") == "f1" and len(made.sizes) > 1:
            raise TrainingError(
                "threshold is 'f1', which has no effect where keep has several sizes, each with a shift of its own; "
                "leave one of them out"
            )
        return made

    def _check(self) -> None:
        """Raises TrainingError for values that are impossible; converts numbers to Python's."""
        for name, allowed in CHOICES.items():
            self._set(name, choice(name, getattr(self, name), allowed))
        for name, (low, high) in NUMBERS.items():
            self._set(name, real_number(name, getattr(self, name), low, high))
        for name, low in WHOLE_NUMBERS.items():
            if name != "epochs" or self.epochs is not None:
                self._set(name, whole_number(name, getattr(self, name), low))
        if self.keep is not None:
            self._set("keep", _requested_sizes(self.keep))
            if len(self.sizes) > 1 and self.selection == "reference":
                raise TrainingError(
                    "keep has several sizes, and selection 'reference' weighs accuracy against one; give one size, or "
                    "choose selection 'f1' or 'last'"
                )
        self._set("reject_constant", truth("reject_constant", self.reject_constant))
        given = self.negatives_per_target
        if isinstance(given, str) and given == "corpus":
            self._set("negatives_per_target", "corpus")
        else:
            number = real_number("negatives_per_target", given, 0, otherwise=", or 'corpus'")
            self._set("negatives_per_target", number)
        for name in ("negatives_per_target", "target_weight"):
            if getattr(self, name) == 0:
                raise TrainingError(f"{name} is 0; it must be more than 0")
        if self.distill_weight > 0 and self.target_weight != 1:
            raise TrainingError(
                "distill_weight and target_weight cannot be combined; leave one of them at its neutral value"
            )
        if self.shots == 0:
            raise TrainingError(f"shots is {self.shots}; it must be -1 (all documents) or at least 1")

    def _set(self, name: str, value: object) -> None:
        """Sets a field of this frozen object, while it is made."""
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        """Fields by their old names, with a DeprecationWarning."""
        if (new := {**RENAMED, "settled_epoch": "first_selectable_epoch"}.get(name)) is None:
            raise AttributeError(f"Settings has no field {name!r}")
        warn_renamed(name, new)
        return getattr(self, new)

    @property
    def sizes(self) -> tuple[float, ...]:
        """The sizes of ``keep``, rising: none, one or several."""
        if self.keep is None:
            return ()
        return self.keep if isinstance(self.keep, tuple) else (self.keep,)

    def head_only(self, epoch: int) -> bool:
        """Whether an epoch, from 0, steps only the head."""
        return self.schedule == "seam" and epoch % HEAD_ONLY_EVERY == 0

    def lr_scale(self, epoch: int, epochs: int) -> float:
        """Factor of both learning rates in an epoch, from 0, of a run of ``epochs``."""
        if self.lr_decay == "none":
            return 1.0
        return max(0.5 * (1 + math.cos(math.pi * epoch / epochs)), 1e-3)

    def first_selectable_epoch(self, epochs: int) -> int:
        """The first epoch, from 0, of a run of ``epochs`` that rule ``"f1"`` chooses freely: earlier ones are chosen
        only while no later one qualifies.
        """
        return max(0, min(int(self.min_epoch_fraction * epochs), epochs - 1))

    def as_dict(self) -> dict[str, Any]:
        """Every field by name, for records and module cards."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        # As JSON has it, so that what is read from a file equals it.
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Settings)}
REFERENCE: dict[str, Any] = {  # where the public port differs
    "protocol": "reference",
    "alpha": 0.2,
    "penalty": "global",
    "lstm_penalty_scale": 1.0,
    "linear_penalty_scale": 1.0,
    "head_start": "random",
    "lr_decay": "none",
    "targets_per_epoch": 0,
    "distill_weight": 0.0,
    "min_epoch_fraction": 0.0,
    "lr_mask": 0.1,
    "lr_head": 0.1,
    "schedule": "seam",
    "epochs": 300,
    "batch_size": 5,
    "sampling": "balanced",
    "word_dropout": 0.0,
    "selection": "reference",
    "reject_constant": False,
    "evaluation": "test",
    "evaluation_subset": "sampled",
    "threshold": "half",
}


def defaults(protocol: str) -> dict[str, Any]:
    """Every field's default by name in a protocol."""
    return DEFAULTS | (REFERENCE if choice("protocol", protocol, CHOICES["protocol"]) == "reference" else {})


def _requested_sizes(value: object) -> float | tuple[float, ...]:
    """A share of all weights, or several that rise, as ``Settings.keep`` has them; TrainingError for anything else."""
    given = value if isinstance(value, list | tuple) else [value]
    sizes = tuple(real_number("keep", each, 0, 1) for each in given)
    if 0 in sizes:
        raise TrainingError("keep is 0; it must be more than 0, a share of all weights such as 0.02")
    if not sizes or any(larger <= smaller for smaller, larger in itertools.pairwise(sizes)):
        raise TrainingError(f"keep is {shown(value)}; several sizes must rise, each given once, as in (0.01, 0.02)")
    return sizes if len(sizes) > 1 else sizes[0]


def check_settings(settings: object) -> Settings:
    """Returns its argument; TrainingError where that is not a Settings object."""
    if not isinstance(settings, Settings):
        raise TrainingError(f"settings is {shown(settings)}; it must be a Settings object")
    return settings
