"""Energies learnt without their normaliser: noise-contrastive and contrastive objectives."""

from genref import _lazy

__getattr__ = _lazy(__name__)
