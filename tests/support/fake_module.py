"""A stand-in for the compiled part."""

import types

import torch

from seam_fast import _ext


class FakeModule(types.ModuleType):
    """Stands in for ``seam_fast._C``: all that is called is there, and set_isa is remembered."""

    def __init__(self, torch_version=torch.__version__, with_cuda=False):
        super().__init__("seam_fast._C")
        for name in _ext.NEEDED:
            setattr(self, name, lambda: None)
        info = {"torch": torch_version, "cuda": None, "with_cuda": with_cuda}
        info |= {"compiler": "chisel 1.0", "flags": "-O9", "openmp": False}
        self.used = "avx2"
        self.build_info = lambda: dict(info)
        self.isas = lambda: ["avx2", "portable"]
        self.isa = lambda: self.used
        self.set_isa = lambda name: setattr(self, "used", name)
