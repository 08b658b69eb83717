"""The schema of the records, and the guard that compares a run's ratios with the newest record."""

import copy
import json
from pathlib import Path

import pytest

from seam_fast import SeamFastError

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records"


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.json")), ids=lambda p: p.stem)
def test_every_committed_record_has_the_shape_of_its_format(path):
    from benchmarks.harness import schema

    schema.check(json.loads(path.read_text()))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda r: r.update(format="seam-fast step 9"), "no record has the format 'seam-fast step 9'"),
        (lambda r: r.pop("method"), "record has no 'method'"),
        (lambda r: r.update(extra=1), "record has 'extra', which its format does not know"),
        (lambda r: r["machine"].pop("cpu"), "record.machine has no 'cpu'"),
        (lambda r: r["rows"][1].update(rounds=1.5), r"record.rows\[1\].rounds must be a whole number, but is 1.5"),
        (lambda r: r["rows"][0]["ms"].update(native=3), r"record.rows\[0\].ms.native must be an object"),
        (lambda r: r["rows"][0]["ms"]["native"].update(median=float("nan")), "median must be a number, but is nan"),
        (lambda r: r.update(rows={}), "record.rows must be a list"),
        (lambda r: r.update(rivals=[1]), r"record.rivals\[0\] must be a str"),
    ],
)
def test_a_record_of_another_shape_is_refused(spoil, sentence):
    from benchmarks.harness import schema

    record = json.loads((RECORDS / "step.json").read_text())
    schema.check(record)
    spoil(record)
    with pytest.raises(SeamFastError, match=sentence):
        schema.check(record)


@pytest.fixture
def folder(tmp_path):
    """Records of steps: an old one, a newer one, one of another machine and a quick one."""
    record = json.loads((RECORDS / "step.json").read_text())

    def write(name, date, scale=1.0, cpu=None, quick=False):
        changed = copy.deepcopy(record) | {"quick": quick}
        changed["machine"] |= {"date": date} | ({"cpu": cpu} if cpu else {})
        for row in changed["rows"]:
            for ratios in row["against"].values():
                for figures in ratios.values():
                    figures.update({key: value * scale for key, value in figures.items()})
        (tmp_path / f"{name}.json").write_text(json.dumps(changed))

    write("old", "2020-01-01", 10)
    write("newer", "2021-01-01")
    write("other", "2022-01-01", 10, "another processor")
    write("quick", "2022-01-01", 10, quick=True)
    return tmp_path, record


def test_the_guard_passes_what_is_within_the_spread_of_the_newest_record(folder, capsys):
    from benchmarks.harness import guard

    path, record = folder
    assert guard.check(record, "step", path) == 0
    said = capsys.readouterr().err
    assert said == "check: none of the 18 ratios is below what newer.json allows (2021-01-01)\n"


def test_the_guard_fails_below_the_spread_and_names_the_ratio(folder):
    from benchmarks.harness import guard

    path, record = folder
    figures = record["rows"][0]["against"]["best_torch"]["native"]
    figures["median"] = 0.999 * guard.allowed(figures, record["rows"][0]["rounds"], record["rows"][0]["rounds"])
    with pytest.raises(
        SeamFastError, match=r"^1 of 18 ratios fell below what newer.json allows: native against best_t"
    ):
        guard.check(record, "step", path)
    figures["median"] = 1000  # faster is no fault
    assert guard.check(record, "step", path) == 0


def test_the_guard_compares_nothing_with_another_machine_or_way_of_measuring(folder):
    from benchmarks.harness import guard

    path, record = folder
    for place, value in (
        ("cores", 64),
        ("gpu", "H100"),
        ("processes", "own"),
        ("threads", 2),
        ("backend", {"used": "torch"}),
    ):
        changed = copy.deepcopy(record)
        changed["machine"][place] = value
        with pytest.raises(
            SeamFastError, match=r"nothing to compare with: .* has no step record of a machine like this"
        ):
            guard.check(changed, "step", path)
    record["rows"][0]["batch_size"] = 7
    record["rows"] = record["rows"][:1]
    with pytest.raises(SeamFastError, match=r"newer.json has none of the ratios of this run"):
        guard.check(record, "step", path)


def test_a_fifth_is_allowed_and_more_where_rounds_differ():
    from benchmarks.harness import guard

    tight, wide = ({"median": 10.0, "q1": 10.0 - d, "q3": 10.0 + d} for d in (0.01, 1.0))
    assert guard.allowed(tight, 25, 4) == pytest.approx(8)
    assert guard.allowed(wide, 25, 4) == pytest.approx(10 - 1.57 * 2 * (1 / 5 + 1 / 2))
    row = {"against": {"reference": {}, "reference_best": {}}}
    assert list(guard.reliable_rivals(row["against"], {"machine": {"processes": "one"}})) == ["reference_best"]
    assert list(guard.reliable_rivals(row["against"], {"machine": {"processes": "own"}})) == [
        "reference",
        "reference_best",
    ]
    assert list(guard.reliable_rivals({"reference": {}}, {"machine": {"processes": "one"}})) == ["reference"]
    op = json.loads((RECORDS / "masked_lstm.json").read_text())
    assert "lengths against PackedSequence" in guard.ratios(op) and len(guard.ratios(op)) == 7


@pytest.mark.parametrize(
    ("name", "kind", "ratio"),
    [
        ("masked_lstm", "op", "h128 against torch"),
        ("step", "step", "native_replay against reference_best at batch 5"),
        ("job", "job", "native against reference_best, one class, 300 epochs"),
        ("curves", "curves", "native against best_torch at vocabulary 1000000"),
    ],
)
def test_every_kind_has_a_record_to_be_compared_with(name, kind, ratio, capsys):
    from benchmarks.harness import guard

    record = json.loads((RECORDS / f"{name}.json").read_text())
    assert guard.check(record, kind) == 0 and f"allows ({record['machine']['date'][:10]})" in capsys.readouterr().err
    figures, _ = guard.ratios(record)[ratio]
    figures["median"] /= 3
    with pytest.raises(SeamFastError, match=f"1 of .* ratios fell below .*: {ratio} is"):
        guard.check(record, kind)
