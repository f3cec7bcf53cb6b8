"""The same sources build with Zensical, the successor of MkDocs Material; judged by our own list of faults."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genref._site import programs
from genref._site.audit import audit, read

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("zensical") / "checkout"
    kept = shutil.ignore_patterns(".git", ".venv", "coverage", "__pycache__", ".*_cache", "work-*")
    shutil.copytree(ROOT, root, ignore=kept)
    shutil.rmtree(root / "site", ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build"]  # not --clean: that empties .cache, and the store with it
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return root, done.stdout + done.stderr


def test_builds_without_a_warning(built):
    _, said = built
    assert "Warning" not in said
    assert "not checked" not in said


def test_has_none_of_our_faults(built):
    root, _ = built
    _, faults = audit(root, root / "site")
    assert [str(fault) for fault in faults] == []


def test_shows_what_the_other_build_shows(built):
    """Claims with their verdicts, figures, formulas, outputs and the Reference, page by page."""
    root, _ = built
    ours = ROOT / "site"
    for page in sorted(ours.rglob("index.html")):
        place = page.relative_to(ours)
        if place.parts[0] in ("report", "tours"):
            continue
        one, other = page.read_text(), (root / "site" / place).read_text()
        for mark in (r'id="claim-[\w-]+"', r'class="claim held"', r"<math", r'<svg class="figure"', r"Holds: "):
            assert len(re.findall(mark, one)) == len(re.findall(mark, other)), f"{place}: {mark}"
        symbols = {name for name in read(page).ids if name.startswith("genref.")}
        assert symbols <= read(root / "site" / place).ids, place


def test_shows_the_tour_without_the_notebook_plugin(built):
    root, _ = built
    for tour in [p for p in programs.collect(ROOT).programs if p.kind == "tour"]:
        text = (root / f"site/tours/{tour.name}/index.html").read_text()
        assert '<svg class="figure"' in text
        assert "<math" in text
