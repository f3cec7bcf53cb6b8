"""Normalising flows: maps whose density follows from their Jacobian."""

from genref import _lazy

__getattr__ = _lazy(__name__)
