"""Latent variables: models with a hidden cause, their likelihood and bounds on it."""

from genref import _lazy

__getattr__ = _lazy(__name__)
