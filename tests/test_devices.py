"""Training on GPUs as far as Python has it, on invented ones: who trains where, in what number, and what is said.

The GPUs are memory on the CPU with a device's name, their trainer is the one in plain PyTorch. Real ones: test_cuda.py.
"""

import copy
import gc
import importlib
import threading

import pytest
import torch
from support import toy_weights
from support.agreement import assert_same
from support.fake_gpus import GB

from seam_fast import Interrupted, LSTMClassifier, Settings, TrainingError, backend, reengineer
from seam_fast.classifier import inference
from seam_fast.cli.main import main
from seam_fast.search import auto_engine, context, module_run, workers
from seam_fast.training import cuda_graph_trainer, devices, gpu_memory
from seam_fast.training import streams as streams_module

loop = importlib.import_module("seam_fast.search.reengineer")  # the package gives that name to the function
QUICK = {"epochs": 3, "batch_size": 8, "lr_mask": 0.1, "distill_weight": 0.0}


def run(base, corpus, targets, **options):
    return reengineer(base, corpus, targets, **QUICK | options)


def meet(count):
    """A first epoch that begins when so many trainers are in theirs, and fails where they do not come together."""
    barrier, met = threading.Barrier(count, timeout=20), set()

    def in_epoch(trainer):
        if id(trainer) not in met:
            met.add(id(trainer))
            barrier.wait()

    return in_epoch


# -- who trains where -------------------------------------------------------------------------------------------------


def test_modules_are_dealt_out_over_all_gpus(toy, toy_base, gpus):
    gpus.in_epoch = meet(4)
    modules = run(toy_base, toy, [0, 1, 2, 3])
    assert [module.target for module in modules] == [(0,), (1,), (2,), (3,)]
    assert sorted(index for index, *_ in gpus.seen) == [0, 0, 1, 1]
    assert len({stream for _, stream, *_ in gpus.seen}) == 4, "each in a stream of its own"
    assert all(stream[0] == index for index, stream, *_ in gpus.seen)
    assert sorted(gpus.copies) == [0, 1], "the base is copied once to each"


def test_few_modules_are_spread(toy, toy_base, gpus):
    gpus.at_once, gpus.in_epoch = [100, 100], meet(2)
    run(toy_base, toy, [0, 1])
    assert sorted(index for index, *_ in gpus.seen) == [0, 1]


def test_one_module_leaves_the_other_gpu_alone(toy, toy_base, gpus):
    run(toy_base, toy, [2], threads=7)
    assert [index for index, *_ in gpus.seen] == [0] == gpus.copies


def test_more_modules_than_workers_wait_for_their_turn(toy, toy_base, gpus):
    gpus.at_once = [1, 2]
    targets = [0, 1, 2, 3, (0, 1), (0, 2), (0, 3), (1, 2)]
    modules = run(toy_base, toy, targets)
    assert len(modules) == len(gpus.seen) == 8
    assert gpus.most[0] == 1 and gpus.most[1] <= 2
    assert len({stream for _, stream, *_ in gpus.seen}) <= 3, "a worker keeps its stream"


def test_threads_are_the_most_there_are(toy, toy_base, gpus):
    run(toy_base, toy, [0, 1, 2, 3], threads=1)
    assert [index for index, *_ in gpus.seen] == [0] * 4 and gpus.most == {0: 1}


def test_the_longest_goes_first(toy, toy_base, gpus):
    order = []
    run(
        toy_base,
        toy,
        [3, 0, 2],
        threads=1,
        sampling="balanced",
        batch_size=2,
        on_epoch=lambda job, _: order.append(job.target[0]),
    )
    assert list(dict.fromkeys(order)) == [0, 2, 3]


def make_jobs(base, corpus, targets, **options):
    search = context.SearchContext(base, corpus, Settings(**QUICK | options), "cuda")
    return [module_run.ModuleRun(search, loop.normalise_target(target, 4), 0, 1) for target in targets]


def indices(jobs, threads=None):
    return [worker.device.index for worker in workers.workers_for(jobs, threads)]


def test_workers_are_as_many_as_a_gpu_trains_at_once_and_has_memory_for(toy, toy_base, gpus):
    jobs = make_jobs(toy_base, toy, [0, 1, 2, 3] * 3)
    rows = max(len(job.sampler.fed_ids()) for job in jobs)
    need = gpu_memory.module_bytes(toy_base.weights(), rows, 8, toy.train.ids.shape[1])
    assert indices(jobs) == [0, 1, 0, 1]
    gpus.at_once = [3, 5]
    assert indices(jobs) == [0, 1, 0, 1, 0, 1, 1, 1]
    assert indices(jobs, threads=6) == [0, 1, 0, 1, 0, 1]
    assert indices(jobs[:3]) == [0, 1, 0]
    gpus.free = [80 * GB, int(2.5 * need)]
    assert indices(jobs) == [0, 1, 0, 1, 0]
    gpus.free, gpus.cached = [0, need], [0, int(1.3 * need)]  # what torch has kept counts
    assert indices(jobs) == [1, 1]
    gpus.free, gpus.cached = [need // 3, need // 2], [0, 0]  # one is always tried, where there is most room
    assert indices(jobs) == [1]
    gpus.free = [need // 3, 3 * need]  # and a full one does not keep a single module from the other
    assert indices(jobs[:1]) == [1]


def test_no_gpu_suits_the_base(toy, toy_base, gpus):
    gpus.at_once = [0, 0]
    with pytest.raises(TrainingError, match="no GPU here can train modules of this base; choose backend 'cpu'"):
        indices(make_jobs(toy_base, toy, [0]))


def test_a_gpu_that_cannot_do_it_is_left_out(toy, toy_base, gpus, monkeypatch):
    jobs = make_jobs(toy_base, toy, [0, 1, 2, 3])
    gpus.at_once = [0, 3]
    assert indices(jobs) == [1, 1, 1]
    gpus.at_once = [4, 4]
    monkeypatch.setattr(backend, "is_supported_gpu", lambda index: index == 1)
    assert indices(jobs) == [1] * 4


def test_no_room_for_the_base_is_a_sentence(toy, toy_base, gpus, monkeypatch):
    def full(device, weights):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(context, "copied_to", full)
    with pytest.raises(TrainingError, match=r"no GPU has room for the base and a module; .* choose backend 'cpu'"):
        run(toy_base, toy, [0])


def test_no_targets_no_gpus(toy, toy_base, gpus):
    assert run(toy_base, toy, []) == [] and gpus.copies == []


def test_streams_are_others_as_long_as_there_are_any(gpus):
    for count in (1, 32, 33, 128):
        torch.cuda.Stream(1)  # torch's round does not begin with us
        streams = streams_module.own_streams(1, count)
        assert len(streams) == len({stream.cuda_stream for stream in streams}) == count
    streams = streams_module.own_streams(0, 200)
    assert len(streams) == 200 and len({stream.cuda_stream for stream in streams}) == 128


def test_streams_of_workers_that_are_no_more_come_first(gpus):
    """cuBLAS keeps scratch for each stream that it has ever worked in: many runs are to have no more than one has."""
    used, held = set(), devices.gpu_workers({0: 2, 1: 1})
    for _ in range(20):
        others = devices.gpu_workers({0: 3, 1: 1})
        streams = {worker.stream.cuda_stream for worker in others}
        assert len(streams) == 4 and streams.isdisjoint(worker.stream.cuda_stream for worker in held)
        used |= streams
        del others[1:], others
    assert len(used) == 4
    many = devices.gpu_workers({0: 200})
    del many[:100]
    assert len({stream.cuda_stream for stream in streams_module.own_streams(0, 128)}) == 128
    assert streams_module._idle[0] == [], "some workers still hold the streams that all of them have"


def test_the_memory_of_a_module():
    """Not less than scores and Adam's means take, and with R8's sizes about a quarter of a gigabyte."""
    small, long = (gpu_memory.module_bytes(toy_weights.make_weights(torch.float32), rows, 5, 32) for rows in (10, 1000))
    assert long - small == 3 * 4 * 990 * toy_weights.E
    r8 = toy_weights.make_weights(torch.float32, sizes=(23_590, 100, 50, 8))
    assert 3 * 4 * 11_445 * 100 < gpu_memory.module_bytes(r8, 11_444, 5, 32) < 300e6
    double = {key: weight.double() for key, weight in r8.items()}
    assert gpu_memory.module_bytes(double, 11_444, 5, 32) > gpu_memory.module_bytes(r8, 11_444, 5, 32)
    deep = toy_weights.make_deep_weights(2, True, torch.float32, sizes=(23_590, 100, 50, 8))
    assert gpu_memory.module_bytes(deep, 11_444, 128, 64) > gpu_memory.module_bytes(r8, 11_444, 128, 64)


# -- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"distill_weight": 0.4}, {"protocol": "reference", "schedule": "seam"}])
def test_the_same_modules_by_any_number_of_workers(toy, toy_base, gpus, options):
    targets = [0, 1, 2, 3, (0, 1)]
    wanted = run(toy_base, toy, targets, backend="torch", **options)
    for at_once, threads in (([1, 1], 1), ([1, 1], None), ([4, 4], None), ([1, 4], 3)):
        gpus.at_once = at_once
        for one, other in zip(wanted, run(toy_base, toy, targets, threads=threads, **options), strict=True):
            assert_same(one, other)


def test_the_teacher_reads_the_base_where_the_module_is_trained(toy, toy_base, gpus, monkeypatch):
    asked, plain = [], context.class_logits
    monkeypatch.setattr(context, "class_logits", lambda weights, *rest: asked.append(weights) or plain(weights, *rest))
    run(toy_base, toy, [0, 1], distill_weight=0.4, evaluate_every=0)
    assert {weights[toy_weights.EMBEDDING].on for weights in asked} == {0, 1} and len(asked) == 6


def test_auto_takes_the_gpus(toy, toy_base, gpus, monkeypatch):
    (module,) = run(toy_base, toy, [1])
    assert module.card["engine"] == "cuda" and len(gpus.seen) == 1
    run(toy_base, toy, [1], backend="torch")
    monkeypatch.setattr(backend, "unavailable_reason", lambda name: "it rains" if name != "torch" else "")
    (module,) = run(toy_base, toy, [1])
    assert module.card["engine"] == "torch" and len(gpus.seen) == 1


def test_which_trainer_and_what_the_card_says(toy, toy_base, gpus):
    deep = LSTMClassifier(toy.vocab_size, 6, 5, 4, readout="last_word", num_layers=2)
    double = copy.deepcopy(toy_base).double()
    for base, unavailable_reason, trainer in (
        (toy_base, "", ("CudaTrainer", "replay", None)),
        (toy_base, "it has too many units", ("CudaGraphTrainer", None, "cuda")),
        (deep, "", ("CudaGraphTrainer", None, "cuda")),
        (double, "", ("CudaGraphTrainer", None, "cuda")),
    ):
        gpus.seen.clear()
        gpus.unavailable_reason = unavailable_reason
        (module,) = run(base, toy, [1], epochs=1, lazy_update="replay")
        assert [seen[2:] for seen in gpus.seen] == [trainer]
        wanted, other = auto_engine.engines_on_card(base.weights(), "auto", "replay", 8)
        assert wanted == {"engine": "cuda", "lazy_update": trainer[1]} and other["engine"] == "cpu"
        assert auto_engine.engines_on_card(base.weights(), "cuda", "replay", 8) == [wanted]
        assert {key: module.card.get(key) for key in wanted} == wanted


def test_modules_that_are_stepped_share_a_gpu_too(toy, toy_base, gpus):
    """Their number is no matter of resident blocks."""
    gpus.unavailable_reason, gpus.at_once = "it has too many units", [0, 0]
    assert indices(make_jobs(toy_base, toy, [0, 1, 2, 3] * 5)).count(0) == cuda_graph_trainer.SIDE_BY_SIDE


def test_the_head_may_be_on_the_gpu_and_the_module_is_not(toy, toy_base, gpus):
    (module,) = run(toy_base, toy, [1])
    assert all(part.device.type == "cpu" for part in (*module.head, *module.scores.values()))
    assert module.front[0].module().head[0].device.type == "cpu"


# -- what goes wrong --------------------------------------------------------------------------------------------------


ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of ..."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
)


@pytest.mark.parametrize("error", ERRORS, ids=["torch", "cuda", "cublas"])
def test_a_gpu_without_memory_fails_one_module_and_says_what_to_do(toy, toy_base, gpus, error):
    failed = []

    def in_epoch(trainer):
        if not failed:
            failed.append(trainer.index)
            raise type(error)(*error.args)

    gpus.in_epoch = in_epoch
    with pytest.raises(TrainingError) as caught:
        run(toy_base, toy, [0, 1, 2, 3])
    modules = caught.value.modules
    (bad,) = (number for number, module in enumerate(modules) if module is None)
    assert str(caught.value) == (
        f"target k{bad}: no memory was left on cuda:{failed[0]}, where up to 2 modules were trained at once; "
        "give fewer threads (--threads) than the 4 of this run"
    )
    assert all(len(module.history) == 3 for module in modules if module is not None)
    gc.collect()
    assert all(trainer() is None for trainer in gpus.trainers), "nobody holds the memory"


def test_a_gpu_without_memory_for_a_single_module(toy, toy_base, gpus):
    def in_epoch(trainer):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    gpus.in_epoch = in_epoch
    with pytest.raises(TrainingError, match="where one module was trained at once; choose a smaller batch_size"):
        run(toy_base, toy, [0, 1], threads=1)


def test_the_memory_of_a_failed_module_is_free_at_once(toy, toy_base, gpus):
    """Not only when all have ended: the next module needs it."""
    alive = []

    def in_epoch(trainer):
        alive.append(sum(other() is not None for other in gpus.trainers))
        if len(alive) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    gpus.in_epoch = in_epoch
    with pytest.raises(TrainingError, match="no memory"):
        run(toy_base, toy, [0, 1], threads=1)
    assert alive == [1] * 4


def test_another_error_is_not_taken_for_a_lack_of_memory(toy, toy_base, gpus):
    def in_epoch(trainer):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    gpus.in_epoch = in_epoch
    with pytest.raises(RuntimeError, match="target k1 failed") as caught:
        run(toy_base, toy, [1])
    assert "illegal" in str(caught.value.__cause__)


def test_ctrl_c_carries_the_best_modules_of_all_gpus(toy, toy_base, gpus):
    gpus.in_epoch = meet(2)

    def on_epoch(job, figures):
        if len({trained.target for trained in begun}) < 2:
            begun.append(job)
        else:
            raise KeyboardInterrupt

    begun, threads = [], set(threading.enumerate())
    with pytest.raises(Interrupted) as caught:
        run(toy_base, toy, [0, 1, 2], threads=2, epochs=20_000, on_epoch=on_epoch)
    assert sorted(module is not None for module in caught.value.modules) == [False, True, True]
    assert set(threading.enumerate()) <= threads, "no worker is left behind"


# -- the command line, and the base on a GPU --------------------------------------------------------------------------


def test_the_command_line_reuses_what_a_gpu_has_made(gpus, tmp_path, monkeypatch, capsys):
    from support.toy_data import TINY, write_corpus

    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus", "tiny")
    assert main(["train", *TINY, "--epochs", "1"]) == 0
    command = ["reengineer", *TINY, "--steps", "4", "--reuse", "--no-plots", "--targets", "1,2"]
    assert main([*command, "--backend", "cuda"]) == 0
    assert main(command) == 0
    assert "2 of 2 modules are there already" in capsys.readouterr().err and len(gpus.seen) == 2
    assert main([*command, "--lazy-update", "replay"]) == 0
    gpus.unavailable_reason = "it has too many units"
    assert main(command) == 0
    assert [seen[2:4] for seen in gpus.seen[2:]] == [("CudaTrainer", "replay")] * 2 + [("CudaGraphTrainer", None)] * 2


@pytest.mark.parametrize("shape", [(1, False), (2, False), (1, True), (2, True)])
@pytest.mark.parametrize("readout", ["last_word", "last_position"])
def test_the_base_by_the_op_says_what_it_says_by_torch(toy, monkeypatch, shape, readout):
    """As on a GPU, with the kernels of the CPU."""
    weights = toy_weights.make_deep_weights(*shape, sizes=(toy.vocab_size, 6, 5, 4))
    wanted = inference.class_logits(weights, toy.train.ids, toy.train.lengths, readout)
    calls, op = [], inference.masked_lstm

    def masked_lstm(*arguments, backend, **options):
        calls.append(backend)
        return op(*arguments, **options, backend="auto")

    monkeypatch.setattr(inference, "masked_lstm", masked_lstm)
    monkeypatch.setattr(inference, "has_kernels", lambda device: True)
    torch.testing.assert_close(inference.class_logits(weights, toy.train.ids, toy.train.lengths, readout), wanted)
    assert calls == ["cuda"]
