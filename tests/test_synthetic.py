"""The generated stand-in for R8: its shape, and that it can be learned."""

import numpy as np
import pytest
import torch

from seam_fast.data import r8_files
from seam_fast.data.corpus import CorpusConfig
from seam_fast.data.synthetic import synthetic_r8


@pytest.fixture(scope="module")
def synthetic():
    return synthetic_r8(config=CorpusConfig(max_length=1000))


def test_synthetic_says_what_it_is(synthetic):
    assert synthetic.synthetic and synthetic.name == "r8-synthetic" and "SYNTHETIC" in synthetic.source


def test_synthetic_has_r8s_shape(synthetic):
    assert synthetic.class_names == r8_files.CLASSES
    assert synthetic.train.labels.bincount().tolist() == [2840, 1596, 251, 108, 41, 253, 190, 206]
    assert synthetic.test.labels.bincount().tolist() == [1083, 696, 75, 36, 10, 121, 81, 87]
    lengths = torch.cat([synthetic.train.lengths, synthetic.test.lengths]).double()
    assert abs(lengths.median().item() - 64) < 3 and abs(lengths.mean().item() - 102) < 6  # R8: 64, 102
    assert abs(lengths.quantile(0.95).item() - 340) < 40  # R8: 340
    ids = synthetic.train.ids[synthetic.train.ids > 0].numpy()
    counts = np.sort(np.bincount(ids)[2:])[::-1]
    assert 18_000 < len(counts) < 22_000  # R8's training texts: 19,982
    assert abs((counts == 1).mean() - 0.385) < 0.03  # R8: 0.385
    # R8's training texts have 6,626, 664 and 67 at these ranks.
    assert np.all(np.abs(np.log(counts[[9, 99, 999]] / np.array([6626, 664, 67]))) < 0.3)


def test_synthetic_is_deterministic(synthetic):
    small = CorpusConfig(max_length=8)
    one, same, other = synthetic_r8(config=small), synthetic_r8(config=small), synthetic_r8(config=small, seed=1)
    assert one.data_hash == same.data_hash and torch.equal(one.train.ids, same.train.ids)
    assert one.data_hash != other.data_hash
    assert one.class_names == other.class_names
    assert synthetic_r8("reference").train.ids.shape == (5485, 32)


def test_synthetic_can_be_learned(synthetic):
    """Naive Bayes on word counts, as a floor for any classifier; it must not be perfect either."""
    classes, words = synthetic.num_classes, synthetic.vocab_size
    counts = np.full((classes, words), 0.1)
    train, test = synthetic.train.ids.numpy()[:, :64], synthetic.test.ids.numpy()[:, :64]
    for k in range(classes):
        rows = train[synthetic.train.labels.numpy() == k]
        counts[k] += np.bincount(rows[rows > 0], minlength=words)
    scores = np.log(counts / counts.sum(1, keepdims=True))
    scores[:, :2] = 0.0
    prior = np.log(np.bincount(synthetic.train.labels.numpy()) / len(train))
    guess = np.stack([scores[k][test].sum(1) + prior[k] for k in range(classes)], 1).argmax(1)
    assert 0.90 < (guess == synthetic.test.labels.numpy()).mean() < 0.99
