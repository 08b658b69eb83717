"""Which documents are drawn, in which order, with which words dropped; and the draws themselves."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import toy_data

from seam_fast.common import rng
from seam_fast.errors import TrainingError
from seam_fast.search.document_sets import vocabulary_floor
from seam_fast.search.epoch_sizes import documents_of_epoch
from seam_fast.search.sampling import Sampler, balanced, is_target
from seam_fast.search.settings import Settings

R8_TRAIN, R8_TEST = (2840, 1596, 251, 108, 41, 253, 190, 206), (1083, 696, 75, 36, 10, 121, 81, 87)
R8_STEPS = (1097, 639, 101, 44, 17, 102, 76, 83)  # an epoch, at batch 5


def sampler(corpus, target=(2,), fit=None, seed=0, **options):
    fit = torch.arange(len(corpus.train)) if fit is None else fit
    options = {"sampling": "redraw", "negatives_per_target": 2.0, "word_dropout": 0.0, "batch_size": 5} | options
    return Sampler(corpus, fit, target, Settings(**options), seed)


def rows(split):
    """The documents of an epoch, in order, as something that can be compared: words and target_probability."""
    return [(tuple(ids), p) for ids, p in zip(split.ids.tolist(), split.target_probability.tolist(), strict=True)]


# -- balanced ---------------------------------------------------------------------------------------------------------


def test_balanced_draw_by_hand():
    """RandomState(0) shuffles five things into the order 2 0 1 3 4, a fact about NumPy's legacy generator."""
    labels = torch.tensor([1, 0, 2, 1, 0, 3, 0])
    assert balanced(labels, (1,)).tolist() == [0, 3, 4, 1]  # others 1 2 4 5 6, shuffled 4 1 2 5 6
    labels = torch.tensor([1, 0, 2, 1, 0, 2, 2, 1])
    assert balanced(labels, (1, 0)).tolist() == [0, 1, 3, 4, 7, 6, 5, 2]  # others 2 5 6: fewer than targets, so all


def test_balanced_draw_leaves_the_global_generator_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()
    labels = torch.tensor([1, 0, 2, 1, 0, 3, 0])
    first = balanced(labels, (1,))
    assert torch.equal(balanced(labels, (1,)), first)
    assert labels.tolist() == [1, 0, 2, 1, 0, 3, 0]
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize(("sizes", "steps"), [(R8_TRAIN, R8_STEPS), (R8_TEST, None)])
def test_balanced_sizes_of_r8(sizes, steps):
    labels = torch.repeat_interleave(torch.arange(8), torch.tensor(sizes))
    for k, size in enumerate(sizes):
        chosen = balanced(labels, (k,))
        others = min(size, sum(sizes) - size)  # earn: 2,645 of the 2,840 wanted
        assert len(chosen) == size + others
        assert (labels[chosen[:size]] == k).all() and (labels[chosen[size:]] != k).all()
        assert len(torch.unique(chosen)) == len(chosen)
        if steps:
            assert math.ceil(len(chosen) / 5) == steps[k]


def test_sampler_on_real_r8(r8_reference):
    corpus = r8_reference
    assert (corpus.train.labels.bincount().tolist(), corpus.test.labels.bincount().tolist()) == (
        list(R8_TRAIN),
        list(R8_TEST),
    )
    everything = torch.arange(len(corpus.train))
    settings = Settings.for_protocol("reference")
    samplers = [Sampler(corpus, everything, (k,), settings, seed=0) for k in range(8)]
    assert tuple(math.ceil(each.size / 5) for each in samplers) == R8_STEPS
    assert sum(R8_STEPS) * 300 == 647_700
    assert [each.epochs for each in samplers] == [300] * 8
    earn = samplers[0].epoch(0)
    assert (earn.target_probability == 1).sum() == 2840 and (earn.target_probability == 0).sum() == 2645
    grain = samplers[4].epoch(3)
    assert len(grain.target_probability) == 82 and (grain.target_probability == 1).sum() == 41


def test_vocabulary_floors_of_real_r8(r8_reference):
    """What is left at the reference sizes (2,389,808 weights, E 100) when only the rows of absent words drop out."""
    everything = torch.arange(len(r8_reference.train))
    floors = []
    for k in range(8):
        chosen = everything[balanced(r8_reference.train.labels, (k,))]
        floors.append(vocabulary_floor(r8_reference, chosen, 2_389_808, 100))
    assert [round(100 * floor, 1) for floor in floors] == [49.2, 38.0, 12.8, 8.7, 5.0, 12.8, 9.5, 10.9]


def test_vocabulary_floor_by_hand(toy):
    chosen = torch.tensor([0, 3])
    words = {word for i in (0, 3) for word in toy.train.ids[i, : toy.train.lengths[i]].tolist()}
    total = toy.vocab_size * 6 + 100
    assert vocabulary_floor(toy, chosen, total, 6) == pytest.approx((len(words) * 6 + 100) / total)
    assert 0 not in words  # padding of its own is no word
    word_padded = toy_data.make_corpus(protocol="reference")
    short = torch.nonzero(word_padded.train.lengths < 8)[:1, 0]
    words = set(word_padded.train.ids[short].flatten().tolist()) | {0}  # padding is a word there
    total = word_padded.vocab_size * 6 + 100
    assert vocabulary_floor(word_padded, short, total, 6) == pytest.approx((len(words) * 6 + 100) / total)


# -- epochs -----------------------------------------------------------------------------------------------------------


def test_the_probability_is_1_for_the_target(toy):
    assert is_target(torch.tensor([0, 1, 2, 3]), (1, 3)).tolist() == [False, True, False, True]
    drawn = sampler(toy, (1, 2), sampling="all").epoch(0)
    by_document = {
        tuple(ids): float(k in (1, 2)) for ids, k in zip(toy.train.ids.tolist(), toy.train.labels.tolist(), strict=True)
    }
    assert all(by_document[ids] == probability for ids, probability in rows(drawn))
    assert drawn.target_probability.dtype == torch.float32


def test_balanced_draws_once_and_shuffles_each_epoch(toy):
    """RandomState(0) decides about the documents, whatever the seed; the seed decides about their order."""
    first, second, other = (
        sampler(toy, sampling="balanced"),
        sampler(toy, sampling="balanced"),
        sampler(toy, sampling="balanced", seed=1),
    )
    chosen = balanced(toy.train.labels, (2,))
    documents = sorted(tuple(ids) for ids in toy.train.ids[chosen].tolist())
    for epoch in range(3):
        assert sorted(ids for ids, _ in rows(first.epoch(epoch))) == documents
        assert rows(first.epoch(epoch)) == rows(second.epoch(epoch))
        assert rows(first.epoch(epoch)) != rows(first.epoch(epoch + 1))
        assert sorted(rows(other.epoch(epoch))) == sorted(rows(first.epoch(epoch)))
        assert rows(other.epoch(epoch)) != rows(first.epoch(epoch))
    assert first.size == 18


def test_redraw_takes_other_negatives_each_epoch(toy):
    each = sampler(toy, (3,), negatives_per_target=1.5)
    assert each.size == 6 + 9
    epochs = [rows(each.epoch(epoch)) for epoch in range(4)]
    targets = [sorted(ids for ids, probability in epoch if probability == 1) for epoch in epochs]
    others = [sorted(ids for ids, probability in epoch if probability == 0) for epoch in epochs]
    assert all(targets[0] == drawn for drawn in targets) and len(targets[0]) == 6
    assert all(len(drawn) == 9 for drawn in others)
    assert len({tuple(drawn) for drawn in others}) == 4
    assert epochs == [rows(sampler(toy, (3,), negatives_per_target=1.5).epoch(epoch)) for epoch in range(4)]
    assert epochs[0] != rows(sampler(toy, (3,), negatives_per_target=1.5, seed=1).epoch(0))


def test_epochs_may_be_asked_in_any_order(toy):
    each = sampler(toy, word_dropout=0.3)
    later = rows(each.epoch(5))
    each.epoch(0)
    assert rows(each.epoch(5)) == later


def test_a_fraction_of_a_negative_is_rounded_up_and_there_are_never_more_than_exist(toy):
    assert sampler(toy, (3,), negatives_per_target=0.1).size == 6 + 1
    assert sampler(toy, (0,), negatives_per_target=9.0).size == 49
    assert len(set(rows(sampler(toy, (0,), negatives_per_target=9.0).epoch(0)))) == len(
        set(map(tuple, toy.train.ids.tolist()))
    )


def test_the_corpus_says_how_many_others_are_drawn(toy):
    """Class 0 has 20 of 49 documents, class 3 has 6: 1.45 and 7.2 others a target."""
    each = sampler(toy, (0,), negatives_per_target="corpus")
    assert (each.positives, each.negatives) == (20, 29)
    few = sampler(toy, (0,), negatives_per_target="corpus", targets_per_epoch=9)
    assert (few.positives, few.negatives) == (9, 13)  # 13.05
    assert len({tuple(sorted(rows(few.epoch(epoch)))) for epoch in range(5)}) == 5
    assert sampler(toy, (3,), negatives_per_target="corpus").negatives == 43
    assert sampler(toy, (0, 1, 2), negatives_per_target="corpus", targets_per_epoch=1).negatives == 1, "never none"
    shown = sampler(toy, (0,), negatives_per_target="corpus", shots=4)
    assert (shown.positives, shown.negatives) == (4, 6), "the corpus' ratio, not that of the documents shown"


@pytest.mark.parametrize(
    ("targets", "others", "drawn"),
    [
        *[(3199, 3198, 128), (1000, 3000, 384), (300, 6000, 640), (128, 6000, 640), (64, 6000, 640)],
        *[(40, 6000, 640), (20, 6000, 400), (3, 6000, 60), (3, 20, 20), (6000, 20, 1)],
    ],
)
def test_a_rare_class_has_up_to_twenty_others_a_target(targets, others, drawn):
    """At most five others a target in general, 640 an epoch; twenty where fewer than 640 would come together."""
    assert documents_of_epoch(Settings(), targets, others) == (min(targets, 128), drawn)


def test_all_is_everything(toy):
    each = sampler(toy, sampling="all")
    assert each.size == 49
    assert sorted(ids for ids, _ in rows(each.epoch(1))) == sorted(map(tuple, toy.train.ids.tolist()))


def test_lengths_go_with_their_documents(toy):
    drawn = sampler(toy).epoch(2)
    assert ((drawn.ids != 0).sum(1) == drawn.lengths).all()


def test_only_documents_it_may_use(toy):
    fit, held_out = toy.validation_indices(0.3)
    allowed, forbidden = ({tuple(ids) for ids in toy.train.ids[part].tolist()} for part in (fit, held_out))
    for sampling in ("balanced", "redraw", "all"):
        each = sampler(toy, fit=fit, sampling=sampling)
        for epoch in range(3):
            documents = {ids for ids, _ in rows(each.epoch(epoch))}
            assert documents <= allowed and not documents & (forbidden - allowed)


@pytest.mark.parametrize("sampling", ["balanced", "redraw", "all"])
def test_words_are_all_that_can_be_fed(toy, sampling):
    each = sampler(toy, (3,), sampling=sampling, word_dropout=0.4)
    words = set(each.fed_ids().tolist())
    assert 1 in words, "the unknown word stands for dropped ones"
    assert sorted(words) == each.fed_ids().tolist()
    for epoch in range(20):
        assert set(each.epoch(epoch).ids.flatten().tolist()) <= words


def test_budget_in_steps(toy):
    """18 documents: two batches of 16 or four of 5."""
    assert sampler(toy, sampling="balanced", batch_size=16, steps=9).epochs == 5
    assert sampler(toy, sampling="balanced", batch_size=5, steps=9).epochs == 3
    assert sampler(toy, sampling="balanced", batch_size=5, steps=8).epochs == 2
    assert sampler(toy, sampling="balanced", batch_size=5, steps=1).epochs == 1
    assert sampler(toy, sampling="balanced", steps=9, epochs=7).epochs == 7
    assert sampler(toy, sampling="balanced", steps=9, epochs=0).epochs == 0


def test_a_part_of_the_targets_each_epoch(toy):
    each = sampler(toy, (0,), targets_per_epoch=5, negatives_per_target=1.4)
    assert each.size == 5 + 7
    everything = {tuple(ids) for ids in toy.train.ids[toy.train.labels == 0].tolist()}
    drawn = [sorted(ids for ids, probability in rows(each.epoch(epoch)) if probability == 1) for epoch in range(60)]
    assert all(len(targets) == len(set(targets)) == 5 for targets in drawn)
    assert len({tuple(targets) for targets in drawn}) > 6
    assert {ids for targets in drawn for ids in targets} == everything, "each has its turn"
    for enough in (0, 20, 1000):
        assert sampler(toy, (0,), targets_per_epoch=enough).size == 49  # 20 and all of the 29 others
    assert sampler(toy, (0,), targets_per_epoch=5, sampling="balanced").size == 40


def test_labels_partly_from_the_base(toy):
    """Share d of the label is the base's probability of the target, 1 - d is the truth."""
    by_document = {tuple(ids): i for i, ids in enumerate(toy.train.ids.tolist())}

    def teacher(ids, lengths):
        return torch.tensor([by_document[tuple(row)] / 48 for row in ids.tolist()])

    options = Settings(sampling="all", word_dropout=0.0, distill_weight=0.25)
    each = Sampler(toy, torch.arange(len(toy.train)), (2,), options, 0, teacher)
    drawn = each.epoch(1)
    assert drawn.target_probability.shape == (49,)
    for ids, probability in rows(drawn):
        i = by_document[ids]
        truth = float(toy.train.labels[i] == 2)
        assert probability == pytest.approx(0.75 * truth + 0.25 * i / 48, abs=1e-6)


def test_the_base_is_asked_about_the_words_that_are_fed(toy):
    """Not about the whole document: what was dropped for the module is dropped for the base."""
    asked = []

    def teacher(ids, lengths):
        asked.append((ids, lengths))
        return torch.zeros(len(ids))

    options = Settings(sampling="all", word_dropout=0.5, distill_weight=1.0)
    drawn = Sampler(toy, torch.arange(len(toy.train)), (2,), options, 0, teacher).epoch(3)
    ((ids, lengths),) = asked
    assert ids.equal(drawn.ids) and lengths.equal(drawn.lengths) and (ids == toy.unknown_id).sum() > 50
    assert drawn.target_probability.tolist() == [0.0] * 49
    options = Settings(sampling="all", word_dropout=0.5, distill_weight=0.0)
    Sampler(toy, torch.arange(len(toy.train)), (2,), options, 0, teacher).epoch(3)
    assert len(asked) == 1


# -- shots ------------------------------------------------------------------------------------------------------------


def test_shots_are_that_many_targets_the_same_in_every_epoch(toy):
    everything = {tuple(ids) for ids in toy.train.ids[toy.train.labels == 1].tolist()}
    each = sampler(toy, (1,), shots=4)
    drawn = [sorted(ids for ids, probability in rows(each.epoch(epoch)) if probability == 1) for epoch in range(3)]
    assert len(drawn[0]) == 4 and drawn[0] == drawn[1] == drawn[2]
    assert set(drawn[0]) <= everything
    others = [sampler(toy, (1,), shots=4, seed=seed).targets.tolist() for seed in range(8)]
    assert len(set(map(tuple, others))) > 4, "the seed decides which"
    assert each.size == 4 + 8
    balanced_shots = sampler(toy, (1,), shots=4, sampling="balanced")
    assert balanced_shots.size == 8 and (balanced_shots.epoch(0).target_probability == 1).sum() == 4
    assert sampler(toy, (1,), shots=14).targets.tolist() == sampler(toy, (1,)).targets.tolist()


def test_more_shots_than_documents(toy):
    with pytest.raises(TrainingError, match=r"shots is 7, but target .* has 6 documents"):
        sampler(toy, (3,), shots=7)


# -- dropped words ----------------------------------------------------------------------------------------------------


def test_word_dropout_replaces_real_words_by_the_unknown_one(toy):
    plain, dropping = sampler(toy, sampling="all"), sampler(toy, sampling="all", word_dropout=0.25)
    dropped = words = 0
    for epoch in range(30):
        before, after = plain.epoch(epoch), dropping.epoch(epoch)  # the order is the same: its draw is another one
        assert torch.equal(before.lengths, after.lengths) and torch.equal(before[2], after[2])
        real = torch.arange(8) < before.lengths[:, None]
        assert (after.ids[~real] == 0).all()
        changed = before.ids != after.ids
        assert (after.ids[changed] == 1).all()
        dropped, words = dropped + int(changed.sum()), words + int(real.sum())
    spread = math.sqrt(0.25 * 0.75 / words)
    assert dropped / words == pytest.approx(0.25, abs=4 * spread)
    assert not torch.equal(dropping.epoch(0).ids == 1, dropping.epoch(1).ids == 1)


def test_word_dropout_leaves_the_corpus_alone(toy):
    before = toy.train.ids.clone()
    sampler(toy, word_dropout=0.9).epoch(0)
    assert torch.equal(toy.train.ids, before)


def test_word_dropout_needs_an_unknown_word():
    corpus = toy_data.make_corpus(protocol="reference")
    with pytest.raises(
        TrainingError, match=r"no unknown word .* pass word_dropout=0, on the command line --word-dropout 0"
    ):
        sampler(corpus, word_dropout=0.1)
    sampler(corpus).epoch(0)


# -- targets that cannot be -------------------------------------------------------------------------------------------


def test_a_target_without_documents_or_without_others(toy):
    others = torch.nonzero(toy.train.labels != 2)[:, 0]
    with pytest.raises(TrainingError, match=r"target \[2\] has no training documents"):
        sampler(toy, (2,), fit=others)
    with pytest.raises(TrainingError, match="every document"):
        sampler(toy, (0, 1, 2, 3))


# -- draws ------------------------------------------------------------------------------------------------------------


def test_draws_are_pinned():
    """A regression pin of the raw Philox stream under these addresses: another stream would change every result ever
    recorded, and other backends draw the same. The numbers were recorded once; they prove nothing else."""
    assert rng.raw(0, rng.ORDER, (2,), 0, 3).tolist() == [
        13069645714500315369,
        5897041757614732209,
        8181745204368528230,
    ]
    assert rng.raw(1, rng.ORDER, (2,), 0, 1).tolist() == [7405419180370309422]
    assert rng.raw(0, rng.NEGATIVES, (1, 4), 7, 1).tolist() == [15638320400543111860]
    assert rng.permutation(0, rng.ORDER, (2,), 0, 8).tolist() == [6, 3, 1, 2, 4, 0, 5, 7]
    assert rng.uniform(0, rng.DROPOUT, (2,), 3, 2).tolist() == [0.2864123015194764, 0.019423593332306144]


@pytest.mark.skipif(not rng._ext.has_ext(), reason=f"needs the compiled part: {rng._ext.reason}")
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 100, 4001])
def test_compiled_draws_are_numpys(count, monkeypatch):
    def drawn(seed):
        address = (seed, rng.NEGATIVES, (1, 4), 7 * seed, count)
        found = [rng.permutation(*address, first) for first in (None, 0, count // 3, max(count - 1, 0), count)]
        return found + [rng.chance(*address, probability) for probability in (0, 0.1, 0.9)]

    for seed in range(5):
        compiled = drawn(seed)
        with monkeypatch.context() as patch:
            patch.setattr(rng._ext, "has_ext", lambda: False)
            plain = drawn(seed)
        assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(compiled, plain, strict=True))


def test_every_part_of_the_address_counts():
    addresses = [
        (0, rng.ORDER, (2,), 0),
        (1, rng.ORDER, (2,), 0),
        (0, rng.NEGATIVES, (2,), 0),
        (0, rng.DROPOUT, (2,), 0),
        (0, rng.SHOTS, (2,), 0),
        (0, rng.HEAD, (2,), 0),
        (0, rng.ORDER, (1,), 0),
        (0, rng.ORDER, (1, 2), 0),
        (0, rng.ORDER, (12,), 0),
        (0, rng.ORDER, (2,), 1),
        (0, rng.ORDER, (2,), 10),
    ]
    assert len({rng.raw(*address, 4).tobytes() for address in addresses}) == len(addresses)
    longer = rng.raw(0, rng.ORDER, (2,), 0, 9)
    assert np.array_equal(longer[:4], rng.raw(0, rng.ORDER, (2,), 0, 4))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**40), st.integers(0, 300), st.integers(0, 200))
def test_a_permutation_is_one(seed, epoch, count):
    order = rng.permutation(seed, rng.ORDER, (0, 3), epoch, count)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(count))


def test_permutations_favour_no_place():
    places = np.array([rng.permutation(seed, rng.ORDER, (0,), 0, 5) for seed in range(2000)])
    counts = np.array([np.bincount(places[:, i], minlength=5) for i in range(5)])
    assert (abs(counts - 400) < 5 * math.sqrt(2000 * 0.2 * 0.8)).all()


def test_uniform_numbers():
    numbers = rng.uniform(3, rng.DROPOUT, (1,), 2, 20_000)
    assert numbers.dtype == np.float64 and numbers.min() >= 0 and numbers.max() < 1
    assert numbers.mean() == pytest.approx(0.5, abs=5 / math.sqrt(12 * 20_000))
    assert np.var(numbers) == pytest.approx(1 / 12, abs=0.003)


@pytest.mark.parametrize("classes", [1, 8, 52])
def test_head_is_drawn_as_torch_draws_a_linear_layer(classes):
    """Uniform within 1/sqrt(C), weight and bias; a new one for each seed and target."""
    heads = [rng.head(seed, (2,), classes) for seed in range(200)]
    bound = 1 / math.sqrt(classes)
    for weight, bias in heads:
        assert (weight.shape, bias.shape) == ((2, classes), (2,))
        assert weight.dtype == bias.dtype == torch.float32
    for parts in zip(*heads, strict=True):
        values = torch.stack(parts).flatten()
        assert values.abs().max() <= bound
        assert values.max() > 0.9 * bound and values.min() < -0.9 * bound
        assert len(torch.unique(values)) > 0.99 * len(values)
    assert not torch.equal(heads[0][0], rng.head(0, (3,), classes)[0])
    weight, bias = rng.head(0, (2,), classes, aligned=True) if classes > 2 else heads[0]
    assert torch.equal(bias, heads[0][1]) and torch.equal(weight.sort(0).values, heads[0][0].sort(0).values)
    if classes > 2:
        speaks_for_the_target = weight[0] > weight[1]
        assert speaks_for_the_target[2] and speaks_for_the_target.sum() == 1
    again = rng.head(0, (2,), classes)
    assert torch.equal(heads[0][0], again[0]) and torch.equal(heads[0][1], again[1])
