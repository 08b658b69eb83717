"""The one place where the version number stands; setup.py reads it from here without importing the package."""

__version__ = "0.2.0.dev0"
