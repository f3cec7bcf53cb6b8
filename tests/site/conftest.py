"""What the tests of the engine share: checkouts small enough to break."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = Path(__file__).parent / "small"
collect_ignore = ["small"]  # a checkout of its own, built by test_build.py


@pytest.fixture(scope="session", autouse=True)
def _own_settings():
    """What the shell around the tests sets for builds of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GENREF_STORE", "GITHUB_ACTIONS", "SOURCE_DATE_EPOCH", "FORCE_COLOR", "TTY_COMPATIBLE"):
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


class Small(type(Path())):
    """The folder of a small checkout, and what can be done with it."""

    def command(self, *words, **environment):
        """Starts a command of the checkout, under an environment of its own."""
        env = os.environ | {"NO_MKDOCS_2_WARNING": "1"} | environment
        how = {"cwd": self, "env": env, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([sys.executable, "-m", *words], **how)

    def run(self, *words, **environment):
        """The exit status of a command, and what it printed."""
        process = self.command(*words, **environment)
        said, _ = process.communicate(timeout=120)
        return process.returncode, said

    def build(self, *words, **environment):
        return self.run("genref._site", "build", *words, **environment)

    def report(self):
        return json.loads((self / "site/report.json").read_text())

    def rerun(self):
        """The programs that a build runs again, each with the reason, and the number of claims."""
        status, said = self.build()
        assert status == 0, said
        made = self.report()
        count = made["programs"]
        assert count["total"] == count["run"] + count["cached"] + count["excused"]
        again = {f"{row['path']}:{row['line']}": row["why"] for row in made["per_program"] if not row["cached"]}
        assert len(again) == count["run"]
        return again, made["claims"]["run"]

    def pages(self):
        """All files of the site but its report."""
        files = {p.relative_to(self / "site").as_posix(): p for p in (self / "site").rglob("*") if p.is_file()}
        return {n: p.read_bytes() for n, p in files.items() if n != "report.json" and not n.startswith("report/")}

    def edit(self, place, old, new):
        """Replaces what stands once in a file; adds to its end where nothing is to be replaced."""
        text = (self / place).read_text()
        assert not old or text.count(old) == 1, f"{place}: {old}"
        (self / place).write_text(text.replace(old, new) if old else text + new)

    def line(self, place, words):
        """The line of a file on which some words first stand."""
        return (self / place).read_text().partition(words)[0].count("\n") + 1


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """The small checkout, built once."""
    root = Small(tmp_path_factory.mktemp("good").resolve() / "small")
    shutil.copytree(SMALL, root, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "genref/_site").symlink_to(ROOT / "genref/_site")  # a link, so that coverage knows the lines
    (root / "genref/__main__.py").symlink_to(ROOT / "genref/__main__.py")
    status, said = root.build(TZ="UTC")
    assert status == 0, said
    (root / "said.txt").write_text(said)
    return root


@pytest.fixture
def copy(good, tmp_path):
    """A copy of the built checkout, with its site and its store, in another folder."""
    return shutil.copytree(good, Small(tmp_path.resolve() / "copy"), symlinks=True)
