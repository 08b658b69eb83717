"""Old names of arguments: accepted for one minor release, with a DeprecationWarning."""

import warnings
from collections.abc import Mapping
from typing import Any


def warn_renamed(old: str, new: str, stacklevel: int = 2) -> None:
    """Warns that a name has changed; stacklevel as in ``warnings.warn``, counted from this function's caller."""
    warnings.warn(f"{old} is deprecated, it is called {new} now", DeprecationWarning, stacklevel=stacklevel + 1)


def modern(
    options: Mapping[str, Any],
    names: Mapping[str, str],
    values: Mapping[str, Mapping[Any, Any]] | None = None,
    stacklevel: int = 3,
) -> dict[str, Any]:
    """Keyword arguments by their present names, with a DeprecationWarning for each old name and old value.

    Args:
        options: as they were given.
        names: present names by old names.
        values: by present name: present values by old values.
        stacklevel: as of `warn_renamed`.

    Returns:
        The options by present names, with present values.

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
    for name, replaced in (values or {}).items():
        if name in found and isinstance(value := found[name], str) and value in replaced:
            warn_renamed(f"{name}={value!r}", f"{name}={replaced[value]!r}", stacklevel)
            found[name] = replaced[value]
    return found
