"""The mathematics of deep generative models: derived, executed and checked.

Topics and their stems are imported when they are first used: `genref.masks.causal` loads nothing else.
"""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

__all__ = ["__version__"]

__version__ = "0.1.0"


def _lazy(package: str) -> Callable[[str], ModuleType]:
    """The `__getattr__` of a package whose modules are imported on first use."""

    def attribute(name: str) -> ModuleType:
        if not name.startswith("_"):
            try:
                return import_module(f"{package}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{package}.{name}":
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return attribute


__getattr__ = _lazy(__name__)
