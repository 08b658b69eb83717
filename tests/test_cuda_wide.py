"""Steps that the whole GPU takes, a launch for each phase, held to what the engine's other kernels are held to; on the
CPU, as in test_cuda_trainer.py. Every case runs here by those kernels, though many are too small for them to pay.
"""

import functools
import math

import pytest
import torch
from support import agreement, toy_data, toy_weights, trainer_kinds
from support.cuda_trainer_checks import (
    SETTINGS,
    SHARED,
    SMALL,
    assert_near,
    assert_same_run,
    check_case,
    check_drawn,
    check_tf32,
    name_of,
    train,
)
from support.gpu_stand_in import ORDERS
from support.trainer_kinds import tensors
from test_cuda_trainer import test_evaluations_in_the_midst_of_an_epoch, test_tf32_in_every_order  # noqa: F401
from test_trainer_state import (  # noqa: F401
    test_a_base_that_is_not_finite_stops_with_the_step_named,
)
from test_trainers import (  # noqa: F401
    test_documents_of_one_repeated_word,
    test_soft_labels_and_a_heavier_lstm_penalty,
)

from seam_fast import TrainingError, _ext
from seam_fast.classifier.inference import class_logits
from seam_fast.classifier.state_keys import WEIGHT_KEYS
from seam_fast.training import cuda_trainer


@pytest.fixture(autouse=True)
def wide(host_module):
    host_module.choose_steps("wide")
    yield
    host_module.choose_steps("automatic")


@pytest.fixture
def tf32(host_module):
    return lambda allowed: host_module.pretend(4, True, allowed)


@pytest.fixture
def make(unwatched, kind):
    return functools.partial(trainer_kinds.make_trainer, f"{kind}-quadrature")


@pytest.mark.parametrize("case", [*SMALL, *SHARED[1:3]], ids=name_of)
def test_single_steps(kind, case):
    check_drawn(kind, case)


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
def test_batches_of_many_words(kind, unwatched, readout):
    check_case(kind, (700, 20, 16, 4), toy_data.many_documents(), 40, readout=readout, steps=2)


@pytest.mark.skipif(not _ext.has_ext(), reason=f"needs the compiled part: {_ext.reason}")
@pytest.mark.parametrize("lazy_update", ["quadrature", "replay"])
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_epochs_end_where_the_engine_of_the_cpu_ends(kind, unwatched, options, lazy_update):
    assert_near(train(f"{kind}-{lazy_update}", **options), train(f"cpu-{lazy_update}", **options))


@pytest.mark.parametrize("options", SETTINGS[::2], ids=str)
def test_replay_is_dense_to_the_last_bit(kind, unwatched, options):
    assert_same_run(*(train(f"{kind}-{lazy_update}", **options) for lazy_update in ("replay", "off")))


def test_where_an_epoch_is_cut_into_launches_changes_nothing(kind, unwatched, monkeypatch):
    runs = []
    for at_once in (4096, 3, 1):
        monkeypatch.setattr(cuda_trainer, "_STEPS_AT_ONCE", at_once)
        runs.append(train(f"{kind}-quadrature", steps_before=1500, batch_size=3))
    for run in runs[1:]:
        assert_same_run(run, runs[0])


@pytest.mark.parametrize("batch", [4, 33])
def test_whose_turn_it_is_changes_nothing_and_memory_is_its_own(kind, host_module, batch):
    """In every order of threads, with each tensor's memory watched."""
    runs = []
    for order in ORDERS:
        host_module.set_order(order, 5)
        host_module.watch_memory(True)
        options = {"count": 2 * batch + 1, "batch_size": batch, "readout": "last_word", "epochs": 3}
        runs.append(train(f"{kind}-quadrature", **options, steps_before=1500))
        host_module.watch_memory(False)
    for run in runs[1:]:
        assert_same_run(run, runs[0])


@pytest.mark.parametrize("case", [SMALL[1], SMALL[8]], ids=name_of)
def test_tf32_where_it_is_allowed(kind, tf32, case):
    """In products over all words, not in the recurrence."""
    check_tf32(kind, case, tf32)


def test_a_step_that_fails_is_the_first_one_told_of(make):
    """And those before it count: of an epoch the third batch has a document whose loss is not finite."""
    documents = toy_data.make_documents(12)
    target_probability = torch.ones(12)
    target_probability[7] = math.inf
    engine = make(
        toy_weights.make_weights(torch.float32),
        toy_weights.make_head(torch.float32),
        torch.arange(15),
        **trainer_kinds.OPTIONS,
    )
    with pytest.raises(TrainingError, match=r"loss is (inf|nan) in step 3"):
        engine.run_epoch(*documents[:2], target_probability, 3)
    assert engine.steps == 2


def test_large_batches_are_taken_by_all_and_small_ones_by_a_cluster(kind, host_module, unwatched):
    runs = {}
    for batch in (4, 70):
        for steps in ("automatic", "cluster", "wide"):
            host_module.choose_steps(steps)
            sizes = (40, 33, 60, 6)  # 70 * 4 * 60 * (33 + 60) products are more than half a million
            runs[batch, steps] = train(f"{kind}-quadrature", sizes, epochs=1, count=70, batch_size=batch)
    for batch, chosen, other in ((4, "cluster", "wide"), (70, "wide", "cluster")):
        assert_same_run(runs[batch, "automatic"], runs[batch, chosen])
        ours, theirs = (tensors(runs[batch, steps][0]) for steps in ("automatic", other))
        assert not all(torch.equal(part, theirs[name]) for name, part in ours.items())


def test_a_cluster_takes_what_the_recurrence_of_the_op_does_not(kind, unwatched):
    """Of 100 units on four multiprocessors, more than 64 documents."""
    check_case(kind, (30, 5, 100, 3), toy_data.make_documents(70, 2, range(30)), 70, readout="last_position", steps=1)


def test_who_takes_steps_is_one_of_three(host_module):
    with pytest.raises(ValueError, match="'automatic', 'cluster' or 'wide', but is 'all'"):
        host_module.choose_steps("all")


# -- documents read by a base -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
@pytest.mark.parametrize("width", [7, 9000], ids=["one piece", "pieces"])
def test_what_a_base_says_by_one_call(host_module, unwatched, readout, width):
    """As right as plain PyTorch, against float64; of many words a piece after the other."""
    weights = toy_weights.make_weights(torch.float32, sizes=(60, 5, 3, 4), scale=0.5)
    ids, lengths, _ = toy_data.make_documents(9, width, range(60))
    parts = [weights[key] for key in WEIGHT_KEYS]
    ours = host_module.class_logits_on_gpu(parts, ids, lengths, readout == "last_word")
    exact = class_logits({key: weight.double() for key, weight in weights.items()}, ids, lengths, readout)
    theirs = class_logits(weights, ids, lengths, readout)
    floor = agreement.EPS * max(1, exact.abs().max().item())
    assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max() + floor
    assert host_module.class_logits_on_gpu(parts, ids[:0], lengths[:0], True).shape == (0, 4)


def test_words_that_a_base_does_not_have_are_refused(host_module):
    weights = toy_weights.make_weights(torch.float32, sizes=(60, 5, 3, 4))
    ids, lengths, _ = toy_data.make_documents(3, 7, range(60))
    ids[1, 2] = 60
    with pytest.raises(ValueError, match="60"):
        host_module.class_logits_on_gpu([weights[key] for key in WEIGHT_KEYS], ids, lengths, True)
    with pytest.raises(ValueError, match="lengths"):
        host_module.class_logits_on_gpu([weights[key] for key in WEIGHT_KEYS], ids.clamp(max=9), lengths * 9, True)
