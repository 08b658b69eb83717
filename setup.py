"""Installs seam-fast. There is no compiled part yet, so this is a plain Python package."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "seam_fast" / "_version.py").read_text())[1]

setup(
    name="seam-fast",
    version=VERSION,
    description="Takes a trained LSTM text classifier apart into small modules, one per class (SeaM), fast.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["seam_fast", "seam_fast.*"]),
    package_data={"seam_fast": ["*.txt.gz"]},
    python_requires=">=3.10",
    install_requires=["torch>=2.6", "numpy", "tqdm", "matplotlib", "safetensors"],
    extras_require={
        "build": ["setuptools>=64", "pybind11", "ninja"],
        "dev": ["pytest", "pytest-benchmark", "hypothesis", "ruff"],
    },
    entry_points={"console_scripts": ["seam-fast = seam_fast.cli:main"]},
)
