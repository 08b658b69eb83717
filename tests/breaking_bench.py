"""A bench of the GPU benchmark that some shapes break, for the test that they spoil no others."""

import os
import time

from benchmarks.cuda.lstm_bench import blank_row
from seam_fast.cli import report

WAYS = ("seam", "cudnn", "whole", "seam_eager", "cudnn_eager", "seam_forward", "cudnn_forward")
FIGURES = {"ms": {}, "ratio": {}, "gflops": {}, "loops": {}, "rounds": 1, "in_one_piece": True}
FIGURES |= {"memory": {"saved_bytes": 1}, "agreement": {"errors": {}, "allowed": {"output": 1.0}}}
FIGURES |= {"left_out": dict.fromkeys((*WAYS, "packed_eager", "padded"), "pretended")}


class Bench:
    """Stands for `benchmarks.cuda.lstm_bench.Bench` without a GPU.

    The shape decides what happens: of group compiled it hangs; else by its dtype float32 ends the process, and float16
    leaves a GPU that does not answer.
    """

    def __init__(self, arguments):
        self.lost = ""

    def machine(self, commit):
        about = {"gpu": {"name": "pretended"}, "cuda": "1", "cudnn": 1, "sources": "x", "backends": {}, "build": None}
        return report.machine() | about | {"load": {"before": [], "after": None}}

    def row(self, entry):
        if entry.group == "compiled":
            time.sleep(60)
        if entry.dtype == "float32":
            os._exit(3)
        if entry.dtype == "float16":
            self.lost = "it does not answer"
        fault = "index out of bounds" if self.lost else ""
        row = blank_row(entry, dry=False) | {"fault": fault, "process": os.getpid()}
        return row if fault else row | FIGURES

    def stop_reason(self):
        return self.lost

    def gpu_state(self):
        return None
