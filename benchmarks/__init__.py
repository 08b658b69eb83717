"""Measures seam-fast beside what it competes with. Run from the root of a checkout; never installed."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records"
