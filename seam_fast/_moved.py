"""Modules by their old names: ``seam_fast.corpus`` is ``seam_fast.data.corpus`` now. They work for one minor release,
with a DeprecationWarning.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys

from .common.deprecation import warn_renamed

MOVED = {
    "arguments": "common.arguments",
    "bench": "cli.verbs.bench",
    "checkpoint": "classifier.checkpoint",
    "clamping": "ops.clamping",
    "cohort": "search.cohort",
    "cores": "common.cores",
    "corpus": "data.corpus",
    "cuda_cohort": "search.cuda_cohort",
    "cuda_trainer": "training.cuda_trainer",
    "data_checks": "data.checks",
    "default_device": "common.default_device",
    "device_training": "classifier.device_training",
    "draws": "common.rng",
    "engine": "training.torch_trainer",
    "evaluate": "search.evaluate",
    "front": "modules.pareto",
    "generic": "training.op_trainer",
    "graph_trainer": "training.cuda_graph_trainer",
    "inference": "classifier.inference",
    "jit_trace": "ops.jit_trace",
    "keys": "classifier.state_keys",
    "library": "ops.custom_op",
    "lstm_layer": "ops.eager",
    "metrics": "classifier.metrics",
    "native": "training.cpu_trainer",
    "places": "training.devices",
    "plots": "cli.plots",
    "progress": "common.progress",
    "quicker": "search.auto_engine",
    "r8": "data.r8",
    "reference": "ops.reference",
    "report": "cli.report",
    "sampling": "search.sampling",
    "seam_module": "modules.seam_module",
    "selection": "search.selection",
    "settings": "search.settings",
    "synthetic": "data.synthetic",
    "tensor_files": "files.tensors",
    "threads": "common.threads",
    "tokenizer": "data.tokenizer",
    "train_base": "classifier.training",
    "transforms": "ops.transforms",
    "workflow": "cli.workflow",
}


class _Loader(importlib.abc.Loader):
    def create_module(self, spec):
        name = spec.name.removeprefix("seam_fast.")
        new = f"seam_fast.{MOVED[name]}"
        warn_renamed(spec.name, new, stacklevel=2)
        module = importlib.import_module(new)
        self._own = module.__spec__  # which the import system is about to replace
        return module

    def exec_module(self, module):
        module.__spec__ = self._own


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.partition(".")
        if package == "seam_fast" and name in MOVED:
            return importlib.machinery.ModuleSpec(fullname, _Loader())
        return None


def install() -> None:
    """From now on old names are found. First in line: an older copy of the package may be installed elsewhere."""
    sys.meta_path.insert(0, _Finder())
