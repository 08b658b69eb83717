"""Training for several sizes: turns, the cuts that are evaluated, the choice among epochs, and the one file."""

import json
import shutil

import pytest
import torch
from support.toy_data import TINY

import seam_fast as sf
from seam_fast.cli.main import main
from seam_fast.errors import CheckpointError, TrainingError
from seam_fast.modules.mask import KeepMask
from seam_fast.modules.nested import cut, share_count, shifted
from seam_fast.modules.resize import figures_on_documents, validation_documents
from seam_fast.search.held_sizes import HOLD, HeldSizes, even_shift, turns
from seam_fast.search.selection import F1Selection, over_sizes

SIZES = (0.05, 0.1, 0.3)
RUN = {"steps": 60, "batch_size": 8, "lr_mask": 0.03, "keep": SIZES}


@pytest.fixture
def run(toy, base_and_backend):
    """Runs `reengineer` for class 1 by each engine, with the options given."""
    base, backend = base_and_backend

    def run_one(**options):
        (module,) = sf.reengineer(base, toy, [1], backend=backend, **RUN | options)
        return module

    return run_one


# -- whose turn it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "wanted"),
    [
        ((1,), (1,)),
        ((1, 2), (1, 2)),
        ((1, 2, 3), (1, 3, 2)),
        ((1, 2, 3, 4), (1, 4, 2, 3)),
        ((1, 2, 3, 4, 5), (1, 5, 2, 4, 3)),
    ],
)
def test_turns_go_from_outside_in(shares, wanted):
    assert turns(shares) == wanted


def test_from_the_hold_on_each_size_has_every_nth_epoch():
    sizes, total = HeldSizes(SIZES, 10_000, 50), 10_000
    kept = [0.9] * 50
    found = [sizes.after(epoch, kept[: epoch + 1]) for epoch in range(49)]
    first = next(epoch for epoch, count in enumerate(found) if count is not None)
    assert (first + 1) / 50 >= HOLD[0] > first / 50
    held = [count for epoch, count in enumerate(found) if (epoch + 1) / 50 >= HOLD[1]]
    assert {share_count(share, total) for share in SIZES} == set(held)
    assert all(held[k] == held[k % 3] for k in range(len(held)))
    # Before, all are somewhere between where the module stood and their own size.
    between = [(epoch, count) for epoch, count in enumerate(found[:29]) if count is not None]
    assert all(SIZES[0] * total < count < 9000 for epoch, count in between)


def test_a_single_size_is_come_to_from_where_the_module_stands():
    """As it was when there was but one."""
    sizes = HeldSizes((0.02,), 10_000, 40)
    assert sizes.after(16, [*[0.9] * 16, 0.5]) == round(10_000 * 0.5**0.5 * 0.02**0.5)
    assert sizes.after(30, [0.5] * 31) == 200


@pytest.mark.parametrize("keep", (0.1, SIZES))
def test_ctrl_c_before_an_evaluation_gives_the_latest_module(toy, toy_base, keep):
    """And not the first epoch's, whose scores have hardly moved."""

    def interrupt(run, figures):
        if figures["epoch"] == 20:
            raise KeyboardInterrupt

    options = RUN | {"keep": keep, "keep_scores": True, "epochs": 40, "steps": None}
    with pytest.raises(KeyboardInterrupt) as caught:
        sf.reengineer(toy_base, toy, [1], on_epoch=interrupt, **options)
    (module,) = caught.value.modules
    assert module.card["interrupted"] and module.card["best_epoch"] == module.card["epochs"] - 1 >= 20
    assert module.kept == pytest.approx(0.1 if keep == 0.1 else SIZES[-1], abs=1e-3)
    assert "unsettled" in module.card["marks"]
    assert len(torch.cat([score.flatten() for score in module.scores.values()]).unique()) > 50


# -- modules ----------------------------------------------------------------------------------------------------------


def test_one_file_for_all_sizes(run, toy, tmp_path):
    module = run()
    total = sum(score.numel() for score in module.scores.values())
    assert module.has_scores and module.card["keep_scores"] is True and module.card["size_order"] == "group"
    assert sum(module.mask.counts().values()) == share_count(SIZES[-1], total)
    assert KeepMask.of_scores(module.scores) == module.mask
    assert all(point.mask.kept() == module.kept for point in module.front if point.epoch)
    figures = module.history[module.card["best_epoch"]]
    documents = validation_documents(toy)
    smaller = None
    for share in SIZES:
        one = module.resized(share)  # the very masks that chose the epoch
        assert sum(one.mask.counts().values()) == share_count(share, total)
        assert "size_order" not in one.card
        assert figures["f1_by_size"][str(share)] == pytest.approx(figures_on_documents(one, documents)["f1"])
        if smaller is not None:
            assert all(not (smaller.mask.dense(key) & ~one.mask.dense(key)).any() for key in one.mask.shapes)
        smaller = one
    assert figures["f1"] == figures["f1_by_size"]["0.3"]
    assert figures["mean_f1"] == pytest.approx(sum(figures["f1_by_size"].values()) / 3)
    assert {share_count(share, total) / total for share in SIZES} <= {p["keep"] for p in module.card["size_curve"]}
    module.save(tmp_path / "module.safetensors")
    again = sf.SeamModule.load(tmp_path / "module.safetensors", module.base)
    assert all(again.resized(share).mask == module.resized(share).mask for share in SIZES[:2])


def test_the_best_mean_is_chosen(toy, toy_base, monkeypatch):
    """Not the best at the size that the module has; and only epochs are judged at whose end all have had their turn."""
    largest, plain = [], HeldSizes.cut

    def cut_with(self, *given):
        found = plain(self, *given)
        number = len(largest)
        for k, each in enumerate(found.figures):
            each |= {"recall": 0.9, "specificity": 0.9}
            each["f1"] = 0.5 + 0.01 * number if k < 2 else 0.9 - 0.015 * number  # the mean rises, the last falls
        largest.extend(each["f1"] for each in found.figures[-1:])
        return found

    monkeypatch.setattr(HeldSizes, "cut", cut_with)
    (module,) = sf.reengineer(toy_base, toy, [1], backend="torch", **RUN | {"steps": 126}, min_epoch_fraction=0.5)
    assert len(module.history) == 21
    late = [one for one in module.history if "mean_f1" in one]
    assert [one["epoch"] for one in late] == [11, 14, 17, 20]
    assert module.card["best_epoch"] == late[-1]["epoch"] and all(one["best_so_far"] for one in late)
    assert [one["f1"] for one in late] == largest == sorted(largest, reverse=True)


def test_no_output_is_computed_twice(toy, toy_base, monkeypatch):
    """The trainer's own module, which is not of the size, is not evaluated; its cut is, once for each size; by several
    sizes training documents are read as well.
    """
    from seam_fast.search import held_sizes
    from seam_fast.training.torch_trainer import TorchTrainer

    calls, plain = [], held_sizes.class_logits
    monkeypatch.setattr(held_sizes, "class_logits", lambda *given: calls.append(1) or plain(*given))
    asked = []
    take = TorchTrainer.take_epoch

    def take_epoch(self, *given, **options):
        asked.append(options["evaluated_on"])
        return take(self, *given, **options)

    monkeypatch.setattr(TorchTrainer, "take_epoch", take_epoch)
    for keep, count in ((0.1, 1), (SIZES, 6)):
        calls.clear()
        (module,) = sf.reengineer(toy_base, toy, [1], backend="torch", **RUN | {"keep": keep})
        evaluated = sum("f1" in one for one in module.history)
        assert evaluated > 1 and len(calls) == count * evaluated and not any(asked)
    asked.clear()
    sf.reengineer(toy_base, toy, [1], backend="torch", **RUN | {"keep": 1.0, "selection": "last"})
    assert not any(asked)


@pytest.mark.parametrize("options", ({"selection": "last"}, {"schedule": "seam"}, {"schedule": "port"}))
@pytest.mark.parametrize("protocol", ("seam", "reference"))
def test_by_every_protocol(toy, toy_base, protocol, options):
    more = {"selection": "f1", "word_dropout": 0.0, "batch_size": 8, "epochs": 12} | options
    (module,) = sf.reengineer(toy_base, toy, [2], protocol=protocol, keep=SIZES, **more)
    assert module.kept == pytest.approx(SIZES[-1], abs=1e-3) and module.has_scores


def test_without_evaluation(toy, toy_base):
    (module,) = sf.reengineer(toy_base, toy, [1], evaluate_every=0, **RUN)
    assert module.has_scores and "size_curve" not in module.card
    assert module.kept == pytest.approx(SIZES[-1], abs=1e-3)
    assert module.resized(0.1).kept == pytest.approx(0.1, abs=1e-3)
    assert set(module.card["size_shifts"]) == {"0.05", "0.1", "0.3"}  # fitted on training documents


def test_each_size_expects_as_many_targets_as_there_are(run, toy):
    """By a shift of its own, fitted on training documents of the chosen epoch; between two sizes it lies between."""
    from seam_fast.search.sampling import Sampler

    sizes = (0.3, 0.5, 0.8)
    module = run(keep=sizes, steps=200, lr_head=0.1, alpha=0.0)
    figures = module.history[module.card["best_epoch"]]
    sampler = Sampler(toy, training_indices(toy), module.target, sf.Settings(**module.card["settings"]), 0)
    split, wanted = sampler.as_they_are(module.card["best_epoch"])
    assert 0 < int(wanted.sum()) < len(wanted)
    shifts = module.card["size_shifts"]
    assert shifts == figures["shift_by_size"] and list(shifts) == ["0.3", "0.5", "0.8"]
    assert shifts["0.8"] == 0 and (abs(shifts["0.3"]) > 0.01 or module.base.num_layers == 2)
    for share in sizes:
        probability = module.resized(share)(split.ids, split.lengths)
        assert float(probability.sum()) == pytest.approx(int(wanted.sum()), abs=1e-3)
    bias = {share: float(module.resized(share).head[1][0] - module.head[1][0]) for share in (0.1, 0.3, 0.4, 0.5, 0.9)}
    assert bias[0.3] == bias[0.1] == pytest.approx(shifts["0.3"], abs=1e-5) and bias[0.9] == 0
    assert min(bias[0.3], bias[0.5]) <= bias[0.4] <= max(bias[0.3], bias[0.5])
    by_scores = module.resized(0.3, order="global")  # in which it was not trained
    assert all(torch.equal(*pair) for pair in zip(by_scores.head, module.head, strict=True))


def test_the_epoch_is_judged_with_the_shifts(toy, toy_base, monkeypatch):
    from seam_fast.search import held_sizes

    monkeypatch.setattr(held_sizes, "even_shift", lambda margins, wanted: 100.0)  # yes to everything
    (module,) = sf.reengineer(toy_base, toy, [1], backend="torch", **RUN)
    late = [one for one in module.history if "mean_f1" in one]
    assert late and all((one["recall"], one["specificity"]) == (1, 0) for one in late)
    assert all(len(set(one["f1_by_size"].values())) == 1 for one in late) and not module.card["qualified"]
    assert module.metrics["test"]["recall"] == 1 and module.metrics["test"]["specificity"] == 0


def training_indices(corpus):
    """Indices of the documents that modules are trained on."""
    return corpus.validation_indices()[0]


@pytest.mark.parametrize("shares", ({"much": 1}, {"0.1": "x"}, {"0.1": float("nan")}, {"-1": 0.1}, [1, 2], 7))
def test_shifts_that_are_damaged(toy, toy_base, shares):
    (module,) = sf.reengineer(toy_base, toy, [1], **RUN)
    module.card["size_shifts"] = shares
    with pytest.raises(CheckpointError, match="the size_shifts on this module's card are damaged"):
        module.resized(0.05)


def test_a_shift_is_even():
    margins = torch.tensor([-3.0, -2.0, 0.5, 4.0, -9.0], dtype=torch.float64)
    wanted = torch.tensor([True, True, False, True, False])
    shift = even_shift(margins, wanted)
    assert float((margins + shift).sigmoid().sum()) == pytest.approx(3, abs=1e-9)
    loss = [
        float(torch.nn.functional.binary_cross_entropy_with_logits(margins + shift + d, wanted.double()))
        for d in (-0.01, 0, 0.01)
    ]
    assert loss[1] < min(loss[0], loss[2])
    assert even_shift(margins, torch.ones(5, dtype=torch.bool)) == 0 == even_shift(margins, ~torch.ones(5).bool())


def test_cuts_of_a_state_are_cuts_of_the_largest(toy, toy_base):
    """As ``resized`` makes them of the module, whose groups have the proportions of the largest size."""
    from support.scored_runs import begin_with_random_scores

    run, trainer = begin_with_random_scores(toy_base, toy, sf.Settings(**RUN), 1)
    counts = [9, 40, 131]
    for shared in (0.5, -9.0):
        trainer.scores["word_embeddings.weight"][-1] = shared
        trainer.load_state(0)
        *small, largest = trainer.sized_snapshots(counts)
        scores = shifted(trainer.full_scores()[0], largest.mask)
        assert largest.mask == cut(trainer.full_scores()[0], counts[-1], "group")
        for count, one in zip(counts, small, strict=False):
            assert one.mask == cut(scores, count, "group")
    run.release()


# -- the choice -------------------------------------------------------------------------------------------------------


def figures_of(f1, recall, specificity):
    return {"f1": f1, "recall": recall, "specificity": specificity}


def test_an_epoch_is_judged_by_its_mean_and_by_its_worst_size():
    found = over_sizes([figures_of(0.8, 0.9, 0.9), figures_of(0.4, 0.7, 0.5), figures_of(0.6, 0.8, 0.8)])
    assert found == {"f1": pytest.approx(0.6), "recall": 0.7, "specificity": 0.5}
    # That always says no has recall + specificity = 1, which is more than a bad one's.
    assert over_sizes([figures_of(0, 0, 1), figures_of(0.9, 1, 0.9)])["recall"] == 0


def test_an_epoch_with_a_constant_size_loses_to_one_without():
    rule = F1Selection()
    assert rule.offer({"epoch": 0} | over_sizes([figures_of(0.3, 0.5, 0.6), figures_of(0.3, 0.5, 0.6)]))
    assert not rule.offer({"epoch": 1} | over_sizes([figures_of(0, 0, 1), figures_of(0.99, 1, 1)]))
    assert rule.qualified


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ((0.02, 0.01), r"keep is \(0.02, 0.01\); several sizes must rise, each given once"),
        ((0.01, 0.01), "must rise, each given once"),
        ((), "must rise"),
        ((0, 0.1), "keep is 0; it must be more than 0"),
        ((0.1, 1.5), "keep is 1.5; it must be a number, between 0 and 1|keep is 1.5; it must be between 0 and 1"),
        ((0.1, "2%"), "keep is '2%'; it must be a number"),
        ((0.1, float("nan")), "keep is nan; it must be a finite number"),
        ((0.1, (0.2, 0.3)), r"keep is \(0.2, 0.3\); it must be a number"),
    ],
)
def test_sizes_that_cannot_be(value, says):
    with pytest.raises(TrainingError, match=says):
        sf.Settings(keep=value)


def test_the_reference_s_rule_weighs_one_size():
    with pytest.raises(TrainingError, match="keep has several sizes, and selection 'reference' weighs accuracy"):
        sf.Settings("reference", keep=SIZES)
    with pytest.raises(TrainingError, match="keep has several sizes"):
        sf.Settings(keep=SIZES).with_options(selection="reference")
    assert sf.Settings("reference", keep=0.1).keep == 0.1


def test_settings_with_sizes():
    settings = sf.Settings(keep=[0.01, 0.02])
    assert settings.keep == settings.sizes == (0.01, 0.02) and hash(settings)
    assert sf.Settings(**json.loads(json.dumps(settings.as_dict()))) == settings
    assert settings.as_dict() == json.loads(json.dumps(settings.as_dict()))
    assert sf.Settings(keep=(0.02,)) == sf.Settings(keep=0.02)
    assert sf.Settings(keep=0.02).sizes == (0.02,) and sf.Settings().sizes == ()


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def working(trained_once, tmp_path_factory):
    """A working folder with a module for several sizes."""
    folder = tmp_path_factory.mktemp("sizes")
    shutil.copytree(trained_once, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(COMMAND) == 0
    return folder


COMMAND = ["reengineer", *TINY, "--targets", "class1", "--steps", "60", "--keep", "5%, 10%,30%", "--no-plots"]
MODULE = "runs/tiny/modules/1-class1.safetensors"


def test_commands(working, monkeypatch, capsys):
    monkeypatch.chdir(working)
    module = sf.SeamModule.load(MODULE, sf.LSTMClassifier.load("runs/tiny/base.safetensors"))
    assert module.kept == pytest.approx(0.3, abs=1e-3) and module.card["settings"]["keep"] == list(SIZES)
    assert main(["compact", MODULE, "--keep", "5%", "--out", "small.safetensors"]) == 0
    small = sf.CompactModule.load("small.safetensors")
    assert small.card["kept_weights"] == sum(module.resized(0.05, order="group").mask.counts().values())
    capsys.readouterr()
    for more in ([], ["--keep-scores"]):  # which says nothing new
        assert main([*COMMAND, *more, "--reuse"]) == 0
        assert "1 of 1 modules are there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keep", "code", "says"),
    [
        ("5%,much", 2, "'much' is no share of the weights"),
        ("5%,", 2, "'' is no share of the weights"),
        ("30%,5%", 1, "several sizes must rise, each given once"),
    ],
)
def test_what_the_command_line_refuses(working, monkeypatch, capsys, keep, code, says):
    monkeypatch.chdir(working)
    try:
        found = main([*COMMAND[:-3], "--keep", keep])
    except SystemExit as end:
        found = end.code
    assert (found, says in capsys.readouterr().err) == (code, True)
