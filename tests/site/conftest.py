"""What the tests of the engine share: checkouts small enough to break."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = Path(__file__).parent / "small"
collect_ignore = ["small"]  # a checkout of its own, built by test_build.py


@pytest.fixture(scope="session", autouse=True)
def _own_settings():
    """Builds of the tests keep their own stores, dates and announcements."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GENREF_STORE", "GITHUB_ACTIONS", "SOURCE_DATE_EPOCH"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """Makes a checkout that holds the package, one stem toy/line, and files given by name."""

    def make(files=None, name="checkout"):
        root = tmp_path_factory.mktemp(name).resolve()
        shutil.copytree(SMALL / "genref", root / "genref", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "genref/__init__.py", root / "genref")
        for place in ("mkdocs.yml", "pyproject.toml"):
            shutil.copy(SMALL / place, root)
        for place, text in (files or {}).items():
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            (root / place).write_text(text)
        return root

    return make


def processes(mark):
    """The ids of all processes that work in, or were started for, a folder whose path holds `mark`."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            seen = os.readlink(place / "cwd") + (place / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if mark in seen and place.name != str(os.getpid()):
            found.append(int(place.name))
    return found
