"""The store: exact in what it keeps of a program's reads, safe against damage, and never holding a failure."""

import hashlib
import os
import shutil
import subprocess
import sys
import time

import pytest

from genref._site import runner
from genref._site.programs import Program
from genref._site.store import Store, digest

READER = """
import os
from pathlib import Path

import genref
from genref.toy.line import line

root = Path(genref.__file__).parent.parent
assert (root / "data.txt").read_text() == "data"
assert sorted(os.listdir(root / "folder")) == ["a", "b"]
assert not os.path.exists(root / "asked") and not (root / "tested").is_file()
assert not os.path.lexists(root / "linked") and not os.access(root / "entered", os.R_OK)
try:
    open(root / "opened")
except FileNotFoundError:
    pass
try:
    list(os.scandir(root / "listed"))
except FileNotFoundError:
    pass
try:
    from genref.toy import curve
except ImportError:
    pass
try:
    import helper
except ImportError:
    pass
assert os.environ.get("GENREF_SIZE") == "3" and os.getenv("GENREF_DEPTH") is None
Path("own").write_text("own")
assert Path("own").read_text() and Path("/etc/hostname").exists()
"""


def sha(data):
    return hashlib.sha256(data).hexdigest()


def reader(place="docs/a.md", line=5):
    return Program("fence", place, line, READER)


def plain(number, path="docs/a.md"):
    return Program("fence", path, 1, f"assert {number} + 1\n")


@pytest.fixture(scope="module")
def kept(checkout):
    """A checkout whose store holds the reader, and the outcome of its run."""
    root = checkout({"docs/a.md": "", "data.txt": "data", "folder/b": "", "folder/a": ""})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREF_SIZE", "3")
        patch.delenv("GENREF_DEPTH", raising=False)
        (done,) = runner.run(root, [reader()])
        assert done.faults == []
        yield root, done


def test_the_reads_are_recorded_exactly(kept):
    root, done = kept
    absent = ["asked", "entered", "genref/toy/curve", "genref/toy/curve.py", "genref/toy/line/__init__.py"]
    absent += ["helper", "helper.py", "linked", "listed", "opened", "tested"]
    files = ["data.txt", "genref/__init__.py", "genref/toy/__init__.py", "genref/toy/line.py"]
    assert done.reads == [
        *(["absent", path, ""] for path in absent),
        ["env", "GENREF_DEPTH", "None"],
        ["env", "GENREF_SIZE", "b'3'"],
        *(["file", path, sha((root / path).read_bytes())] for path in files),
        ["folder", "folder", sha(b"a\0b")],
    ]


def test_a_hit_wherever_the_program_stands(kept):
    root, done = kept
    (again,) = runner.run(root, [reader("docs/b.md", 90)])
    assert (again.cached, again.why, again.seconds, again.reads) == (True, "", done.seconds, done.reads)
    assert runner.key(reader()) == runner.key(Program("readme", "README.md", 1, READER))
    assert runner.key(reader()) != runner.key(Program("docstring", "genref/toy/line.py", 1, READER + "\n"))


@pytest.mark.parametrize(
    ("path", "text", "why"),
    [
        ("data.txt", "date", "data.txt changed"),
        ("data.txt", None, "data.txt changed"),
        ("genref/__init__.py", "# changed", "genref/__init__.py changed"),
        ("genref/toy/line.py", "# changed", "genref/toy/line.py changed"),
        ("genref/toy/line/__init__.py", "", "genref/toy/line/__init__.py now exists"),
        ("genref/toy/curve.py", "", "genref/toy/curve.py now exists"),
        ("genref/toy/curve/__init__.py", "", "genref/toy/curve now exists"),
        ("helper.py", "", "helper.py now exists"),
        ("folder/c", "", "folder changed"),
        ("folder/a", None, "folder changed"),
        *((name, "", f"{name} now exists") for name in ("asked", "tested", "linked", "entered", "opened", "listed")),
    ],
)
def test_every_change_of_what_was_read_misses_and_says_why(kept, path, text, why):
    root, _ = kept
    place = root / path
    new_folder, before = not place.parent.exists(), place.read_bytes() if place.exists() else None
    place.parent.mkdir(exist_ok=True)
    place.unlink() if text is None else place.write_text(text)
    assert Store(root).load(runner.key(reader())) == (None, why)
    place.unlink(missing_ok=True) if before is None else place.write_bytes(before)
    if new_folder:
        place.parent.rmdir()
    assert Store(root).load(runner.key(reader()))[1] == ""


def test_a_change_of_the_environment_misses_and_says_why(kept, monkeypatch):
    root, _ = kept
    monkeypatch.setenv("GENREF_DEPTH", "1")
    assert Store(root).load(runner.key(reader())) == (None, "GENREF_DEPTH changed")


def test_what_was_not_read_misses_nothing(kept):
    root, _ = kept
    (root / "folder/a").write_text("only the names in a folder were read")
    (root / "other.txt").write_text("nobody read it")
    assert Store(root).load(runner.key(reader()))[1] == ""


def test_a_program_a_pin_or_a_library_that_is_new_misses(kept, monkeypatch):
    root, _ = kept
    new = "its code, its seed or its libraries are new to the store"
    assert Store(root).load(runner.key(Program("fence", "docs/a.md", 5, READER + "\n"))) == (None, new)
    assert Store(root).load(runner.key(reader(), turn=1)) == (None, new)
    runner.foundation.cache_clear()
    monkeypatch.setitem(runner.PINS, "OMP_NUM_THREADS", "2")
    assert Store(root).load(runner.key(reader())) == (None, new)
    monkeypatch.undo()
    runner.foundation.cache_clear()
    monkeypatch.setenv("GENREF_SIZE", "3")
    assert Store(root).load(runner.key(reader()))[1] == ""


def test_a_flipped_byte_anywhere_is_a_miss_and_runs_again(kept):
    root, done = kept
    file = Store(root).file(runner.key(reader()))
    good = file.read_bytes()
    for at in range(0, len(good), 37):
        file.write_bytes(good[:at] + bytes([good[at] ^ 64]) + good[at + 1 :])
        assert Store(root).load(runner.key(reader())) == (None, "its entry in the store was damaged")
    for broken in (b"", good[:100], b"\xff\xfe" + good):
        file.write_bytes(broken)
        assert Store(root).load(runner.key(reader())) == (None, "its entry in the store was damaged")
    (again,) = runner.run(root, [reader()])
    assert (again.cached, again.why) == (False, "its entry in the store was damaged")
    assert again.reads == done.reads
    assert Store(root).load(runner.key(reader()))[1] == ""


def test_a_copied_checkout_hits(kept, tmp_path):
    root, _ = kept
    copy = tmp_path.resolve() / "elsewhere"
    shutil.copytree(root, copy)
    (again,) = runner.run(copy, [reader()])
    assert again.cached


def test_entries_unused_for_thirty_days_go_and_used_ones_stay(checkout):
    root = checkout()
    store = Store(root)
    day = 86400
    for key, age in (("aa1", 29), ("aa2", 31), ("bb3", 2)):
        store.save(key, {"reads": []})
        os.utime(store.file(key), (time.time() - age * day,) * 2)
    for name, age in ((".new-old", 1), (".new-fresh", 0)):
        (store.folder / "aa" / name).write_text("cut short")
        os.utime(store.folder / "aa" / name, (time.time() - age * day,) * 2)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid(), 1):
        (store.folder / f"work-{pid}-x").mkdir()
    assert store.load("aa1") == ({"reads": []}, "")
    assert time.time() - store.file("aa1").stat().st_mtime < day
    store.forget()
    left = sorted(path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*") if path.is_file())
    assert left == ["aa/.new-fresh", "aa/aa1.json", "bb/bb3.json"]
    assert {path.name for path in store.folder.glob("work-*")} == {f"work-{os.getpid()}-x", "work-1-x"}


def test_the_store_can_stand_elsewhere_and_keeps_no_failure(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("GENREF_STORE", str(tmp_path / "store"))
    root = checkout()
    drawing = Program(
        "snippet",
        "snippets/toy/a.py",
        1,
        "assert 1\n\n\ndef figure(ax):\n    '''A line that rises from the lower left to the upper right.'''\n"
        "    ax.plot([1, 2])\n",
        "toy/a",
    )
    failing = [Program("fence", "docs/b.md", 1, text) for text in ("assert not 1\n", "import os\nos._exit(0)\n")]
    failing.append(Program("fence", "docs/c.md", 1, "import torch\nprint(torch.rand(3))\nassert 1\n"))
    first = runner.run(root, [drawing, plain(1), *failing])
    assert [bool(o.faults) for o in first] == [False, False, True, True, True]
    assert not (root / ".cache").exists()
    kept = [path.stem for path in (tmp_path / "store").glob("??/*.json")]
    assert sorted(kept) == sorted([runner.key(drawing), runner.key(plain(1))])
    again = runner.run(root, [drawing, plain(1)])
    assert [(o.cached, o.figures) for o in again] == [(True, o.figures) for o in first[:2]]


BUILDER = """
import sys
from pathlib import Path

from genref._site import runner
from genref._site.programs import Program

programs = [Program("fence", "docs/a.md", 1, f"assert {k} + 1\\n") for k in range(12)]
assert not [o.faults for o in runner.run(Path(sys.argv[1]), programs) if o.faults]
"""


def test_two_builders_on_one_store_at_once_both_succeed(checkout):
    root = checkout()
    place = str(runner.HERE.parents[1])
    both = [subprocess.Popen([sys.executable, "-c", BUILDER, str(root)], cwd=place) for _ in range(2)]
    assert [one.wait(60) for one in both] == [0, 0]
    outcomes = runner.run(root, [plain(k) for k in range(12)])
    assert all(o.cached for o in outcomes)
    assert not list((root / ".cache/genref").glob("??/.new-*"))


def test_entries_are_whole_or_not_there(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.save("aa", {"reads": [], "stdout": "one"})

    def cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        store.save("aa", {"reads": [], "stdout": "two"})
    assert store.load("aa")[0]["stdout"] == "one"
    assert digest("text") == digest(b"text")
