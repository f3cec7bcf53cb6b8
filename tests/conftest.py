"""Shape annotations of genref are enforced by beartype in every test; users have no such hook."""

import sys
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

pytest_plugins = ["genref._site.claims", "pytester"]

# jaxtyping takes the checker by name: beartype with the numeric tower, so that an int is a float.
tower = ModuleType("tower")
tower.check = beartype(conf=BeartypeConf(is_pep484_tower=True))
sys.modules["tower"] = tower
topics = [path.parent.name for path in Path(__file__).parent.parent.glob("genref/[!_]*/__init__.py")]
jaxtyping.install_import_hook([f"genref.{topic}" for topic in topics], "tower.check")


@pytest.fixture
def untyped(monkeypatch):
    """Without the hook, as users are: a bad argument meets the function's own ValueError."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
