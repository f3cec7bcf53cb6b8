"""Games between a player that ascends and a player that descends."""

from genref import _lazy

__getattr__ = _lazy(__name__)
