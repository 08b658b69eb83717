"""What a run does with real scores and with a size that is asked for, whatever trains it."""

import pytest
import torch
from support.toy_data import TINY

import seam_fast as sf
from seam_fast.cli.main import main
from seam_fast.errors import CheckpointError, TrainingError
from seam_fast.modules.mask import KeepMask
from seam_fast.modules.nested import cut
from seam_fast.modules.resize import CURVE_SHARES, figures_on_documents, validation_documents

RUN = {"steps": 60, "batch_size": 8, "lr_mask": 0.1, "threshold": "half"}


@pytest.fixture
def run(toy, base_and_backend):
    """Runs `reengineer` for class 1 by each engine, with the options given."""
    base, backend = base_and_backend

    def run_one(**options):
        (module,) = sf.reengineer(base, toy, [1], backend=backend, **RUN | options)
        return module

    return run_one


def test_the_scores_of_the_chosen_epoch_are_kept(run):
    """Also where it is not the last: whose mask they must give, which a run without scores has as bits."""
    options = {"selection": "reference", "alpha": 20.0, "lr_decay": "none"}  # so much that later epochs are worse
    plain, module = run(**options), run(**options, keep_scores=True)
    assert module.card["best_epoch"] == plain.card["best_epoch"] < module.card["epochs"] - 1
    assert module.mask == plain.mask
    assert all(torch.equal(*pair) for pair in zip(module.head, plain.head, strict=True))
    assert module.has_scores and not plain.has_scores
    values = torch.cat([score.flatten() for score in module.scores.values()])
    assert len(values.unique()) > 100
    assert module.metrics == plain.metrics
    assert [point.mask == other.mask for point, other in zip(module.front, plain.front, strict=True)]


def test_a_size_that_is_asked_for_is_met_to_the_weight(run):
    for keep in (0.05, 0.4):
        module = run(keep=keep, keep_scores=True, lr_mask=0.02)
        total = sum(score.numel() for score in module.scores.values())
        assert sum(module.mask.counts().values()) == round(keep * total)
        assert KeepMask.of_scores(module.scores) == module.mask
        assert module.history[module.card["best_epoch"]]["kept"] == pytest.approx(module.kept)
        held = [figures["kept_in_training"] for figures in module.history[len(module.history) * 7 // 10 :]]
        # Trained near its size, up to the steps of an epoch; among the lower scores of a toy many are equal, and no
        # shift tells those apart.
        assert max(abs(share - keep) for share in held) < 0.1 or keep == 0.4
        assert all(point.mask.kept() == module.kept for point in module.front if point.epoch)


def test_figures_of_a_size_are_those_of_its_module(run, toy):
    module = run(keep=0.2)
    figures = module.history[module.card["best_epoch"]]
    found = figures_on_documents(module, validation_documents(toy))
    for name in ("f1", "recall", "precision", "average_precision"):
        assert figures[name] == pytest.approx(found[name])


def test_the_curve_is_that_of_the_nested_modules(run, toy):
    module = run(keep_scores=True)
    curve = module.card["size_curve"]
    total = sum(score.numel() for score in module.scores.values())
    wanted = {max(1, round(share * total)) for share in CURVE_SHARES} | {round(module.kept * total)}
    assert [point["keep"] for point in curve] == [count / total for count in sorted(wanted)]
    for point in curve[:: len(curve) - 1]:
        small = module.resized(point["keep"])
        found = figures_on_documents(small, validation_documents(toy))
        assert {name: found[name] for name in point if name != "keep"} == {
            name: pytest.approx(value) for name, value in point.items() if name != "keep"
        }


def test_without_evaluation_there_is_no_curve(toy, toy_base):
    (module,) = sf.reengineer(toy_base, toy, [1], keep_scores=True, keep=0.1, evaluate_every=0, **RUN)
    assert module.has_scores and "size_curve" not in module.card
    assert module.kept == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize(
    "options", ({"protocol": "reference", "epochs": 1}, {"epochs": 0}, {"epochs": 0, "keep": (0.1, 0.2)})
)
def test_scores_that_were_never_stepped_have_no_curve(toy, toy_base, options):
    """Such as those of SeaM's first epoch, which steps the head alone, where that epoch is chosen."""
    (module,) = sf.reengineer(toy_base, toy, [1], keep_scores=True, **options)
    assert module.metrics["test"] and module.has_scores and "size_curve" not in module.card
    with pytest.raises(CheckpointError, match="does not know its scores"):
        module.resized(0.05)


@pytest.mark.parametrize("protocol", ("seam", "reference"))
@pytest.mark.parametrize("options", ({"selection": "last"}, {"schedule": "seam"}, {"schedule": "port"}))
def test_sizes_by_every_protocol(toy, toy_base, protocol, options):
    sampling = {"word_dropout": 0.0}
    (module,) = sf.reengineer(
        toy_base, toy, [2], protocol=protocol, epochs=12, batch_size=8, keep=0.1, **options, **sampling
    )
    assert module.kept == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("value", (0, -0.1, 1.5, "2%", float("nan"), True))
def test_sizes_that_cannot_be(value):
    with pytest.raises(TrainingError, match="keep is"):
        sf.Settings(keep=value)


def test_sized_snapshots_are_cuts_of_all_scores(toy, toy_base):
    """Which are looked at row by row: words that are not fed share one."""
    from support.scored_runs import begin_with_random_scores

    run, trainer = begin_with_random_scores(toy_base, toy, sf.Settings(**RUN), 0)
    trainer.scores["word_embeddings.weight"][-1] = 0.5  # kept, and equal in all words that are not fed
    trainer.load_state(0)
    for shared in (0.5, -9.0):
        trainer.scores["word_embeddings.weight"][-1] = shared
        scores = trainer.full_scores()[0]
        for count in (0, 1, 37, 111, run.context.total):
            assert trainer.sized_snapshots([count])[0].mask == cut(scores, count, "group")
    trainer.hold_size(37, 0)
    assert trainer.snapshot().mask == cut(scores, 37, "group")
    run.release()


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resizable(trained_once, tmp_path_factory):
    """A working folder with a module that knows its scores."""
    import shutil

    folder = tmp_path_factory.mktemp("resizable")
    shutil.copytree(trained_once, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        command = ["reengineer", *TINY, "--targets", "class1", "--steps", "60", "--keep", "20%", "--keep-scores"]
        assert main(command) == 0
    return folder


MODULE = "runs/tiny/modules/1-class1.safetensors"


def test_commands(resizable, monkeypatch, capsys):
    monkeypatch.chdir(resizable)
    base = sf.LSTMClassifier.load("runs/tiny/base.safetensors")
    module = sf.SeamModule.load(MODULE, base)
    assert module.kept == pytest.approx(0.2, abs=1e-3) and module.has_scores
    assert (resizable / "runs/tiny/targets_1/f1_against_size.png").stat().st_size > 1000
    assert main(["compact", MODULE, "--keep", "5%", "--out", "small.safetensors"]) == 0
    small = sf.CompactModule.load("small.safetensors")
    assert small.card["kept_weights"] == sum(module.resized(0.05).mask.counts().values())
    size = (resizable / "small.safetensors").stat().st_size
    assert main(["compact", MODULE, "--max-kb", f"{size / 1000 + 0.2}", "--out", "fits.safetensors"]) == 0
    assert (resizable / "fits.safetensors").stat().st_size <= size + 200
    capsys.readouterr()
    f1 = max(point["f1"] for point in module.card["size_curve"])
    corpus = ["--dataset", "tiny", "--data-dir", "corpus"]
    assert main(["compact", MODULE, "--min-f1", str(f1), *corpus, "--out", "good.safetensors"]) == 0
    assert sf.CompactModule.load("good.safetensors").card["kept"] > 0
    assert main(["compact", MODULE, "--min-f1", "1.5", *corpus]) == 1
    assert "min_f1 is 1.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--keep", "0"], 2, "'0' is no share of the weights"),
        (["--keep", "much"], 2, "'much' is no share of the weights"),
        (["--keep", "1%", "--max-kb", "3"], 2, "not allowed with"),
        (["--keep", "1%", "--data-dir", "corpus"], 1, "--data-dir has no effect without --min-f1"),
        (["--max-kb", "0.1"], 1, "no compact module of 0.1 kB can be made"),
    ],
)
def test_what_the_command_line_refuses(resizable, monkeypatch, capsys, flags, code, says):
    monkeypatch.chdir(resizable)
    try:
        found = main(["compact", MODULE, *flags])
    except SystemExit as end:
        found = end.code
    assert (found, says in capsys.readouterr().err) == (code, True)


def test_reuse_knows_whether_scores_are_kept(resizable, tmp_path, monkeypatch, capsys):
    import shutil

    shutil.copytree(resizable, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    command = ["reengineer", *TINY, "--targets", "class1", "--steps", "60", "--keep", "20%", "--reuse", "--no-plots"]
    assert main([*command, "--keep-scores"]) == 0
    assert "1 of 1 modules are there already" in capsys.readouterr().err
    assert main(command) == 0
    assert "already" not in capsys.readouterr().err
    base = sf.LSTMClassifier.load("runs/tiny/base.safetensors")
    with pytest.raises(CheckpointError, match="does not know its scores"):
        sf.SeamModule.load(MODULE, base).resized(0.05)
