"""Every program of the checkout, once more: under another seed, and as stock pytest-codeblocks runs it."""

import subprocess
import sys
from pathlib import Path

from genref._site import programs, runner

ROOT = Path(__file__).resolve().parents[2]
SITE = programs.collect(ROOT)


def said(outcomes):
    return {
        (o.program.kind, o.program.place): (o.stdout, o.cells, {name: f["data"] for name, f in o.figures.items()})
        for o in outcomes
    }


def test_another_seed_changes_nothing():
    first = runner.run(ROOT, SITE.programs)
    again = runner.run(ROOT, SITE.programs, cache=False, turn=7)
    assert [str(fault) for outcome in again for fault in outcome.faults] == []
    assert said(first) == said(again)


def test_stock_codeblocks_pass_with_no_help_from_our_code(tmp_path):
    """Stock means its own settings: no configuration of ours, no plugin of ours, and the programs stock would see."""
    words = ["-m", "pytest", "--codeblocks", "-q", "-c", "/dev/null", "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
    paths = [str(ROOT / "README.md"), str(ROOT / "docs")]
    done = subprocess.run([sys.executable, *words, *paths], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    fences = [p for p in SITE.programs if p.kind in ("fence", "readme")]
    excused = [place for place in SITE.excused if place[0].endswith(".md")]
    assert f"{len(fences)} passed" in done.stdout.splitlines()[-1]
    assert (f"{len(excused)} skipped" in done.stdout) == bool(excused)


def test_the_readme_names_the_two_commands_that_the_makefile_has():
    fences = [f for f in programs.scan.fences((ROOT / "README.md").read_text()) if f.info == "console"]
    commands = [
        line.removeprefix("$ ") for fence in fences for line in fence.code.splitlines() if line.startswith("$ make ")
    ]
    assert commands[:2] == ["make site", "make test"]
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in ("site", "test", "serve", "verify", "update", "lock", "clean", "distclean"):
        assert f"make {name} " in done.stdout


def test_make_says_in_one_line_what_is_missing(tmp_path):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\ncase "$*" in *version_info*) exit 1;; *) exit 0;; esac\n')
    bare = tmp_path / "bare-python"
    bare.write_text('#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; *) exit 0;; esac\n')
    old.chmod(0o755)
    bare.chmod(0o755)
    for words, message in [
        (["site", f"PYTHON={old}"], "needs Python 3.11 or newer"),
        (["site", f"PYTHON={bare}"], "has no ensurepip"),
        (["site", "PYTHON=/nowhere/python3"], "no /nowhere/python3 here"),
        (["sight"], "no target 'sight': make help lists them"),
    ]:
        done = subprocess.run(["make", *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode != 0
        assert message in done.stderr.splitlines()[0]
    assert not (tmp_path / ".venv").exists()
