import pytest
import torch

from genref._site.claims import mutant
from genref.toy.line import line


@pytest.mark.claim("toy-line", answers=["Q1"])
def test_sums(evidence, f=line):
    x, y = torch.randn(2, 8, generator=evidence.generator, dtype=torch.float64)
    evidence.numeric(f(x + y), 2 * x + 2 * y, bound=1e-12, oracle="the slope times each, added")


@mutant(test_sums, "an offset")
def offset(x):
    return 2 * x + 1
