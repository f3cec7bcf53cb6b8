"""Projections: the nearest point of a set, and optimisation under constraints with its help."""

from genref import _lazy

__getattr__ = _lazy(__name__)
