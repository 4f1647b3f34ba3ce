"""A user's own filters and features: files named in the YAML, shipped to workers as text."""

from __future__ import annotations

import hashlib
import sys
from types import ModuleType
from typing import Any

from curate.features import Feature
from filters import Filter, classes_in


class PluginError(Exception):
    """A plugin file cannot be used; the text says why."""


def module_name(name: str, source: str) -> str:
    """The name under which a plugin's text is imported: another text is another module."""
    return f"curate_plugin_{name}_{hashlib.sha256(source.encode()).hexdigest()[:12]}"


def class_of(name: str, source: str) -> type[Any]:
    """The one Filter or Feature that a plugin's source text defines, as an importable class.

    The module is registered under a name made from its content, so that a worker which loads the
    same text can unpickle objects made here.
    """
    own_name = module_name(name, source)
    module = sys.modules.get(own_name)
    if module is None:
        module = ModuleType(own_name)
        module.__file__ = f"{name}.py"
        sys.modules[own_name] = module
        try:
            exec(compile(source, f"{name}.py", "exec"), module.__dict__)
        except Exception as error:  # a user's code may raise anything
            del sys.modules[own_name]
            reason = f"{type(error).__name__}: {error}"
            raise PluginError(f"{name}.py cannot be loaded: {reason}") from error
    found = [value for base in (Filter, Feature) for value in classes_in(module, base)]
    if len(found) != 1:
        listed = ", ".join(value.__name__ for value in found) or "none"
        raise PluginError(f"{name}.py must define one Filter or Feature; it defines {listed}")
    return found[0]
