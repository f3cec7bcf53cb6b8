"""The package of a checkout that tests build: one topic, one stem, and the version by which it is told apart."""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

__version__ = "small"


def _lazy(package: str) -> Callable[[str], ModuleType]:
    return lambda name: import_module(f"{package}.{name}")
