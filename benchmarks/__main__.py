"""``python -m benchmarks`` lists what can be measured, and how."""

import ast

from benchmarks import ROOT

# What to run, and the file whose docstring says what it measures.
COMMANDS = {
    "seam-fast bench op": "cpu/op.py",
    "seam-fast bench step": "cpu/step.py",
    "seam-fast bench step --curves": "cpu/curves.py",
    "seam-fast bench job": "cpu/job.py",
    "python -m benchmarks.cpu.vmap_scores": "cpu/vmap_scores.py",
    "python -m benchmarks.cpu.inference": "cpu/inference.py",
    "python -m benchmarks.cuda.lstm": "cuda/lstm.py",
    "python -m benchmarks.cuda.engine": "cuda/engine.py",
    "python -m benchmarks.cuda.base_training": "cuda/base_training.py",
    "python -m benchmarks.cuda.default_protocol": "cuda/default_protocol.py",
    "python -m benchmarks.quality": "quality/cli.py",
    "python -m benchmarks.quality.sizes": "quality/sizes.py",
    "python -m benchmarks.quality.frontier": "quality/frontier.py",
    "python -m benchmarks.quality.linear": "quality/linear.py",
    "python -m benchmarks.quality.start": "quality/start.py",
    "python -m benchmarks.quality.corpora": "quality/corpora.py",
    "python -m benchmarks.quality.reference_table": "quality/reference_table.py",
    "pytest benchmarks/pytest/bench_masked_lstm.py": "pytest/bench_masked_lstm.py",
    "pytest benchmarks/pytest/bench_layers.py": "pytest/bench_layers.py",
    "pytest benchmarks/pytest/bench_step.py": "pytest/bench_step.py",
    "python scripts/bench_report.py": "../scripts/bench_report.py",
}


def main() -> None:
    for command, file in COMMANDS.items():
        tree = ast.parse((ROOT / "benchmarks" / file).read_text(encoding="utf-8"))
        print(f"{command}\n    {ast.get_docstring(tree).splitlines()[0]}")


if __name__ == "__main__":
    main()
