"""Regularisation: what noise on the inputs and penalties on the weights do to a solution."""

from genref import _lazy

__getattr__ = _lazy(__name__)
