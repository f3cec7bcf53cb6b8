"""Autoregressive masks: convolutions that see the past of a pixel and never its future."""

from genref import _lazy

__getattr__ = _lazy(__name__)
