"""Behind ``seam-fast bench``: measures one kind after the other, writes its record, prints its table, checks ratios."""

import json
import shlex
import time
from pathlib import Path

import curves
import guard
import job
import machine
import measure
import op
import schema
import step
import tables

from seam_fast import cli
from seam_fast.workflow import say, write_json

KINDS = {"op": op, "step": step, "job": job, "curves": curves}


def run(arguments) -> int:
    flags = {name: getattr(arguments, name, False) for name in ("quick", "check")}
    if arguments.kind:
        return run_kind(arguments, **flags)
    argv = [f"--{name}" for name, wanted in flags.items() if wanted]
    for kind in ("op", "step", "job"):
        every = cli.make_parser().parse_args(["bench", kind, *argv])
        every.command_line, every.json = shlex.join(["seam-fast", "bench", kind, *argv]), arguments.json
        code = run_kind(every, **flags)
        if code:
            return code
    return 0


def run_kind(arguments, quick: bool, check: bool) -> int:
    """One record. ``check``: it is a quick one, and held against the newest committed one."""
    code = machine.run_with_isa(arguments.isa, shlex.split(arguments.command_line)[1:])
    if code is not None:
        return code
    arguments.quick = quick or check
    kind = "curves" if getattr(arguments, "curves", False) else arguments.kind
    peak, load, begun = measure.Peak(), measure.load(), time.perf_counter()
    peak.burst()
    body = KINDS[kind].run(arguments, peak)
    peak.burst()
    about = machine.machine(arguments, load, peak.figures()) | body.pop("machine", {})
    record = {"format": KINDS[kind].FORMAT, "command": arguments.command_line, "machine": about, **body}
    KINDS[kind].finish(record)
    record = schema.check(json.loads(json.dumps(record)))  # as it comes back from the file
    out = Path(getattr(arguments, "out", f"runs/bench/{kind}.json"))
    write_json(out, record)
    say(f"{out} written after {time.perf_counter() - begun:.0f} s")
    if arguments.json:
        cli.print_json(record)
    else:
        print(tables.whole(record))
    return guard.check(record, kind) if check else 0
