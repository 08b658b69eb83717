"""``seam-fast core``: trains modules with several seeds and finds what they have in common."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...common.progress import say
from ...data.corpus import Corpus
from ...errors import TrainingError
from ...modules.seam_module import SeamModule
from ...modules.stable_core import StableCore, seed_interval
from ...search import reengineer
from ...search.evaluate import figures_on_test
from ...training.devices import ask_for_queues
from .. import report
from ..bases import describe_base, load_base
from ..corpora import corpus_for_base
from ..corpus_choice import data_file, dataset_name
from ..disk import check_room, check_writable
from ..json_output import print_json, write_json
from ..options import (
    Subparsers,
    add_base_options,
    add_base_tokenizer_option,
    add_corpus_options,
    add_settings,
    add_verb,
    positive,
    settings_from,
)
from ..paths import module_file
from ..run_files import can_draw, module_room
from ..targets import parse_targets, with_documents

SHARE = 0.9  # of the seeds, beside which the table tells what a majority keeps


def add_to(verbs: Subparsers) -> None:
    """Adds the verb's parser."""
    parser = add_verb(verbs, "core", run, "train modules with several seeds, and say which weights they agree on")
    add_corpus_options(parser)
    add_base_options(parser, "runs/NAME/base.safetensors")
    add_base_tokenizer_option(parser)
    parser.add_argument("--targets", default="all", help="as of reengineer")
    parser.add_argument("--seeds", type=positive, default=16, help="how many (default 16)")
    parser.add_argument("--first-seed", type=int, default=0, help="the others follow it")
    parser.add_argument("--share", type=float, default=0.5, help="seeds that must agree on a weight of the core (.5)")
    parser.add_argument("--out", metavar="DIR", help="folder (default: runs/NAME/cores)")
    parser.add_argument("--no-plots", action="store_true", help="draw no picture")
    add_settings(parser)
    parser.add_argument("--threads", type=positive, help="modules side by side (default: all cores it may use)")


def run(arguments: argparse.Namespace) -> int:
    """Trains the modules, and writes them, the cores, a record and a picture."""
    if arguments.seeds < 2:
        raise TrainingError("--seeds 1: a core is what several seeds have in common; give 2 or more")
    if not 0 < arguments.share <= 1:
        raise TrainingError(f"--share {arguments.share:g}: a share of the seeds lies above 0 and is at most 1")
    ask_for_queues()
    dataset, file = dataset_name(arguments) or "r8", data_file(arguments)
    folder = Path(arguments.out or Path("runs") / dataset / "cores")
    settings = settings_from(arguments)
    base = load_base(arguments, Path(arguments.base or Path("runs") / dataset / "base.safetensors"))
    corpus = corpus_for_base(base, dataset, arguments.data_dir, say, file)
    targets = parse_targets(arguments.targets, corpus.class_names)
    if arguments.targets == "all":
        targets = with_documents(targets, corpus, say)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    draw = not arguments.no_plots and can_draw(say)
    files = {target: module_file(folder, target, corpus.class_names) for target in targets}
    for path in (*files.values(), folder / "record.json"):
        check_writable(path, (path.suffix,))
    of_seeds = len(seeds) * module_room(base, len(settings.sizes) > 1)
    check_room(folder, len(targets) * (of_seeds + module_room(base, False)))  # cores have no scores
    say(f"{len(targets)} targets, {len(seeds)} seeds, from a base with {describe_base(base)}")

    def save(module: SeamModule) -> None:
        path = files[module.target]
        module.save(path.with_name(f"{path.stem}-seed-{module.card['seed']}.safetensors"))

    made = reengineer.reengineer_many(
        base,
        corpus,
        targets,
        [settings],
        seeds=seeds,
        threads=arguments.threads,
        backend=arguments.backend,
        lazy_update=arguments.lazy_update,
        progress=True,
        on_module=lambda run, module: save(module),
    )
    cores = [StableCore(row[k] for row in made) for k in range(len(targets))]
    rows = [_judge(core, corpus, arguments.share, files[core.target]) for core in cores]
    record = {
        "format": "seam-fast core 1",
        "command": arguments.command_line,
        "machine": report.machine(),
        "base": {"hash": base.hash},
        "corpus": {"corpus": corpus.name, "synthetic": corpus.synthetic, "data_hash": corpus.data_hash},
        "settings": settings.as_dict(),
        "seeds": list(seeds),
        "cores": rows,
    }
    written = [*files.values(), write_json(folder / "record.json", record)]
    if draw:
        from .. import plots_core

        curves = [row["curve"] for row in rows]
        try:
            written.append(plots_core.stable_cores(cores, curves, folder / "stable_core.png"))
        except Exception as error:  # as of `draw_run`
            say(f"the picture could not be drawn: {type(error).__name__}: {error}")
    if arguments.json:
        print_json(record)
    else:
        print(_table(rows, len(seeds), corpus.synthetic))
    for path in written:
        say(f"wrote {path}")
    return 0


def _judge(core: StableCore, corpus: Corpus, share: float, path: Path) -> dict[str, Any]:
    """Saves the core of a target as a module; returns what the record says of it."""
    consensus = core.module(share)
    consensus.metrics = figures_on_test(consensus, corpus)
    consensus.save(path)
    agreed = core.module(SHARE)
    f1 = [figures["test"]["f1"] for figures in (module.metrics for module in core.modules)]
    known = [value for value in f1 if value is not None]
    return {
        "target": list(core.target),
        "name": "+".join(corpus.class_names[k] for k in core.target),
        "base_f1": consensus.metrics["base"]["f1"],
        "f1_by_seed": f1,
        "f1": seed_interval(known) if known else None,
        "kept": seed_interval(module.kept for module in core.modules),
        "overlap": core.overlap(),
        "share": share,
        "core": {"kept": consensus.kept, "kept_by_group": consensus.kept_by_group, "test": consensus.metrics["test"]},
        "at_90": {
            "kept": agreed.kept,
            "kept_by_group": agreed.kept_by_group,
            "test": figures_on_test(agreed, corpus)["test"],
        },
        "histogram": core.histogram(),
        "curve": core.curve(corpus),
    }


def _table(rows: Sequence[dict[str, Any]], seeds: int, synthetic: bool) -> str:
    """A line a target."""
    share = rows[0]["share"]
    heads = ["class", "base F1", f"F1, {seeds} seeds (95 % of the mean)", "kept %", "overlap"]
    heads += [f"core {100 * share:g} %: F1", "kept %", f"core {100 * SHARE:g} %: F1", "kept %"]

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    cells = [heads]
    for row in rows:
        f1 = row["f1"]
        mean = "-" if f1 is None else f"{f1['mean']:.3f} ({f1['low']:.3f}-{f1['high']:.3f})"
        line = [row["name"], number(row["base_f1"]), mean, f"{100 * row['kept']['mean']:.2f}", number(row["overlap"])]
        for part in (row["core"], row["at_90"]):
            line += [number(part["test"]["f1"]), f"{100 * part['kept']:.2f}"]
        cells.append(line)
    widths = [max(len(line[k]) for line in cells) for k in range(len(heads))]
    lines = ["  ".join(f"{cell:{'<' if k == 0 else '>'}{widths[k]}}" for k, cell in enumerate(line)) for line in cells]
    lines.insert(1, "-" * len(lines[0]))
    lines.append(
        "F1 on the whole test set; overlap: mean Jaccard index of what two seeds keep; core: the weights on which"
    )
    lines.append("so many of the seeds agree, with the mean of their heads, not trained.")
    mark = "SYNTHETIC  " if synthetic else ""
    return "\n".join(mark + line for line in lines)
