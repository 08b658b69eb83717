"""The blocks of README and docs by name: text and pictures, all from the records."""

import hashlib
import json
from pathlib import Path

from benchmarks import RECORDS, ROOT
from benchmarks.harness import machine, schema
from benchmarks.report import pictures
from benchmarks.report import tables_corpora as many_corpora
from benchmarks.report import tables_cuda as cuda
from benchmarks.report import tables_frontier as frontier
from benchmarks.report import tables_inference as inference
from benchmarks.report import tables_job as job
from benchmarks.report import tables_linear as linear
from benchmarks.report import tables_op as op
from benchmarks.report import tables_quality as quality
from benchmarks.report import tables_sizes as any_size
from benchmarks.report import tables_start as start
from benchmarks.report import tables_step as step
from benchmarks.report.headline import headline
from benchmarks.report.tables import curves as curve_tables
from benchmarks.report.tables import same_point
from benchmarks.report.words import command, joined, number, ratio

HERE = Path(__file__).resolve().parent
PICTURES = ROOT / "benchmarks" / "pictures"
PICTURE_LINK = "benchmarks/pictures"  # in a block; markdown.py makes it relative to the page
# What makes the records that may not exist yet.
COMMANDS = {
    "quality_frontier": "python -m benchmarks.quality.frontier",
    "quality_linear": "python -m benchmarks.quality.linear r8=DIR mr=DIR r52=DIR",
    "quality_base_distilled": "python -m benchmarks.quality base --recipe distilled --seeds 0 1 2 3 4",
    "quality_sizes": "python -m benchmarks.quality.sizes",
    "quality_start": "python -m benchmarks.quality.start",
    "quality_corpora": "python -m benchmarks.quality.corpora --folder FOLDER NAME ...",
    "cuda_lstm": "bash scripts/gpu_check.sh FOLDER build bench",
    "cuda_engine": "bash scripts/gpu_check.sh FOLDER build engine",
    "inference": "python -m benchmarks.cpu.inference --run runs/r8",
}


def load(name: str) -> dict | None:
    """The record of that name, checked, or None if it does not exist."""
    path = RECORDS / f"{name}.json"
    return schema.check(json.loads(path.read_text())) if path.exists() else None


def provenance(name: str, record: dict) -> str:
    """The line under a table: the command that measures it today, and machine, date and commit of this record."""
    run = record["runs"][0] if "runs" in record else record
    about = run["machine"]
    if "caches" in about:
        where = machine.in_words(about)
    elif about.get("gpu"):
        where = cuda.about(record)
    else:
        where = f"{about['cpu']} ({about['cores']} cores), torch {about['torch']}"
    changed = "+" * (about["commit"] or "").endswith("+")
    commit = f", commit {about['commit'][:7]}{changed}" if about["commit"] else ""
    return f"*`{command(run)}`; record `{name}.json`: {where}, {about['date'][:10]}{commit}.*"


def block(name: str, *parts) -> str:
    """A block of parts (texts, or functions of the record) and a line on where they come from."""
    record = load(name)
    if record is None:
        return f"\n*Not measured yet: `{COMMANDS[name]}`.*\n"
    texts = [part if isinstance(part, str) else part(record) for part in parts]
    return "\n" + "\n\n".join([*filter(None, texts), provenance(name, record)]) + "\n"


def picture(name: str, words: str = ""):
    """A part that shows a picture; drawn by ``scripts/bench_report.py``."""
    return lambda record: f"![{words or name}]({PICTURE_LINK}/{name}.png)" if has_picture(name, record) else ""


def has_picture(name: str, record: dict) -> bool:
    """Whether the record has the figures that the picture shows."""
    return name != "to_f1" or bool(record.get("to_f1"))


# Sentences -----------------------------------------------------------------------------------------------------------


def floors(record: dict) -> str:
    """The smallest and largest vocabulary floor of a job's classes."""
    shares = [100 * row["vocabulary_floor"] for row in record["eight"]["rows"]]
    return f"{low_to_high(shares)} %"


def plain(record: dict) -> str:
    """How many times as long a step takes in plain PyTorch: least to greatest over the batch sizes."""
    return low_to_high([row["against"]["best_torch"]["native"]["median"] for row in record["rows"]])


def large(record: dict) -> list[dict]:
    """The rows with large batches and without lengths."""
    return [row for row in record["rows"] if row["sizes"]["B"] >= 32 and not row["sizes"]["lengths"]]


def memory_share(record: dict) -> str:
    """The op's extra memory as a share of torch's, with large batches."""
    shares = [row["memory"]["seam"]["peak"] / row["memory"]["rival"]["peak"] for row in large(record)]
    return f"{low_to_high([100 * share for share in shares])} %"


def peak_share(record: dict) -> str:
    """The share of the core's peak that torch's kernel reaches with large batches."""
    return f"{low_to_high([100 * row['of_peak']['rival'] for row in large(record)])} %"


def low_to_high(values: list[float]) -> str:
    """Least to greatest, rounded to integers."""
    return f"{min(values):.0f} to {max(values):.0f}"


def peak(record: dict) -> str:
    """A sentence on the peak of a core, if it was measured."""
    found = record["machine"]["peak"]["gflops"]
    return f"One core's peak of multiply-adds, measured: {found:.0f} GFLOP/s." if found else ""


def ratios_only(record: dict) -> str:
    """The ratios of a record of the op in one sentence."""
    found = [f"{op.sizes(row)}: {ratio(row['ratio'], False)}" for row in record["rows"]]
    isa = record["machine"]["isa"]["seam"]
    return f"With all sides held to {isa}, times as fast as torch (bold: slower) at I, H, B, T of {'; '.join(found)}."


def vmap_range(record: dict) -> str:
    """How many times as fast vmap is as the loop, with several threads: least to greatest."""
    ratios = [row["against"]["loop"]["median"] for row in record["rows"] if row["threads"] > 1]
    return f"{min(ratios):.2g} to {max(ratios):.2g} times"


def own_processes(record: dict) -> str:
    """Sentences on the reference's step in a process of its own, and the ratios against it."""
    rows = record["rows"]
    times = [number(row["ms"]["reference"]["median"]) for row in rows]
    against = [ratio(row["against"]["reference"]["native"]) for row in rows]
    sizes = joined([str(row["batch_size"]) for row in rows])
    faults = number(rows[0]["page_faults"]["reference"]["median"])
    return (
        "How long the reference's step takes depends on what the C library does with the memory of large temporaries. "
        "In a process of its own, as its users have it, it gives that memory back and gets it anew in every step "
        f"({faults} page faults at batch {rows[0]['batch_size']}): {joined(times)} ms at batches of {sizes}, where the "
        f"engine is {joined(against)} times as fast."
    )


def study_by_class(record: dict) -> str:
    """F1 by class: the reference's protocol, and the default protocol with its own budget."""
    texts = []
    for protocol, epochs in (("reference", 300), ("seam", None)):
        found = quality.by_class(record, protocol, epochs)
        if found:
            texts.append(
                f"F1 by class, protocol `{protocol}`, {quality.length(epochs)} (the best of module and baselines "
                f"bold):\n\n{found}"
            )
    return "\n\n".join(texts)


# Blocks --------------------------------------------------------------------------------------------------------------

BLOCKS = {
    "base": lambda: block("quality_base_strong", quality.bases_sentence, quality.bases),
    "base_distilled": lambda: block("quality_base_distilled", quality.bases_sentence, quality.bases),
    "linear": lambda: block("quality_linear", linear.linear),
    "strong_sentence": lambda: quality.bases_sentence(load("quality_base_strong")),
    "distilled_sentence": lambda: quality.bases_sentence(load("quality_base_distilled")),
    "svm_sentence": lambda: linear.sentence(load("quality_linear")),
    "frontier": lambda: block("quality_frontier", frontier.frontier),
    "base_public": lambda: quality.bases_sentence(load("quality_base_public")),
    "base_blind": lambda: quality.blind(load("quality_base_public")),
    "modules": lambda: block("quality_modules", quality.modules, quality.modules_sentence),
    "reference": lambda: block("reference_table", lambda record: quality.reference_table(record["rows"])),
    "any_size": lambda: block("quality_sizes", any_size.verdict, any_size.sizes, any_size.by_class, any_size.ways),
    "start": lambda: block("quality_start", start.verdict, start.starts),
    "corpora": lambda: block(
        "quality_corpora", many_corpora.corpora, many_corpora.verdict, many_corpora.all_classes, many_corpora.runs
    ),
    "floors": lambda: floors(load("job")),
    "plain": lambda: plain(load("step")),
    "job_size": lambda: f"{load('job')['eight']['figures']['steps']:,} steps",
    "op_peak": lambda: peak_share(load("masked_lstm")),
    "op_memory": lambda: memory_share(load("masked_lstm")),
    "op": lambda: block("masked_lstm", op.pair, op.losses, peak, op.others, picture("op", words="ratios of the op")),
    "vmap": lambda: block("vmap_scores", op.vmap),
    "vmap_range": lambda: vmap_range(load("vmap_scores")),
    "op_avx2": lambda: block("masked_lstm_avx2", ratios_only),
    "step": lambda: block("step", step.steps, picture("step", words="times of a step"), step.memory, step.vocabulary),
    "step_own": lambda: block("step_own_processes", own_processes),
    "curves": lambda: block(
        "curves",
        picture("curves", words="step time against each size"),
        lambda record: "\n\n".join(curve_tables(record)),
        same_point,
    ),
    "cuda_op": lambda: block(
        "cuda_lstm", cuda.op, cuda.op_groups, cuda.op_losses, cuda.op_precision, cuda.op_errors, cuda.op_open
    ),
    "cuda_engine": lambda: block(
        "cuda_engine",
        cuda.engine,
        cuda.engine_losses,
        cuda.engine_exactness,
        cuda.engine_scaling,
        cuda.engine_runs,
        cuda.engine_open,
    ),
    "job": lambda: block("job", job.summary, job.eight, job.one, job.to_f1, picture("to_f1", words="F1 against time")),
    "study": lambda: block(
        "quality_study", quality.study, quality.study_losses, study_by_class, picture("study", words="F1 by class")
    ),
    "inference": lambda: block("inference", inference.times, inference.agreement),
    "sizes": lambda: block("inference", inference.sizes),
    "headline": headline,
}
# By picture: the record it is drawn from, and the function that draws it.
DRAWN = {
    "op": ("masked_lstm", pictures.op),
    "step": ("step", pictures.step),
    "curves": ("curves", pictures.curves),
    "to_f1": ("job", pictures.to_f1),
    "study": ("quality_study", pictures.study),
}


def source(name: str) -> str | None:
    """Hash of the record and the code that a picture is drawn from; None if it cannot be drawn."""
    record_name, _ = DRAWN[name]
    record = load(record_name)
    if record is None or not has_picture(name, record):
        return None
    drawn_by = [HERE / "pictures.py", HERE / "words.py", RECORDS / f"{record_name}.json"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in drawn_by)).hexdigest()


def draw(name: str) -> bytes:
    """The picture as a PNG file, with its ``source`` inside."""
    record_name, function = DRAWN[name]
    return pictures.png(function(load(record_name)), source(name))
