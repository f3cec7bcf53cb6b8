"""The standalone copy: genref inlined with all that it needs, in an order that runs, and nothing else."""

import ast
import subprocess
import sys

import pytest

from genref._site.standalone import standalone

SHAPES = '''"""Shapes and their areas."""

import math as m
import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from genref.toy.base import SCALE, half

# How far a point may be off.
SLACK: float = 1e-6


class Square:
    """A square.

    Claim: square
        It has four sides.
    """

    def __init__(self, side: Float[Tensor, ""]) -> None:
        """Takes the side.

        Long words.
        """
        self.side = side  # its only length


# The area comes before what it is half of.
def area(square: Square) -> Float[Tensor, "1 2"]:
    r"""Returns the area.

    Arguments:
        square: One with a side.
    """
    # Both sides are equal.
    return SCALE * square.side * square.side + doubled(half(square)) - close(SLACK)


def doubled(x: Float[Tensor, " n"] | None, then: Callable[[Bool[Tensor, "n"]], None] | None = None) -> Tensor:
    """Returns twice x."""
    return F.relu(x) * m.sqrt(4)


def close(x: float) -> float:
    """Returns x."""
    return recursive(int(x))


def recursive(n: int) -> int:
    """Returns zero: the sign ‘−’ moves bytes, not letters."""
    return recursive(n - 1) if n else 0


def unused() -> str:
    """Is not needed."""
    return os.getcwd()
'''

BASE = '''from functools import cache

from torch import Tensor

SCALE = 1.0


@cache
def half(thing) -> Tensor:
    """Returns half."""
    return thing.side * thing.side / 2
'''

SNIPPET = '''"""What a square measures."""

# --8<-- [start:setup]
import torch

from genref.toy.shapes import (
    Square,
    area,
)

# --8<-- [end:setup]

# --8<-- [start:check]
assert area(Square(torch.tensor(2.0))) == 8  # four, and twice the half
# --8<-- [end:check]


# --8<-- [start:figure]
def figure(ax):
    """Four."""
    from genref.toy.base import half

    half(Square(torch.tensor(1.0)))


# --8<-- [end:figure]

if __name__ == "__main__":
    import matplotlib.pyplot as plt

    figure(plt.gca())
'''


@pytest.fixture
def made(checkout):
    """The standalone copy of a snippet of a checkout whose modules hold what is given, and the faults."""

    def make(snippet=SNIPPET, **modules):
        files = {"shapes": SHAPES, "base": BASE} | modules
        root = checkout(
            {f"genref/toy/{name}.py": text for name, text in files.items()} | {"snippets/toy/a.py": snippet}
        )
        text, faults = standalone(root, "snippets/toy/a.py", "# The first line.")
        return text, [str(fault) for fault in faults]

    return make


def test_it_runs_without_genref(made, tmp_path):
    text, faults = made()
    assert faults == []
    (tmp_path / "alone.py").write_text(text)
    block = (
        "import sys; sys.modules['genref'] = sys.modules['jaxtyping'] = None; import runpy; runpy.run_path('alone.py')"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", block], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_holds_what_is_used_with_its_comments_and_nothing_else(made):
    text, _ = made()
    assert text.startswith("# The first line.\n\n")
    for line in (
        "# How far a point may be off.\nSLACK: float = 1e-6\n",
        "# The area comes before what it is half of.\ndef area(square: Square) -> Tensor:\n",
        "    # Both sides are equal.\n",
        "self.side = side  # its only length\n",
        "# four, and twice the half\n",
        "def doubled(x: Tensor | None, then: Callable[[Tensor], None] | None = None) -> Tensor:\n",
        '    r"""Returns twice x."""\n',
        '    r"""Returns zero: the sign ‘−’ moves bytes, not letters."""\n',
        "@cache\ndef half(thing) -> Tensor:\n",
    ):
        assert text.count(line) == 1, line
    for gone in ("genref", "jaxtyping", "Claim", "Arguments", "Long words", "unused", "import os", "--8<--"):
        assert gone not in text, gone


def test_imports_come_once_and_first_and_definitions_before_their_use(made):
    text, _ = made()
    tree = ast.parse(text)
    kinds = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree.body]
    assert kinds == sorted(kinds, reverse=True)
    imports = [ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert imports == [
        "from collections.abc import Callable",
        "from functools import cache",
        "import math as m",
        "from torch import Tensor",
        "import torch",
        "import torch.nn.functional as F",
    ]
    names = [getattr(node, "name", "") for node in tree.body]
    order = ["Square", "recursive", "close", "doubled", "half", "area", "figure"]
    assert [name for name in names if name] == order
    assert text.index("SCALE = 1.0") < text.index("SLACK: float") < text.index("def area")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import genref", "import genref in one form only: `from genref.T.S import name`"),
        ("import genref.toy.base", "import genref in one form only: `from genref.T.S import name`"),
        ("from genref.toy import base", "import genref in one form only: `from genref.T.S import name`"),
        ("from genref import toy", "import genref in one form only: `from genref.T.S import name`"),
        ("from genref.toy.base import half as h", "import genref in one form only: `from genref.T.S import name`"),
        ("from genref.toy.none import half", "no module genref.toy.none; import from the stem that defines half"),
        ("from genref.toy.base import third", "genref.toy.base does not define third"),
        ("from genref.toy.broken import x", "genref.toy.broken does not parse; mend it"),
        ("import sympy", None),
        ("from genref.toy.far import far", None),
        ("if x", "SyntaxError: expected ':'"),
    ],
)
def test_what_cannot_be_inlined_is_named_with_its_line(made, line, message):
    far = "import scipy\n\n\ndef far():\n    return scipy\n"
    _, faults = made(f'"""A snippet."""\n\n{line}\n', broken="def f(:\n", far=far)
    library = "sympy" if "sympy" in line else "scipy"
    needs = f"its standalone copy would need `import {library}`; only torch, numpy and matplotlib are allowed"
    assert faults == [f"snippets/toy/a.py:{3 if message else 1}: {message or needs}"]


def test_two_objects_of_one_name_are_a_fault(made):
    def faults(snippet):
        other = "import math as F\n\n\ndef half(x):\n    return F.pi\n\n\ndef whole(x):\n    return half(x)\n"
        return made(f"from genref.toy.base import half\n{snippet}", other=other)[1]

    assert faults("assert half\nhalf = 3\n") == [
        "snippets/toy/a.py:3: half is also inlined: genref.toy.base; rename it"
    ]
    assert faults("\nfrom genref.toy.other import whole\n") == [
        "snippets/toy/a.py:3: two inlined objects named half: genref.toy.base and genref.toy.other; rename one"
    ]
    assert faults("from torch.nn import functional as F\nfrom genref.toy.shapes import area\n") == [
        "snippets/toy/a.py:3: two inlined objects named F: from torch.nn import functional as F "
        "and import torch.nn.functional as F; rename one"
    ]
    assert faults("import torch\nimport torch.nn\nimport torch.nn.functional as F\n") == []
