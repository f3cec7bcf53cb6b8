"""Gradients of expectations, estimated from samples of a law that depends on the parameters."""

from genref import _lazy

__getattr__ = _lazy(__name__)
