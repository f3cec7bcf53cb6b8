"""A build killed at any stage leaves nothing alive and nothing broken; two at once do not meet."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from genref._site import build as front

TICKS = "`" * 3

SMALL = Path(__file__).parent / "small"


def processes(mark):
    """The processes that work in, or were started in, a folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(place / "cwd").startswith(mark):
                found.append(int(place.name))
        except OSError:
            continue
    return found


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not (done := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return done


SLOW = """
import time
from pathlib import Path


def on_env(env, **_):
    Path("rendering").touch()
    time.sleep(99)
"""


@pytest.mark.parametrize("stage", ["programs", "claims", "render"])
def test_a_killed_build_leaves_nothing_alive_and_nothing_broken(good, copy, stage):
    def heard(words):
        return any(words in each for each in iter(building.stdout.readline, ""))

    if stage == "programs":
        copy.edit("docs/index.md", "x = 1\n", "import time\n\ntime.sleep(99)\nx = 1\n")
    elif stage == "claims":
        copy.edit("tests/toy/test_line.py", "    x, y =", "    __import__('time').sleep(99)\n    x, y =")
    else:
        (copy / "slow.py").write_text(SLOW)
        copy.edit("mkdocs.yml", "hooks: [genref/_site/hooks.py]", "hooks: [genref/_site/hooks.py, slow.py]")
    building = copy.command("genref._site", "build")
    started = {"programs": "programs: docs/index.md:6", "claims": "claims: tests/toy"}
    assert wait_for((copy / "rendering").exists, 60) if stage == "render" else heard(started[stage])
    wanted = 1 if stage == "render" else 3  # the builder, its server, a program
    assert wait_for(lambda: len(processes(str(copy))) == wanted, 10)
    building.send_signal(signal.SIGKILL)
    building.communicate()
    assert wait_for(lambda: not processes(str(copy)), 5)
    assert copy.pages() == good.pages()
    for place in ("docs/index.md", "tests/toy/test_line.py", "mkdocs.yml"):
        shutil.copy(SMALL / place, copy / place)
    assert copy.rerun() == ({}, 0)
    assert copy.pages() == good.pages()
    assert [path.name for path in (copy / ".cache/genref").glob("work-*")] == []
    assert not (copy / ".cache/site").exists()


@pytest.mark.parametrize("state", ["before", "between", "after"])
def test_a_build_killed_in_the_swap_gives_the_last_good_site_back(tmp_path, state):
    """The swap is two renames: the states on either side of each, as a killed build leaves them."""
    place = front.recover(tmp_path)
    for folder, text in ((tmp_path / "site", "old"), (place / "new", "new")):
        folder.mkdir()
        (folder / "index.html").write_text(text)
    if state != "before":
        (tmp_path / "site").rename(place / "old")
    if state == "after":
        (place / "new").rename(tmp_path / "site")
    assert list(front.recover(tmp_path).iterdir()) == []
    assert (tmp_path / "site/index.html").read_text() == ("new" if state == "after" else "old")


def test_a_build_stopped_in_the_swap_gives_the_last_good_site_back(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("old")

    def stopped(root, place, cache):
        (place / "new").mkdir()
        (root / "site").rename(place / "old")
        raise KeyboardInterrupt

    monkeypatch.setattr(front, "_build", stopped)
    with pytest.raises(KeyboardInterrupt):
        front.build(tmp_path)
    assert (tmp_path / "site/index.html").read_text() == "old"
    assert not (tmp_path / ".cache/site").exists()


def test_two_builds_at_once_both_succeed(copy, good):
    copy.edit("docs/index.md", "x = 1", "x = 1 + 0")
    both = [copy.command("genref._site", "build") for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("another build of this checkout is running; waiting for it" in text for text in said) == 1
    assert sorted(re.search(r"\((\d) run", text)[1] for text in said) == ["0", "1"]
    assert copy.pages().keys() == good.pages().keys()
