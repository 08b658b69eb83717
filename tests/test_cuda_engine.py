"""Training on a GPU: the one-launch engine and the trainer of captured graphs, by the rules of test_trainers.py,
test_cpu_trainer.py and test_cuda_trainer.py, most of whose tests are run here again; and what only a GPU asks for:
streams, threads, memory.
"""

import functools
import gc
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support import agreement, skipped_steps, toy_data, toy_weights, trainer_kinds
from support.cuda_trainer_checks import (
    SETTINGS,
    SHARED,
    SMALL,
    assert_near,
    assert_same_run,
    check_case,
    check_drawn,
    check_skipped_steps,
    name_of,
    train,
)
from support.trainer_kinds import assert_same_bits
from test_cuda_trainer import (  # noqa: F401
    test_blocks_with_and_without_sequences,
    test_class_logits_are_those_of_the_kept_weights,
    test_class_logits_follow_what_is_asked_and_what_has_moved,
    test_counts_snapshot_and_full_scores_agree,
    test_early_and_few_skipped_steps_are_replayed,
    test_epochs_end_where_the_engine_of_the_cpu_ends,
    test_evaluations_in_the_midst_of_an_epoch,
    test_launches_are_short,
    test_loaded_state_goes_on_as_its_own,
    test_long_and_short_documents,
    test_one_word_everywhere,
    test_replay_is_dense_to_the_last_bit,
    test_sequences_of_their_own,
    test_states_that_no_training_leaves_are_replayed,
    test_steps_of_the_size_of_r8,
    test_tf32_replay_is_dense_to_the_last_bit,
    test_tf32_where_it_is_allowed,
    test_units_shared_by_blocks,
    test_what_is_not_a_number_stays_so_and_stays_where_it_is,
    test_where_an_epoch_is_cut_into_launches_changes_nothing,
)
from test_cuda_trainer_use import (  # noqa: F401
    QUICK,
    test_a_failure_in_a_later_launch,
    test_a_score_that_is_not_a_number_is_dropped_and_found,
    test_a_tensor_that_is_no_longer_where_it_was_is_refused,
    test_after_a_failure_it_is_refused_until_state_is_loaded,
    test_an_epoch_of_nothing,
    test_batches_that_are_too_large_for_a_launch,
    test_epochs_of_the_head_alone,
    test_it_says_what_the_engine_of_the_cpu_says,
    test_port_never_moves_the_head,
    test_stop_ends_an_epoch_between_two_launches,
    test_target_weight_is_as_good_as_that_many_copies,
    test_the_loop_ends_where_it_ends_on_the_cpu,
)
from test_take_epoch import test_it_is_what_single_calls_give  # noqa: F401
from test_trainer_state import (  # noqa: F401
    test_a_base_that_is_not_finite_stops_with_the_step_named,
    test_a_gradient_that_overflows_names_its_tensor,
    test_a_snapshot_stays_as_it_was,
    test_an_evaluation_agrees_with_single_calls,
    test_base_head_and_documents_are_left_alone,
    test_check_finite_names_the_tensor,
    test_labels_that_cannot_be_are_refused,
    test_seams_labels_are_taken_as_well,
    test_the_same_twice,
)
from test_trainers import (  # noqa: F401
    test_a_class_that_is_dropped_whole,
    test_a_score_of_exactly_0_is_dropped,
    test_a_word_outside_words_is_refused_and_nothing_moves,
    test_active_clamps,
    test_documents_of_one_repeated_word,
    test_documents_of_one_word_only,
    test_float32_stays_near,
    test_follows_the_reference_step,
    test_id_0_as_padding_and_as_a_word,
    test_kept_counts_are_those_of_the_full_scores,
    test_large_learning_rate_of_the_head_and_large_alpha,
    test_one_document_a_step,
    test_rows_of_padding_words_get_the_penalty_alone,
    test_soft_labels_and_a_heavier_lstm_penalty,
    test_when_an_absent_word_drops_out_in_float32,
    test_words_in_any_order_and_shape,
)

from seam_fast import Interrupted, LSTMClassifier, Settings, _ext, reengineer, reengineer_many
from seam_fast.backend import unavailable_reason
from seam_fast.classifier import inference
from seam_fast.search import module_run
from seam_fast.training import registry
from seam_fast.training.cuda_trainer import CudaTrainer

if unavailable_reason("cuda"):
    pytest.skip(f"needs a GPU and the CUDA kernels: {unavailable_reason('cuda')}", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("faults_show_where_they_arise")


# What is run here again asks these for the trainer.


@pytest.fixture
def kind():
    return "cuda"


@pytest.fixture(params=["cuda-quadrature", "graph"])
def make(request):
    return functools.partial(trainer_kinds.make_trainer, request.param)


@pytest.fixture
def in_one_call():
    return "cuda-quadrature"


@pytest.fixture
def unwatched():
    """Nobody watches."""


@pytest.fixture
def clusters():
    return True


@pytest.fixture
def tf32():
    before = torch.backends.cuda.matmul.allow_tf32
    yield functools.partial(setattr, torch.backends.cuda.matmul, "allow_tf32")
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def on_host(monkeypatch):
    """The ``lazy_update`` of the engine's trainers, in the order in which they are made."""
    trainers = []

    class Seen(CudaTrainer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            trainers.append(self.lazy_update)

    monkeypatch.setattr(registry, "TRAINERS", [Seen, *registry.TRAINERS[1:]])
    return trainers


KINDS = [*(f"cuda-{lazy_update}" for lazy_update in trainer_kinds.LAZY_UPDATES), "graph"]
each_kind = pytest.mark.parametrize("name", KINDS)


def again(name, **options):
    return train(name, (80, 50, 50, 8), count=60, batch_size=5, readout="last_word", **options)


# -- the numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_graphs_end_where_the_engine_of_the_cpu_ends(options):
    assert_near(train("graph", **options), train("cpu-quadrature", **options))


@pytest.mark.parametrize("penalty", skipped_steps.PENALTIES)
@pytest.mark.parametrize(("t", "counts"), skipped_steps.STARTS)
def test_skipped_steps_at_once_err_no_more_than_step_by_step(t, counts, penalty):
    check_skipped_steps("cuda", t, penalty, counts)


@pytest.mark.parametrize("readout", ["last_position", "last_word"])
def test_an_epoch_of_the_size_of_r8(readout):
    """A thousand steps, rows left alone for hundreds of them: as on the CPU, and replay bit for bit as dense."""
    options = {
        "sizes": (4000, 100, 50, 8),
        "count": 1500,
        "batch_size": 5,
        "readout": readout,
        "epochs": 3,
        "lr_mask": 0.001,
    }
    runs = {name: train(name, **options) for name in (*KINDS, "cpu-quadrature")}
    assert_same_run(runs["cuda-replay"], runs["cuda-off"])
    for name in ("cuda-quadrature", "cuda-replay", "graph"):
        assert_near(runs[name], runs["cpu-quadrature"], most=1e-3)


# -- again, beside others, in other streams ---------------------------------------------------------------------------


@each_kind
def test_every_run_gives_the_same_bits(name):
    first = again(name)
    for _ in range(5):
        assert_same_run(again(name), first)


@each_kind
def test_modules_beside_one_another_are_as_alone(name):
    """Each in a thread and a stream of its own, as `reengineer` has them."""
    settings = [{"schedule": schedule, "alpha": 0.1 * n} for n, schedule in enumerate(("seam", "port", "joint") * 4)]
    alone = [again(name, **options) for options in settings]

    def work(options):
        with torch.cuda.stream(torch.cuda.Stream()):
            return again(name, **options)

    with ThreadPoolExecutor(12) as pool:
        beside = list(pool.map(work, settings))
    for one, other in zip(alone, beside, strict=True):
        assert_same_run(one, other)


@pytest.mark.parametrize("name", ["cuda-quadrature", "graph"])
def test_it_runs_where_the_current_stream_is(name):
    """The stream is busy for a while before scores are there: whoever does not wait in line reads NaN."""
    documents = toy_data.make_documents(20)
    wanted, engine = build_in(name), build_in(name)
    for trainer in (wanted, engine):
        trainer.run_epoch(*documents, 4)
    scores = {key: score.clone() for key, score in engine.scores.items()}
    for score in engine.scores.values():
        score.fill_(float("nan"))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # clock cycles
        for key, score in engine.scores.items():
            score.copy_(scores[key])
        losses = engine.run_epoch(*documents, 4), engine.class_logits(*documents[:2])
    assert losses[0] == wanted.run_epoch(*documents, 4)
    assert torch.equal(losses[1], wanted.class_logits(*documents[:2]))
    side.synchronize()
    assert_same_bits(engine, wanted)


def build_in(name, **options):
    weights, head = toy_weights.make_weights(), toy_weights.make_head()
    return trainer_kinds.make_trainer(name, weights, head, torch.arange(15), **trainer_kinds.OPTIONS | options)


@pytest.mark.parametrize("name", ["cuda-quadrature", "graph"])
def test_nothing_stays_behind(name):
    again(name)
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        again(name)
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + (64 << 10)


# -- steps that the whole GPU takes -----------------------------------------------------------------------------------


@pytest.fixture
def wide():
    _ext.C.choose_steps("wide")
    yield
    _ext.C.choose_steps("automatic")


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("case", [*SMALL, *SHARED], ids=name_of)
def test_steps_of_the_whole_gpu(kind, case):
    check_drawn(kind, case)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("readout", ["last_position", "last_word"])
def test_batches_of_many_words(kind, readout):
    check_case(kind, (700, 20, 16, 4), toy_data.many_documents(), 40, readout=readout, steps=2)
    check_case(kind, (9000, 100, 50, 8), toy_data.many_documents(256, 64, 9000), 128, readout=readout, steps=2)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_epochs_by_the_whole_gpu_end_where_those_of_the_cpu_end(kind, options):
    assert_near(train(f"{kind}-quadrature", **options), train("cpu-quadrature", **options))
    assert_same_run(*(train(f"{kind}-{lazy_update}", **options) for lazy_update in ("replay", "off")))


@pytest.mark.parametrize("protocol", ["reference", "seam"])
def test_modules_in_the_same_launches_are_what_they_are_alone(toy, toy_base, monkeypatch, protocol):
    options = {"protocol": protocol, "epochs": 6, "batch_size": 8, "lr_mask": 0.05, "distill_weight": 0.0}
    settings = [Settings(**options, alpha=0.2 * (i + 1)) for i in range(9)]
    rows = reengineer_many(toy_base, toy, [0, 1], settings, backend="cuda")
    monkeypatch.setattr(module_run.ModuleRun, "launched", property(lambda job: False))
    alone = reengineer_many(toy_base, toy, [0, 1], settings, backend="cuda")
    for one, other in zip(itertools.chain(*rows), itertools.chain(*alone), strict=True):
        assert all(torch.equal(one.scores[key], other.scores[key]) for key in toy_weights.KEYS)
        assert all(torch.equal(*pair) for pair in zip(one.head, other.head, strict=True))


def test_what_a_base_says_by_one_call():
    weights = toy_weights.make_weights(torch.float32, sizes=(60, 5, 30, 4))
    ids, lengths, _ = toy_data.make_documents(900, 80, range(60))
    on_gpu = {key: weight.to(trainer_kinds.GPU) for key, weight in weights.items()}
    for readout in ("last_position", "last_word"):
        exact = inference.class_logits({key: weight.double() for key, weight in weights.items()}, ids, lengths, readout)
        ours, theirs = (
            inference.class_logits(on_gpu, ids, lengths, readout, "cuda"),
            inference.class_logits(weights, ids, lengths, readout),
        )
        floor = agreement.EPS * max(1, exact.abs().max().item())
        assert ours.device.type == "cpu"
        assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max() + floor


def test_how_many_modules_a_gpu_takes():
    weights = {key: weight.to(trainer_kinds.GPU) for key, weight in toy_weights.make_weights(torch.float32).items()}
    most = torch.cuda.get_device_properties(0).multi_processor_count
    assert 1 <= CudaTrainer.capacity(torch.device("cuda", 0), weights, 5) <= 16 * most


# -- the whole loop ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_layers", "bidirectional"), [(2, False), (1, True)])
def test_other_shapes_go_by_graphs(toy, num_layers, bidirectional):
    torch.manual_seed(0)
    shape = {"num_layers": num_layers, "bidirectional": bidirectional}
    base = LSTMClassifier(toy.vocab_size, 6, 5, toy.num_classes, readout="last_word", **shape)
    runs = [reengineer(base, toy, [0, (1, 3)], backend=backend, **QUICK) for backend in ("cuda", "cpu")]
    for ours, theirs in zip(*runs, strict=True):
        assert ours.card["engine"] == "cuda" and "lazy_update" not in ours.card
        for one, other in zip(ours.history, theirs.history, strict=True):
            assert one["cross_entropy"] == pytest.approx(other["cross_entropy"], abs=1e-4)
            assert one["kept"] == pytest.approx(other["kept"], abs=0.01)


def test_any_number_of_workers_gives_the_same_modules(toy, toy_base):
    targets = [0, 1, 2, 3, (0, 1), (2, 3)]
    runs = [reengineer(toy_base, toy, targets, backend="cuda", threads=n, **QUICK) for n in (1, 3, None)]
    for modules in itertools.islice(runs, 1, None):
        for one, other in zip(runs[0], modules, strict=True):
            assert all(torch.equal(one.scores[key], other.scores[key]) for key in toy_weights.KEYS)
            assert all(torch.equal(*pair) for pair in zip(one.head, other.head, strict=True))


def test_ctrl_c_carries_the_best_modules(toy, toy_base):
    seen = []

    def on_epoch(job, figures):
        seen.append(job)
        if len(set(seen)) == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        reengineer(toy_base, toy, [0, 1], backend="cuda", threads=2, on_epoch=on_epoch, **QUICK | {"epochs": 100_000})
    assert all(module is not None for module in caught.value.modules)
    torch.cuda.synchronize()
    assert len(reengineer(toy_base, toy, [0], backend="cuda", **QUICK)) == 1, "the GPU is free again"
