"""Rare events: probabilities too small to be counted, estimated by sampling from another law."""

from genref import _lazy

__getattr__ = _lazy(__name__)
