"""A user's own filters and features: files named in the YAML, shipped to workers as text."""

from __future__ import annotations

import hashlib
import sys
from types import ModuleType
from typing import Any

from curate.features import Feature
from filters import Filter, class_in


class PluginError(Exception):
    """A plugin file cannot be used; the text says why."""


def class_of(name: str, source: str) -> type[Any]:
    """The one Filter or Feature that a plugin's source text defines, as an importable class.

    The module is registered under a name made from its content, so that a worker which loads the
    same text can unpickle objects made here.
    """
    module_name = f"curate_plugin_{name}_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    module = sys.modules.get(module_name)
    if module is None:
        module = ModuleType(module_name)
        module.__file__ = f"{name}.py"
        sys.modules[module_name] = module
        try:
            exec(compile(source, f"{name}.py", "exec"), module.__dict__)
        except (
            ImportError,
            SyntaxError,
            NameError,
            TypeError,
            AttributeError,
            ValueError,
        ) as error:
            del sys.modules[module_name]
            raise PluginError(f"{name}.py cannot be loaded: {error}") from error
    for base in (Filter, Feature):
        try:
            return class_in(module, base)
        except TypeError as error:
            reason = str(error)
            if "none" not in reason:
                raise PluginError(reason) from None
    raise PluginError(f"{name}.py must define one Filter or Feature; it defines none")
