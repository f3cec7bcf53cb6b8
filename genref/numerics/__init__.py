"""Tools that know no model: means with their errors, quadrature, determinants of Jacobians."""

from genref import _lazy

__getattr__ = _lazy(__name__)
