"""The engine of a GPU without one: its kernels' own source, run on the CPU with an eye on races, bounds and barriers,
held against float64, the engine of the CPU, and itself.

What every trainer is held to comes from test_trainers.py; as this one takes float32 only, `agreement.follow` lets each
step begin at the state of float64. What it refuses and who uses it beside others is in test_cuda_trainer_use.py; real
GPUs are in test_cuda_engine.py, which runs much of this again.
"""

import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support import agreement, strategies, toy_data, toy_weights, trainer_kinds
from support.cuda_trainer_checks import (
    SETTINGS,
    SHARED,
    SMALL,
    WIDE,
    assert_near,
    assert_same_run,
    check_case,
    check_drawn,
    check_skipped_steps,
    check_tf32,
    gradients,
    name_of,
    needs_ext,
    train,
    weights_and_head,
)
from support.gpu_stand_in import ORDERS
from support.skipped_steps import ROWS, WIDTH, Rows, draw_states, same
from support.stop_events import CountsPolls
from support.toy_data import documents_of, take
from support.trainer_kinds import OPTIONS, assert_same_bits, tensors
from test_trainer_state import (  # noqa: F401
    test_a_snapshot_stays_as_it_was,
    test_an_evaluation_agrees_with_single_calls,
    test_base_head_and_documents_are_left_alone,
    test_the_same_twice,
)
from test_trainers import (  # noqa: F401
    test_a_class_that_is_dropped_whole,
    test_a_score_of_exactly_0_is_dropped,
    test_active_clamps,
    test_documents_of_one_repeated_word,
    test_documents_of_one_word_only,
    test_float32_stays_near,
    test_follows_the_reference_step,
    test_id_0_as_padding_and_as_a_word,
    test_kept_counts_are_those_of_the_full_scores,
    test_large_learning_rate_of_the_head_and_large_alpha,
    test_one_document_a_step,
    test_padding_of_its_own_is_never_seen,
    test_rows_of_padding_words_get_the_penalty_alone,
    test_soft_labels_and_a_heavier_lstm_penalty,
    test_when_an_absent_word_drops_out_in_float32,
)

from seam_fast.classifier import inference
from seam_fast.data import synthetic
from seam_fast.training import cuda_trainer


@pytest.fixture
def make(unwatched, kind):
    return functools.partial(trainer_kinds.make_trainer, f"{kind}-quadrature")


@pytest.fixture(params=[True, False], ids=["clusters", "alone"])
def clusters(request, host_module):
    host_module.pretend(4, request.param, False)
    return request.param


# -- single steps -----------------------------------------------------------------------------------------------------


each_shared = pytest.mark.parametrize("case", SHARED, ids=name_of)
each_small = pytest.mark.parametrize("case", SMALL, ids=name_of)


@each_small
def test_sequences_of_their_own(kind, case, clusters):
    check_drawn(kind, case)


@each_shared
def test_units_shared_by_blocks(kind, case):
    check_drawn(kind, case)


@pytest.mark.parametrize("batch", range(1, 10))
def test_blocks_with_and_without_sequences(kind, batch):
    """Those without bring the next step's rows up to date meanwhile."""
    check_case(kind, (30, 6, 9, 5), toy_data.make_documents(3 * batch, 5, range(30)), batch, readout="last_word")


@pytest.mark.parametrize("hidden", [9, 70])
def test_one_word_everywhere(kind, hidden):
    """It has a place at each time of each document, and the sum over them is the longest there is."""
    ids, target_probability = torch.full((9, 32), 3), torch.tensor([1.0, 0, 0, 1, 0, 1, 0, 0, 0])
    check_case(kind, (5, 6, hidden, 3), (ids, torch.full((9,), 32), target_probability), 9, steps=1)


@pytest.mark.parametrize("hidden", [9, 70])
def test_long_and_short_documents(kind, hidden):
    ids, lengths, target_probability = toy_data.make_documents(12, 40, range(1, 30))
    lengths[:6] = torch.tensor([1, 1, 1, 40, 39, 2])
    for readout in ("last_position", "last_word"):
        check_case(kind, (30, 6, hidden, 3), (ids, lengths, target_probability), 6, readout=readout, steps=2)
    documents = ids, lengths.clamp(max=1), target_probability
    check_case(kind, (30, 6, hidden, 3), documents, 6, readout="last_word", steps=2)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_shape(kind, host_module, data):
    host_module.pretend(4, data.draw(st.booleans()), False)
    embeddings, hidden = (1, 3, 16, 33, 65), (1, 3, 16, 31, 33, 64)
    sizes, documents, batch_size, options = strategies.draw_training(data, embeddings, hidden, (1, 2, 5, 40))
    check_case(kind, sizes, documents, batch_size, steps=2, **options)


R8_SIZES = (23_590, 100, 50, 8)


def test_steps_of_the_size_of_r8(kind, request):
    """Real documents where there are any, else generated ones, on a base of that size."""
    try:
        corpus = request.getfixturevalue("r8_reference")
    except pytest.skip.Exception:
        corpus = synthetic.synthetic_r8("reference")
    documents = take(documents_of(corpus, corpus.class_names[1])[0], 0, 10)
    words = torch.unique(documents[0])
    ids = torch.searchsorted(words, documents[0])  # a vocabulary of just these spares time
    sizes = (len(words), *R8_SIZES[1:])
    check_case(
        kind, sizes, (ids, *documents[1:]), 5, steps=2, readout="last_position", alpha=0.2 * len(words) / R8_SIZES[0]
    )


# -- many steps -------------------------------------------------------------------------------------------------------


@needs_ext
@pytest.mark.parametrize("lazy_update", ["quadrature", "replay"])  # "off" has the bits of "replay", here and there
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_epochs_end_where_the_engine_of_the_cpu_ends(kind, unwatched, options, lazy_update):
    assert_near(train(f"{kind}-{lazy_update}", **options), train(f"cpu-{lazy_update}", **options))


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_replay_is_dense_to_the_last_bit(kind, unwatched, clusters, options):
    assert_same_run(*(train(f"{kind}-{lazy_update}", **options) for lazy_update in ("replay", "off")))


@pytest.mark.parametrize(
    ("options", "lazy_update"),
    [*(({}, way) for way in trainer_kinds.LAZY_UPDATES), ({"steps_before": 1500, "batch_size": 3}, "quadrature")],
    ids=str,
)
def test_where_an_epoch_is_cut_into_launches_changes_nothing(kind, unwatched, monkeypatch, options, lazy_update):
    runs = []
    for at_once in (4096, 3, 1):
        monkeypatch.setattr(cuda_trainer, "_STEPS_AT_ONCE", at_once)
        runs.append(train(f"{kind}-{lazy_update}", epochs=4, **options))
    for run in runs[1:]:
        assert_same_run(run, runs[0])


def test_evaluations_in_the_midst_of_an_epoch(kind, unwatched, monkeypatch):
    """Rows are brought up to date before anything is read, and that changes nothing."""

    class Evaluates:
        def __init__(self, trainer):
            self.trainer, self.seen = trainer, []

        def is_set(self):
            self.seen.append(self.trainer.class_logits(*probe))
            return False

    monkeypatch.setattr(cuda_trainer, "_STEPS_AT_ONCE", 3)
    weights, head = weights_and_head(WIDE)
    probe, documents = (
        toy_data.make_documents(30, words=range(80), seed=7)[:2],
        toy_data.make_documents(40, words=range(60)),
    )
    trainers, logits = [], []
    for lazy_update, evaluating in (("replay", True), ("off", True), ("replay", False)):
        options = OPTIONS | {"lr_mask": 0.15}
        trainers.append(trainer_kinds.make_trainer(f"{kind}-{lazy_update}", weights, head, torch.arange(78), **options))
        stop = Evaluates(trainers[-1])
        trainers[-1].run_epoch(*documents, 4, stop=stop if evaluating else None)
        logits.append(stop.seen)
    for other in trainers[1:]:
        assert_same_bits(trainers[0], other)
    assert len(logits[0]) == 4 and all(torch.equal(*pair) for pair in zip(*logits[:2], strict=True))
    assert not torch.equal(logits[0][-1], logits[0][-2])


def test_launches_are_short(kind, monkeypatch):
    """However many steps there are: it is work that takes the time."""

    weights, head = weights_and_head(WIDE)
    products = 3 * 4 * toy_weights.T * cuda_trainer.products(weights)
    for work, polls in ((products, 6), (2.5 * products, 3), (1, 6), (1e12, 1)):
        monkeypatch.setattr(cuda_trainer, "_PRODUCTS_AT_ONCE", work)
        stop = CountsPolls()
        engine = trainer_kinds.make_trainer(f"{kind}-quadrature", weights, head, torch.arange(15), **OPTIONS)
        engine.run_epoch(*toy_data.make_documents(24), 4, stop=stop)
        assert stop.polls == polls and engine.steps == 6


@pytest.mark.parametrize(
    ("sizes", "batch"),
    [(WIDE, 9), ((30, 9, 70, 3), 4), ((30, 9, 70, 3), 9)],
    ids=["a block's own units", "shared units", "shared units, two sequences"],
)
def test_whose_turn_it_is_changes_nothing_and_memory_is_its_own(kind, host_module, sizes, batch):
    """In every order of threads, with each tensor's memory watched."""
    runs = []
    for order in ORDERS:
        host_module.set_order(order, 5)
        host_module.watch_memory(True)
        options = {"count": 2 * batch + 1, "batch_size": batch, "readout": "last_word", "epochs": 3}
        runs.append(train(f"{kind}-quadrature", sizes, **options, steps_before=1500))
        host_module.watch_memory(False)
    for run in runs[1:]:
        assert_same_run(run, runs[0])


@pytest.mark.parametrize("lazy_update", ["replay", "off"])
def test_memory_is_its_own_at_every_lazy_update(kind, host_module, clusters, lazy_update):
    host_module.watch_memory(True)
    train(f"{kind}-{lazy_update}", (30, 33, 50, 40), epochs=3, count=5, batch_size=2, target_weight=2.0)


# -- tf32 -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tf32(host_module):
    """Lets products round what they multiply to tf32, by calling this with True."""
    return lambda allowed: host_module.pretend(4, True, allowed)


@pytest.mark.parametrize("case", [SMALL[1], SMALL[4], SMALL[5], SMALL[8], SMALL[9]], ids=name_of)
def test_tf32_where_it_is_allowed(kind, tf32, case):
    """Gradients are right to what numbers of eleven bits are worth, and no more: full precision is another thing."""
    check_tf32(kind, case, tf32)


def test_tf32_is_in_vain_where_blocks_share_units(kind, tf32):
    _, short, full = gradients(kind, SHARED[0], tf32)
    assert all(torch.equal(part, full[key]) for key, part in short.items())


@pytest.mark.parametrize("options", SETTINGS[:-1:2], ids=str)
def test_tf32_replay_is_dense_to_the_last_bit(kind, tf32, unwatched, options):
    tf32(True)
    assert_same_run(*(train(f"{kind}-{lazy_update}", **options) for lazy_update in ("replay", "off")))


@pytest.mark.parametrize("batch", [3, 17])
def test_tf32_in_every_order(kind, host_module, tf32, batch):
    tf32(True)
    runs = []
    for order in ORDERS:
        host_module.set_order(order, 7)
        host_module.watch_memory(True)
        runs.append(train(f"{kind}-quadrature", count=2 * batch + 1, batch_size=batch, readout="last_word", epochs=3))
        host_module.watch_memory(False)
    for run in runs[1:]:
        assert_same_run(run, runs[0])


# -- skipped steps -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize(
    ("t", "penalty", "counts"),
    [(1000, 4.2e-7, (12, 2049)), (1000, 0.5, (125, 250)), (50_000, 0.5, (60, 400))],  # 2,049 steps take two rules
)
def test_many_skipped_steps_at_once_err_no_more_than_step_by_step(kind, t, penalty, counts):
    check_skipped_steps(kind, t, penalty, counts)


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("skipped", [12, 60, 250])
def test_states_that_no_training_leaves_are_replayed(kind, skipped):
    """A row with an exp_avg_sq well below what the penalties alone would have left; others are not."""
    penalty, t = 4.2e-7, 1000
    states = [part.astype(np.float32) for part in draw_states(t, penalty)]
    states[2][0] = 0
    states[2][1, 17] = 0  # one score is enough
    states[2][2, WIDTH - 1] = 0.1 * penalty**2 * (1 - 0.999**t)
    broken, sound = slice(0, 3), slice(3, ROWS)
    fast, slow = (
        Rows(lazy_update, penalty, kind=kind).after(states, t, skipped) for lazy_update in ("quadrature", "replay")
    )
    assert same([part[broken] for part in fast], [part[broken] for part in slow])
    assert not same([part[sound] for part in fast], [part[sound] for part in slow])


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize(("t", "skipped"), [(0, 30), (20, 5), (150, 6), (300, 60), (1000, 4)])
def test_early_and_few_skipped_steps_are_replayed(kind, t, skipped):
    states = [part.astype(np.float32) for part in draw_states(max(t, 3), 1e-3)]
    if t < 3:
        states[1][:], states[2][:] = 0, 0
    assert same(*(Rows(way, 1e-3, kind=kind).after(states, t, skipped) for way in ("quadrature", "replay")))


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("lazy_update", ["quadrature", "replay"])
def test_what_is_not_a_number_stays_so_and_stays_where_it_is(kind, lazy_update):
    clean = [part.astype(np.float32) for part in draw_states(1000, 4.2e-7)]
    rows = Rows(lazy_update, 4.2e-7, kind=kind)
    wanted = rows.after(clean, 1000, 30)
    for i in range(3):
        states = [part.copy() for part in clean]
        states[i][5, 7] = np.nan
        found = rows.after(states, 1000, 30)
        assert found[i][5, 7].isnan() and found[0][5, 7].isnan()
        for part in found:
            assert part.isnan().sum() <= 1
        assert same(
            [part.nan_to_num(0) for part in found],
            [torch.where(a.isnan(), 0, b) for a, b in zip(found, wanted, strict=True)],
        )


# -- what it shows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
def test_class_logits_are_those_of_the_kept_weights(kind, unwatched, monkeypatch, readout):
    """In pieces and in one go, of words with and without a row of their own, before and after these drop out."""
    weights = toy_weights.make_weights(torch.float32, sizes=(60, 17, 9, 5))
    engine = trainer_kinds.make_trainer(
        f"{kind}-quadrature",
        weights,
        toy_weights.make_head(),
        torch.arange(15),
        **OPTIONS | {"readout": readout, "lr_mask": 0.1},
    )
    probe = toy_data.make_documents(40, 12, range(60), seed=5)[:2]
    dropped = set()
    for epoch in range(5):
        engine.run_epoch(*toy_data.make_documents(9, words=range(15), seed=epoch), 2)
        dropped.add(bool((engine.full_scores()[0][toy_weights.EMBEDDING][20] > 0).all()))
        kept = {key: weight.cpu() for key, weight in engine.effective_weights().items()}
        exact = inference.class_logits({key: weight.double() for key, weight in kept.items()}, *probe, readout)
        theirs, ours = inference.class_logits(kept, *probe, readout), engine.class_logits(*probe)
        floor = agreement.EPS * max(1, exact.abs().max().item())
        for q in (0.95, 1):
            error, allowed = (torch.quantile((logits.double() - exact).abs(), q) for logits in (ours, theirs))
            assert error <= 2 * allowed + floor
        pieces = [engine.class_logits(*(part[i : i + 9] for part in probe)) for i in range(0, 40, 9)]
        torch.testing.assert_close(torch.cat(pieces), ours, rtol=1e-5, atol=1e-5)  # a matrix library's linear layer
    assert dropped == {True, False}


def test_class_logits_follow_what_is_asked_and_what_has_moved(kind):
    """The same between epochs of the head alone, and never behind a change."""
    engine = trainer_kinds.make_trainer(
        f"{kind}-quadrature",
        toy_weights.make_weights(),
        toy_weights.make_head(),
        torch.arange(15),
        **OPTIONS | {"schedule": "seam"},
    )
    documents = toy_data.make_documents()
    ids, lengths = (part.clone() for part in documents[:2])

    def evaluate():
        logits = engine.class_logits(ids, lengths)
        kept = {key: weight.cpu() for key, weight in engine.effective_weights().items()}
        torch.testing.assert_close(logits, inference.class_logits(kept, ids, lengths, "last_position"))
        return logits

    seen = [evaluate()]
    engine.run_epoch(*documents, 4, head_only=True)
    assert torch.equal(evaluate(), seen[0])
    ids[0] = 3  # the same tensor, changed in place
    seen.append(evaluate())
    for _ in range(7):
        engine.run_epoch(*documents, 4)
    seen.append(evaluate())
    engine.scores["hidden2label.weight"].fill_(-1)
    engine.load_state(engine.steps)
    seen.append(evaluate())
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(seen))


def test_loaded_state_goes_on_as_its_own(kind, unwatched):
    """A trainer that takes over another's scores and averages continues to the last bit."""
    one, _ = train(f"{kind}-replay")
    weights, head = toy_weights.single(*weights_and_head(WIDE))
    options = OPTIONS | {"schedule": "seam", "lr_mask": 0.02}
    other = trainer_kinds.make_trainer(f"{kind}-replay", weights, head, torch.arange(WIDE[0] - 2), **options)
    mine = tensors(other)
    for name, part in tensors(one).items():
        mine[name].copy_(part)
    other.load_state(one.steps - 8, 8)  # an epoch of the head alone
    for trainer in (one, other):
        trainer.scale_learning_rates(0.5)
    for epoch in range(3):
        documents = toy_data.make_documents(13, words=range(60), seed=epoch)
        for trainer in (one, other):
            trainer.run_epoch(*documents, 4, head_only=epoch == 1)
        assert_same_bits(one, other)


@pytest.mark.parametrize("lazy_update", trainer_kinds.LAZY_UPDATES)
def test_counts_snapshot_and_full_scores_agree(kind, unwatched, lazy_update):
    engine, _ = train(f"{kind}-{lazy_update}", lr_mask=0.15)
    scores, head = engine.full_scores()
    mask, head_too, _ = engine.snapshot()
    signs = mask.scores()
    counts = engine.kept_counts()
    assert counts == {key: int((score > 0).sum()) for key, score in scores.items()}
    assert all(torch.equal(signs[key] > 0, score > 0) for key, score in scores.items())
    assert all(torch.equal(*pair) for pair in zip(head, head_too, strict=True))
    assert any(0 < counts[key] < score.numel() for key, score in scores.items())
