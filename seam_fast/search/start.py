"""Where a module's scores start: all weights kept, as in SeaM, or from a prior.

A prior says of each weight whether it is kept. Kept ones start where all do otherwise, dropped ones below 0, but so
near that a few steps bring them back: Adam moves a score by about ``lr_mask`` a step.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..classifier.model import LSTMClassifier
from ..classifier.state_keys import EMBEDDING, groups
from ..common.arguments import shown
from ..errors import TrainingError
from ..modules.mask import Head
from ..modules.nested import highest
from ..modules.rebase import Rebase, scores_of
from ..modules.seam_module import SeamModule
from ..training.base import Trainer
from .saliency import weight_saliency
from .sampling import Sampler
from .settings import START_FROM_MODULE

Scores = dict[str, Tensor]

KEPT = 1.0
"""Score of a kept weight at the start, as SeaM has it for all."""
DROP_STEPS = 10
"""Steps, of ``lr_mask`` each, by which a dropped weight starts below 0."""
SHARE = 0.05
"""Share of all weights that starts kept by magnitude or saliency. The penalty takes away more, as it does of all."""
SALIENCY_EPOCHS = 2
"""Epochs whose documents saliency is computed on: without dropped words, and with the true labels."""


class Start(NamedTuple):
    """Where one module starts.

    Attributes:
        scores: In the weights' shapes, by weight key, on the CPU; None: all kept.
        unfed: Score of all words that no document of the run holds.
        head: Weight (2, C) and bias (2,).
        card: What the module's card says of it; None: all kept, as without a prior.
    """

    scores: Scores | None
    unfed: float
    head: Head
    card: dict[str, Any] | None

    def apply_to(self, trainer: Trainer) -> None:
        """Sets the scores of a trainer that has been made with this head."""
        if self.scores is not None:
            trainer.set_scores(self.scores, self.unfed)


class StartModules:
    """The modules that the modules of a run start from, and what can be taken over of each.

    Args:
        modules: One, for all targets; or several, each for the target of the same classes, found by name.
        base: The run's base.
        words: Its words.
        class_names: Its class names.
        targets: The run's targets.

    Attributes:
        chosen: The module of each target; None where there is none, so that it starts with all weights kept.

    Raises:
        TrainingError: ``modules`` are none, or none is of any of the targets, or several are of one.
        CheckpointError: Nothing of a module can be taken over, or its base has changed since it was made.
    """

    def __init__(
        self,
        modules: SeamModule | Iterable[SeamModule],
        base: LSTMClassifier,
        words: Sequence[str],
        class_names: Sequence[str],
        targets: Sequence[tuple[int, ...]],
    ) -> None:
        one = isinstance(modules, SeamModule)
        if not one and (isinstance(modules, str | bytes | Tensor) or not isinstance(modules, Iterable)):
            raise TrainingError(f"start is {shown(modules)}; give a kind of start, a module, or a list of modules")
        given: list[SeamModule] = [modules] if isinstance(modules, SeamModule) else list(modules)
        for module in given:
            if not isinstance(module, SeamModule):
                raise TrainingError(f"start holds {shown(module)}; it must hold modules, such as SeamModule.load gives")
        if not given:
            raise TrainingError("start is an empty list; give at least one module to start from")
        self.class_names = class_names
        self._rebases: dict[int, Rebase] = {}
        for module in given:
            if id(module.base) not in self._rebases:
                module.check_base()
                self._rebases[id(module.base)] = Rebase(module.base, base, words, class_names)
        self.chosen: dict[tuple[int, ...], SeamModule | None] = dict.fromkeys(targets, given[0] if one else None)
        if one:
            return
        for module in given:
            target = self.rebase(module).target(module)
            if target not in self.chosen:
                continue
            if self.chosen[target] is not None:
                raise TrainingError(f"start holds several modules of target {self._name(target)}; give one of them")
            self.chosen[target] = module
        if targets and not any(self.chosen.values()):
            raise TrainingError(
                "start holds no module of any target of this run; give one module alone to start all targets from it"
            )

    def rebase(self, module: SeamModule) -> Rebase:
        """How one of the modules is read over the run's base."""
        return self._rebases[id(module.base)]

    def _name(self, target: tuple[int, ...]) -> str:
        return "+".join(self.class_names[k] for k in target)

    def sentences(self, targets: Iterable[tuple[int, ...]] | None = None) -> list[str]:
        """What is not taken over as it is, and what has changed between the bases; a line each, in plain words.

        Args:
            targets: Those to speak of; None: all.
        """
        lines = list(dict.fromkeys(line for rebase in self._rebases.values() for line in rebase.sentences()))
        for target in dict.fromkeys(self.chosen if targets is None else targets):
            module = self.chosen[target]
            if module is None:
                lines.append(f"{self._name(target)}: there is no module of it to start from, so all weights start kept")
            elif self.rebase(module).target(module) != target:
                lines.append(f"{self._name(target)}: starts from the module of another target, with a head of its own")
        return lines

    def fingerprint(self, target: tuple[int, ...]) -> str | None:
        """Hex sha256 of all that a target's start takes from its module; None where it has none."""
        module = self.chosen[target]
        return None if module is None else fingerprint(module)

    def start(self, target: tuple[int, ...], head: Head) -> tuple[Scores | None, Head, dict[str, Any]]:
        """A target's scores as ``Rebase.scores`` gives them, head, and what the card says of both."""
        module = self.chosen[target]
        if module is None:
            return None, head, {"kind": "full", "reason": "there was no module of this target to start from"}
        rebase = self.rebase(module)
        same_target = rebase.target(module) == target
        card: dict[str, Any] = {
            "kind": START_FROM_MODULE,
            "module": {
                "fingerprint": fingerprint(module),
                "base_hash": module.base_hash,
                "target": list(module.card.get("target_names", module.target)),
                "kept": module.kept,
                "steps": module.card.get("steps"),
                "corpus": module.card.get("corpus"),
                "data_hash": module.card.get("data_hash"),
                "real_scores": module.has_scores,
            },
            "head": "taken over" if same_target else "its own, since the module is of another target",
        }
        if not rebase.same:
            card["rebase"] = rebase.as_dict()
        if same_target:
            head = rebase.head(module, head)
        return rebase.scores(module), head, card


def fingerprint(module: SeamModule) -> str:
    """Hex sha256 of a module's base, target, scores and head."""
    digest = hashlib.sha256(f"{module.base_hash} {list(module.target)}".encode())
    for part in (*scores_of(module).values(), *module.head):
        digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def starting_point(
    weights: Mapping[str, Tensor], sampler: Sampler, readout: str, head: Head, modules: StartModules | None
) -> Start:
    """Where a module starts, by its settings (``Settings.start``).

    It is a function of base, documents, settings and seed, computed on the CPU: the same whatever trains.

    Args:
        weights: The base's, by weight key, on the CPU.
        sampler: Draws the module's documents; it has settings and target.
        readout: The base's.
        head: The initial head without a prior.
        modules: What modules start from, for ``start="module"``.
    """
    settings, kind = sampler.settings, sampler.settings.start
    if kind == "full":
        return Start(None, KEPT, head, None)
    dropped, fed = -min(KEPT, DROP_STEPS * settings.lr_mask), torch.as_tensor(sampler.fed_ids())
    scores: Scores | None
    if kind == START_FROM_MODULE:
        if modules is None:
            raise TrainingError("start is 'module', but no module to start from is given")
        scores, head, card = modules.start(sampler.target, head)
        if scores is None:
            return Start(None, KEPT, head, card)
    else:
        card = {"kind": kind}
        if kind == "magnitude":
            kept = highest_of({key: weight.abs() for key, weight in weights.items()}, fed, SHARE, by_group=True)
        else:
            documents = list(saliency_documents(sampler))
            card["documents"] = sum(len(ids) for ids, *_ in documents)
            found = weight_saliency(weights, documents, sampler.target, readout)
            kept = highest_of(found, fed, SHARE, by_group=False)
        scores = {key: torch.where(part, KEPT, dropped).double() for key, part in kept.items()}
    is_fed = torch.zeros(len(weights[EMBEDDING]), dtype=torch.bool)
    is_fed[fed] = True
    if kind == START_FROM_MODULE:  # words of the prior that no document of this run holds
        card["unfed_words_dropped"] = int((scores[EMBEDDING][~is_fed] > 0).any(1).sum())
    # Where nothing is known a weight starts kept, as all do without a prior.
    scores = {key: torch.where(score.isnan(), KEPT, score.clamp(dropped, KEPT)) for key, score in scores.items()}
    scores[EMBEDDING][~is_fed] = dropped
    total = sum(score.numel() for score in scores.values())
    card["kept"] = sum(int((score > 0).sum()) for score in scores.values()) / total
    return Start(scores, dropped, head, card)


def highest_of(importance: Mapping[str, Tensor], fed: Tensor, share: float, by_group: bool) -> dict[str, Tensor]:
    """The most important weights.

    Args:
        importance: In the weights' shapes, by weight key.
        fed: Ids of the words that may be kept.
        share: Of all weights. Fewer are kept where fewer have an importance above 0, or can be fed.
        by_group: Whether each of the groups embedding, LSTM and linear is to keep that share of its weights; else all
            weights are compared with each other.

    Returns:
        Bool, in the weights' shapes by weight key.
    """
    found = {key: torch.zeros(part.shape, dtype=torch.bool) for key, part in importance.items()}
    keys_of = list(groups(importance).values()) if by_group else [tuple(importance)]
    for keys in keys_of:
        parts = [(importance[key][fed] if key == EMBEDDING else importance[key]).cpu().double() for key in keys]
        values = torch.cat([part.flatten() for part in parts]).numpy()
        count = min(round(share * sum(importance[key].numel() for key in keys)), int((values > 0).sum()))
        flags = torch.from_numpy(highest(values, count)).split([part.numel() for part in parts])
        for key, part, some in zip(keys, parts, flags, strict=True):
            if key == EMBEDDING:
                found[key][fed] = some.reshape(part.shape)
            else:
                found[key] = some.reshape(part.shape)
    return found


def saliency_documents(sampler: Sampler) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Ids, lengths and which are the target's, of the documents of the first epochs, as they stand."""
    for epoch in range(1 if sampler.fixed is not None else min(SALIENCY_EPOCHS, sampler.epochs)):
        order, _ = sampler.draw(epoch)
        split = sampler.split
        yield split.ids[order], split.lengths[order], sampler.target_probability[order] > 0
