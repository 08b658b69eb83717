"""Old names: accepted for one minor release, with a DeprecationWarning."""

import importlib
import warnings
from collections.abc import Mapping
from typing import Any


def warn_renamed(old: str, new: str, stacklevel: int = 2) -> None:
    """Warns that a name has changed; stacklevel as in ``warnings.warn``, counted from this function's caller."""
    warnings.warn(f"{old} is deprecated, it is called {new} now", DeprecationWarning, stacklevel=stacklevel + 1)


def moved_name(module: str, name: str, moved: Mapping[str, str]) -> Any:
    """What a module's ``__getattr__`` returns for a name that has moved, with a DeprecationWarning.

    Args:
        module: the module's full name.
        name: the name that is asked for.
        moved: the full name of the module that holds it now, by name.

    Raises:
        AttributeError: the name is none of those.
    """
    if name not in moved:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warn_renamed(f"{module}.{name}", f"{moved[name]}.{name}", stacklevel=3)
    return getattr(importlib.import_module(moved[name]), name)


def modern(options: Mapping[str, Any], names: Mapping[str, str], stacklevel: int = 3) -> dict[str, Any]:
    """Keyword arguments by their present names, with a DeprecationWarning for each old name.

    Args:
        options: as they were given.
        names: present names by old names.
        stacklevel: as of `warn_renamed`.

    Returns:
        The options by present names.

    Raises:
        TypeError: where the old and the present name of an argument are both given.
    """
    found = dict(options)
    for old in options:
        if (new := names.get(old)) is not None:
            if new in options:
                raise TypeError(f"{old} is the old name of {new}; give {new} alone")
            warn_renamed(old, new, stacklevel)
            found[new] = found.pop(old)
    return found
