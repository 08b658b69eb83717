"""What a module has to be better than: masks that were not learned, and a small LSTM trained from scratch.

All get the module's training documents and target; masks get a head that is trained for them. None is selected by its
results on the test documents, and none has more weights than the module (apart from the vocabulary floor).
"""

import torch
from torch import Tensor
from torch.nn import functional

from seam_fast.classifier.inference import class_logits
from seam_fast.classifier.metrics import binary_metrics, module_metrics
from seam_fast.classifier.model import LSTMClassifier
from seam_fast.classifier.state_keys import EMBEDDING, groups
from seam_fast.common import rng
from seam_fast.modules.seam_module import SeamModule
from seam_fast.search.sampling import Sampler, is_target
from seam_fast.training.loss import seam_labels

SHOWN = ("precision", "recall", "f1", "accuracy")
HEAD_STEPS, TINY_STEPS, TINY_BATCH, TINY_LR = 300, 800, 32, 5e-3


def baselines(module: SeamModule, corpus, fit: Tensor, settings, seed: int) -> dict[str, dict]:
    """Figures on the test documents and kept ratio of each baseline, by name.

    fit: indices of the training documents that the module had; settings: its own.
    """
    documents = training_documents(corpus, fit, module.target, settings, seed)
    masks = {
        "vocabulary_floor": floor_mask(module, corpus, documents),
        "random_mask": masks_of_equal_size(module, random_values(module, seed)),
        "magnitude_mask": masks_of_equal_size(module, {key: w.abs() for key, w in module.base.weights().items()}),
    }
    found = {name: evaluate_mask(module, scores, corpus, documents, seed) for name, scores in masks.items()}
    return found | {"tiny_lstm": evaluate_tiny_lstm(module, corpus, documents, seed)}


def training_documents(corpus, fit, target, settings, seed: int):
    """The documents of the module's first epochs, no word dropped: ids (N, T), lengths (N,), labels (N,), 0 target."""
    plain = settings.with_options(word_dropout=0.0, distill_weight=0.0)
    sampler = Sampler(corpus, fit, target, plain, seed)
    epochs = [sampler.epoch(number) for number in range(1 if sampler.fixed is not None else 5)]
    ids, lengths, target_probability = (torch.cat(parts) for parts in zip(*epochs, strict=True))
    return ids, lengths, seam_labels(target_probability)


# Masks ---------------------------------------------------------------------------------------------------------------


def token_ids(corpus, ids: Tensor, lengths: Tensor) -> Tensor:
    """All token ids in these documents, repeated; padding only if it is a word of the vocabulary."""
    if corpus.config.padding == "own":
        return ids[torch.arange(ids.shape[1]) < lengths[:, None]]
    return ids.flatten()


def floor_mask(module: SeamModule, corpus, documents) -> dict[str, Tensor]:
    """Keeps everything but the rows of words that do not occur in the documents."""
    scores = {key: torch.ones_like(weight) for key, weight in module.base.weights().items()}
    absent = torch.ones(len(scores[EMBEDDING]), dtype=torch.bool)
    absent[token_ids(corpus, *documents[:2])] = False
    scores[EMBEDDING][absent] = -1
    return scores


def random_values(module: SeamModule, seed: int) -> dict[str, Tensor]:
    """Uniform values by weight key, for a random mask."""
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.rand(weight.shape, generator=generator) for key, weight in module.base.weights().items()}


def masks_of_equal_size(module: SeamModule, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scores that keep the weights with the largest values, as many of each group as the module keeps."""
    scores = {}
    for keys in groups(module.scores).values():
        count = sum(int((module.scores[key] > 0).sum()) for key in keys)
        flat = torch.cat([values[key].flatten() for key in keys])
        kept = torch.full_like(flat, -1.0)
        kept[flat.topk(count).indices] = 1.0
        parts = kept.split([values[key].numel() for key in keys])
        scores |= {key: part.reshape(values[key].shape) for key, part in zip(keys, parts, strict=True)}
    return scores


def evaluate_mask(module: SeamModule, scores, corpus, documents, seed: int) -> dict:
    """Figures of a mask with a head that is trained for it on the module's documents."""
    ids, lengths, labels = documents
    kept = {key: weight * (scores[key] > 0) for key, weight in module.base.weights().items()}
    features = class_logits(kept, ids, lengths, module.base.readout)
    head = fit_head(features, labels, rng.head(seed, module.target, features.shape[1]))
    other = SeamModule(module.base, module.target, scores, head)
    test = corpus.test
    figures = module_metrics(other.logits(test.ids, test.lengths), is_target(test.labels, module.target))
    return {
        "test": {name: figures[name] for name in SHOWN},
        "kept": other.kept,
        "kept_by_group": other.kept_by_group,
    }


def fit_head(features: Tensor, labels: Tensor, head) -> tuple[Tensor, Tensor]:
    """The head after HEAD_STEPS steps of Adam on all documents at once: features (N, C), labels (N,)."""
    head = tuple(part.clone().requires_grad_() for part in head)
    adam, seen = torch.optim.Adam(head, lr=0.05, fused=True), functional.relu(features)
    for _ in range(HEAD_STEPS):
        adam.zero_grad()
        functional.cross_entropy(functional.linear(seen, *head), labels).backward()
        adam.step()
    return tuple(part.detach() for part in head)


# A small LSTM from scratch -------------------------------------------------------------------------------------------


def tiny_sizes(module: SeamModule) -> tuple[int, int]:
    """Rows and units of an LSTM with no more weights than the module, in the embedding and in the rest.

    Embedding and state have the same width; the rows are the most frequent words, and one for all others.
    """
    counts = {key: int((score > 0).sum()) for key, score in module.scores.items()}
    rest = sum(count for key, count in counts.items() if key != EMBEDDING)
    units = 1
    while 8 * (units + 1) ** 2 + 8 * (units + 1) + 2 * (units + 2) <= rest:
        units += 1
    return max(2, counts[EMBEDDING] // units), units


def evaluate_tiny_lstm(module: SeamModule, corpus, documents, seed: int) -> dict:
    """Figures of a small LSTM, trained on the module's documents, target against rest, for TINY_STEPS steps."""
    ids, lengths, labels = documents
    rows, units = tiny_sizes(module)
    frequent = torch.bincount(token_ids(corpus, ids, lengths), minlength=corpus.vocab_size).argsort(descending=True)
    row_of_id = torch.zeros(corpus.vocab_size, dtype=torch.int64)
    row_of_id[frequent[: rows - 1]] = torch.arange(1, min(rows, corpus.vocab_size + 1))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = LSTMClassifier(rows, units, units, 2, readout=module.base.readout)
        adam = torch.optim.Adam(network.parameters(), lr=TINY_LR, fused=True)
        taken = 0
        while taken < TINY_STEPS:
            for batch in torch.randperm(len(ids)).split(TINY_BATCH)[: TINY_STEPS - taken]:
                adam.zero_grad()
                outputs = network(row_of_id[ids[batch]], lengths[batch])
                functional.cross_entropy(outputs, labels[batch]).backward()
                adam.step()
                taken += 1
    test = corpus.test
    with torch.no_grad():
        outputs = torch.cat(
            [network(row_of_id[a], b) for a, b in zip(test.ids.split(256), test.lengths.split(256), strict=True)]
        )
    figures = binary_metrics(outputs.argmax(1) == 0, is_target(test.labels, module.target))
    size = sum(parameter.numel() for parameter in network.parameters())
    total = sum(weight.numel() for weight in module.base.weights().values())
    return {"test": {name: figures[name] for name in SHOWN}, "kept": size / total, "kept_by_group": None}
