"""What tests of the benchmarks share."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records"
SPREAD = {"median", "min", "max", "q1", "q3"}


def check_spread(figures: dict) -> None:
    assert set(figures) == SPREAD
    assert 0 < figures["min"] <= figures["q1"] <= figures["median"] <= figures["q3"] <= figures["max"]
