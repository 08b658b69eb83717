"""Behind ``seam-fast bench``: measures one kind after the other, writes its record, prints its table, checks ratios."""

import json
import os
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
from seam_fast.errors import SeamFastError
from seam_fast.workflow import say, write_json

KINDS = {"op": op, "step": step, "job": job, "curves": curves}


def run(arguments) -> int:
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
        except SeamFastError as error:  # no reason not to measure the others
            say(f"{kind}: {error}")
            faults.append(kind)
    if faults:
        raise SeamFastError(f"as said above, of {', '.join(faults)}")
    return 0


def run_kind(arguments, quick: bool, check: bool) -> int:
    """One record. ``check``: it is a quick one, and held against the newest committed one."""
    if arguments.rounds is not None and arguments.rounds < 1:
        raise SeamFastError("--rounds must be 1 or more")
    kind = "curves" if getattr(arguments, "curves", False) else arguments.kind
    out = Path(getattr(arguments, "out", f"runs/bench/{kind}.json"))
    check_place(out)
    code = machine.run_with_isa(arguments.isa, shlex.split(arguments.command_line)[1:])
    if code is not None:
        return code
    arguments.quick = quick or check
    peak, load, begun = measure.Peak(), measure.load(), time.perf_counter()
    if load and load[0] > 0.5 * (os.cpu_count() or 1):
        say(f"other work takes {load[0]:g} of the {os.cpu_count()} cores here, which widens every spread")
    peak.burst()
    body = KINDS[kind].run(arguments, peak)
    peak.burst()
    about = machine.machine(arguments, load, peak.figures()) | body.pop("machine", {})
    small = arguments.quick or arguments.smoke
    record = {"format": KINDS[kind].FORMAT, "command": arguments.command_line, "quick": small, "machine": about, **body}
    KINDS[kind].finish(record)
    record = schema.check(json.loads(json.dumps(record)))  # as it comes back from the file
    write_json(out, record)
    say(f"{out} written after {time.perf_counter() - begun:.0f} s")
    if arguments.json:
        cli.print_json(record)
    else:
        print(tables.whole(record))
    return guard.check(record, kind) if check else 0


def check_place(out: Path) -> None:
    """Raises SeamFastError where no record could be written, before the time is spent."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        usable = os.access(out.parent, os.W_OK) and not out.is_dir()
    except OSError:
        usable = False
    if not usable:
        raise SeamFastError(f"{out}: no record can be written there; choose another place with --out")
