"""Random variables written as maps of noise, and the densities that the maps give them."""

from genref import _lazy

__getattr__ = _lazy(__name__)
