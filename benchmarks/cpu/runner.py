"""Behind ``seam-fast bench``: measures the kinds, writes their records, prints their tables, checks their ratios."""

import shlex
import time
from pathlib import Path

from benchmarks.cpu import curves, job, op, step
from benchmarks.harness import guard, machine, records
from benchmarks.harness.peak import Peak
from benchmarks.report import tables
from seam_fast.cli import main as cli
from seam_fast.cli.json_output import print_json
from seam_fast.common.progress import say
from seam_fast.errors import SeamFastError

KINDS = {"op": op, "step": step, "job": job, "curves": curves}


def run(arguments) -> int:
    """Runs the kind that was asked for, or all of op, step and job; returns the exit code."""
    flags = {name: getattr(arguments, name, False) for name in ("quick", "check")}
    if arguments.kind:
        return run_kind(arguments, **flags)
    if hasattr(arguments, "out"):
        raise SeamFastError("--out names the record of one kind; say which: step, op or job")
    argv = [f"--{name}" for name, wanted in flags.items() if wanted]
    faults = []
    for kind in ("op", "step", "job"):
        every = cli.make_parser().parse_args(["bench", kind, *argv])
        every.command_line, every.json = shlex.join(["seam-fast", "bench", kind, *argv]), arguments.json
        try:
            run_kind(every, **flags)
        except SeamFastError as error:  # the other kinds are measured all the same
            say(f"{kind}: {error}")
            faults.append(kind)
    if faults:
        raise SeamFastError(f"as said above, of {', '.join(faults)}")
    return 0


def run_kind(arguments, quick: bool, check: bool) -> int:
    """Measures one record. check: measure a quick one and compare it with the newest committed one."""
    if arguments.rounds is not None and arguments.rounds < 1:
        raise SeamFastError("--rounds must be 1 or more")
    kind = "curves" if getattr(arguments, "curves", False) else arguments.kind
    out = records.check_path(Path(getattr(arguments, "out", f"runs/bench/{kind}.json")))
    code = machine.run_with_isa(arguments.isa, shlex.split(arguments.command_line)[1:])
    if code is not None:
        return code
    arguments.quick = quick or check
    peak, load, begun = Peak(), {"before": machine.load_average(), "busy": machine.busy_cores()}, time.perf_counter()
    if (load["busy"] or 0) > 0.2:
        say(f"other work keeps {load['busy']:.1f} cores of this machine busy, which widens every spread")
    peak.burst()
    body = KINDS[kind].run(arguments, peak)
    peak.burst()
    about = machine.describe(arguments, load, peak.figures()) | body.pop("machine", {})
    small = arguments.quick or arguments.smoke
    record = {"format": KINDS[kind].FORMAT, "command": arguments.command_line, "quick": small, "machine": about, **body}
    KINDS[kind].finish(record)
    record = records.save(record, out, f" after {time.perf_counter() - begun:.0f} s")
    if arguments.json:
        print_json(record)
    else:
        print(tables.whole(record))
    return guard.check(record, kind) if check else 0
