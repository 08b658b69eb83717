"""A base as a plain module of torch: trained by a loop of one's own, it is saved and re-engineered like any other."""

import pytest
import torch

import seam_fast as sf
from seam_fast.data.corpus import Split


def trained_by_hand(corpus, epochs=12, **shape):
    """A base trained by a plain loop of torch, as docs/guide/own-corpus.md shows it; and the loss of each epoch."""
    torch.manual_seed(0)
    base = sf.LSTMClassifier.for_corpus(corpus, embedding_dim=16, hidden_dim=16, **shape)
    adam = torch.optim.Adam(base.parameters(), lr=1e-2)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for ids, lengths, labels in torch.utils.data.DataLoader(corpus.train, batch_size=8, shuffle=True):
            adam.zero_grad()
            loss = torch.nn.functional.cross_entropy(base(ids, lengths), labels)
            loss.backward()
            adam.step()
            total += loss.item()
        losses.append(total)
    return base, losses


@pytest.mark.parametrize("shape", [{}, {"num_layers": 2, "bidirectional": True}, {"readout": "last_position"}])
def test_a_plain_loop_trains_it(toy, shape, tmp_path):
    base, losses = trained_by_hand(toy, **shape)
    assert losses[-1] < losses[0] / 2
    assert sf.evaluate_classifier(base, toy.test).accuracy > 0.7
    base.save(tmp_path / "base.safetensors")
    again = sf.LSTMClassifier.load(tmp_path / "base.safetensors")
    assert again.hash == base.hash and again.corpus_config == toy.config and again.tokenizer == toy.config.tokenizer
    assert (again.class_names, again.vocabulary) == (toy.class_names, tuple(toy.words))
    ids, lengths = again.encode(["w1x0 all1 unheard"])
    assert torch.equal(ids, toy.encode(["w1x0 all1 unheard"])[0]) and lengths.tolist() == [3]
    (module,) = sf.reengineer(again, toy, [1], steps=4)
    assert module.card["data_hash"] == toy.data_hash == base.info["data_hash"]


def test_an_untrained_base_is_torchs(toy):
    torch.manual_seed(3)
    base = sf.LSTMClassifier.for_corpus(toy, hidden_dim=5)
    torch.manual_seed(3)
    plain = sf.LSTMClassifier(toy.vocab_size, 100, 5, toy.num_classes)
    assert base.hash == plain.hash and base.training
    assert base.info["corpus"] == "toy" and set(base.info) == {"corpus", "corpus_config", "synthetic", "data_hash"}
    with pytest.raises(sf.TrainingError, match="corpus is 'r8'; it must be a Corpus"):
        sf.LSTMClassifier.for_corpus("r8")


def test_a_split_is_a_data_set_of_torch(toy):
    ids, length, label = toy.train[3]
    assert torch.equal(ids, toy.train.ids[3]) and (length, label) == (toy.train.lengths[3], toy.train.labels[3])
    batches = list(torch.utils.data.DataLoader(toy.train, batch_size=20))
    assert [len(batch[0]) for batch in batches] == [20, 20, 9]
    assert torch.equal(torch.cat([batch[2] for batch in batches]), toy.train.labels)
    with pytest.raises(IndexError):
        Split(*(torch.zeros(2) for _ in range(3)))[2]
