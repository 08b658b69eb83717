"""The public port's whole training loop in plain PyTorch, around the steps of ``reference_step.Reference``.

An epoch trains on all documents, evaluates the masked network on the test subset, and applies the selection rule, which
may keep a deep copy of all scores. Written from a description; tests compare it with ``seam_fast.reengineer``.
"""

import copy

import torch
from torch.nn import functional

from benchmarks.baselines.reference_step import RIVALS
from seam_fast.classifier.inference import class_logits
from seam_fast.common import rng
from seam_fast.search.sampling import Sampler, balanced, is_target
from seam_fast.search.settings import Settings


class ReferenceLoop:
    """One class against as many documents of others; only scores are trained, the head stays as it was drawn.

    Args:
        base: An LSTMClassifier.
        corpus: Its documents.
        target: The class.
        way: "reference" or "reference_best".
        seed: Of the head and of the order of documents.

    Attributes:
        history: Accuracy and kept ratio by epoch.
        best: Epoch, scores, head and figures of the selected epoch.
    """

    def __init__(self, base, corpus, target: int, way: str, seed: int = 0):
        settings = Settings.for_protocol("reference")
        self.sampler = Sampler(corpus, torch.arange(len(corpus.train)), (target,), settings, seed)
        head = tuple(part.to(base.hidden2label.weight.dtype) for part in rng.head(seed, (target,), corpus.num_classes))
        options = {"alpha": settings.alpha, "lr_mask": settings.lr_mask, "lr_head": settings.lr_head}
        self.trainer = RIVALS[way](base.weights(), head, None, schedule="port", **options)
        self.batch_size = settings.batch_size
        chosen = balanced(corpus.test.labels, (target,))
        self.ids, self.lengths = corpus.test.ids[chosen], corpus.test.lengths[chosen]
        self.wanted = is_target(corpus.test.labels[chosen], (target,))
        found = class_logits(base.weights(), self.ids, self.lengths, "last_position").argmax(1) == target
        self.accuracy_before = (found == self.wanted).double().mean().item()
        self.history, self.best = [], None

    def run(self, epochs: int, on_epoch=None) -> int:
        """Trains; returns the number of steps. on_epoch: called without arguments after each epoch."""
        for epoch in range(epochs):
            self.trainer.run_epoch(*self.sampler.epoch(epoch), self.batch_size)
            figures = self.evaluate()
            self.history.append(figures)
            if self.is_better(figures):
                state = copy.deepcopy({key: score.detach() for key, score in self.trainer.scores.items()})
                self.best = {"epoch": epoch, "scores": state, "head": self.trainer.head} | figures
            if on_epoch:
                on_epoch()
        return self.trainer.steps

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Accuracy on the test subset and kept ratio of the current masks."""
        scores = self.trainer.scores
        masked = {key: weight * (scores[key] > 0) for key, weight in self.trainer.weights.items()}
        logits = class_logits(masked, self.ids, self.lengths, "last_position")
        found = functional.linear(torch.relu(logits), *self.trainer.head).argmax(1) == 0
        kept = sum(int((score > 0).sum()) for score in scores.values()) / self.trainer.count
        return {"accuracy": (found == self.wanted).double().mean().item(), "kept": kept}

    def is_better(self, figures: dict[str, float]) -> bool:
        """The published rule: no worse than the base, then the smaller module (in thousandths), then the better one.

        While no epoch is as good as the base, the epoch with the largest difference of accuracy and kept ratio.
        """
        accuracy, kept, best = figures["accuracy"], figures["kept"], self.best
        good = best is not None and best["accuracy"] >= self.accuracy_before
        if accuracy < self.accuracy_before:
            return not good and (best is None or accuracy - kept > best["accuracy"] - best["kept"])
        if not good or int(1000 * kept) < int(1000 * best["kept"]):
            return True
        return kept <= best["kept"] and accuracy > best["accuracy"]
