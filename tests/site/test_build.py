"""The build front, on a small checkout: what it writes, what it runs again, what it lists, and what survives it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genref._site import build as front
from genref._site import runner
from genref._site.store import Store

ROOT = Path(__file__).resolve().parents[2]
SMALL = Path(__file__).parent / "small"
TICKS = "`" * 3


def command(root, *words, **environment):
    """A command of the checkout at `root`, under an environment of its own."""
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"} | environment
    how = {"cwd": root, "env": env, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-m", *words], **how)


def ran(root, *words, **environment):
    """Its exit status and what it printed."""
    process = command(root, *words, **environment)
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


def build(root, *words, **environment):
    return ran(root, "genref._site", "build", *words, **environment)


def report(root):
    return json.loads((root / "site/report.json").read_text())


def files(site):
    """All files of a site but its report."""
    found = [p.relative_to(site).as_posix() for p in site.rglob("*") if p.is_file()]
    return {
        name: (site / name).read_bytes() for name in found if name != "report.json" and not name.startswith("report/")
    }


def edit(root, place, old, new):
    text = (root / place).read_text()
    assert text.count(old) == 1, f"{place}: {old}"
    (root / place).write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A checkout, built once; what the build printed."""
    root = tmp_path_factory.mktemp("good").resolve() / "small"
    shutil.copytree(SMALL, root, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "genref/_site").symlink_to(ROOT / "genref/_site")  # a link, so that coverage knows the lines
    (root / "genref/__main__.py").symlink_to(ROOT / "genref/__main__.py")
    status, said = build(root, TZ="UTC")
    assert status == 0, said
    return root, said


@pytest.fixture
def copy(good, tmp_path):
    """A copy of the built checkout, with its site and its store, in another folder."""
    root = tmp_path.resolve() / "copy"
    shutil.copytree(good[0], root, symlinks=True)
    return root


SUMMARY = (
    r"(\d+) programs \((\d+) run, (\d+) cached\) · 1 claims hold, 1 mutants rejected · 7 pages · 0 warnings"
    r" · \d+ s · site/index.html"
)


def test_a_good_build_ends_with_its_summary_and_writes_its_report(good):
    root, said = good
    assert re.fullmatch(SUMMARY, said.splitlines()[-1]).groups() == ("8", "7", "0")
    made = report(root)
    count = made["programs"]
    assert count == {"total": 8, "run": 7, "cached": 0, "excused": 1, "failed": 0}
    assert made["claims"] == {
        "stated": 1,
        "held": 1,
        "failed": 0,
        "run": 1,
        "cached": 0,
        "mutants": 1,
        "mutants_rejected": 1,
    }
    assert [page["path"] for page in made["pages"]] == [
        "404.html",
        *(f"{name}index.html" for name in ("claims/", "", "questions/", "report/", "tours/walk/", "toy/line/")),
    ]
    for page in made["pages"]:
        assert set(page) == {"path", "html_bytes", "wire_bytes", "requests"}
        assert (
            page["html_bytes"] == (root / "site" / page["path"]).stat().st_size or page["path"] == "report/index.html"
        )
        assert 0 < page["wire_bytes"] < 150_000
        assert 0 < page["requests"] <= 12
    assert set(made["seconds"]) == {"programs", "claims", "render", "audit", "total"}
    assert all(isinstance(value, float) for value in made["seconds"].values())
    assert made["versions"] == runner.libraries()
    assert made["revision"] == ""  # no repository here
    for row in made["per_program"]:
        assert set(row) >= {"path", "line", "kind", "seconds", "cached", "why", "reads", "made_from"}
        assert isinstance(row["seconds"], float)
        assert (row["cached"], row["why"]) == (False, "its code, its seed or its libraries are new to the store")
    assert [(row["path"], row["line"], row["kind"], row["made_from"]) for row in made["per_program"]] == [
        ("snippets/toy/line.py", 1, "snippet", None),
        ("snippets/toy/line.py", 1, "standalone", "snippets/toy/line.py"),
        ("docs/index.md", 6, "fence", None),
        ("docs/toy/line.md", 8, "fence", None),
        ("README.md", 4, "readme", None),
        ("genref/toy/line.py", 16, "docstring", None),
        ("docs/tours/walk.py", 1, "tour", None),
    ]
    loaded = [row["line"] for row in made["per_program"] if "genref/toy/line.py" in row["reads"]]
    assert loaded == [1, 8, 16]
    (claim,) = json.loads((root / "site/claims.json").read_text())
    assert claim == {
        "id": "toy-line",
        "stem": "toy/line",
        "statement": "For all $x$ and $y$, $f(x + y) = f(x) + f(y)$.",
        "kind": "numeric",
        "oracle": "the slope times each, added",
        "verdict": "held",
        "measured": 0.0,
        "bound": 1e-12,
        "mutants": [{"name": "an offset", "measured": 1.0, "rejected": True}],
        "answers": ["Q1"],
        "test": "tests/toy/test_line.py:8",
    }


def test_the_pages_show_what_ran(good):
    """Output, verdict, figure, formulas, tour and report stand on the pages; times on no page but the report."""
    site = good[0] / "site"
    page = (site / "toy/line/index.html").read_text()
    for shown in (
        "tensor([2., 2.])",
        "twice as high at 2 as at 1",
        "Holds: numeric, error 0 where 1.0e-12 is allowed; 1 of 1 wrong versions rejected",
        "The line goes through the origin.</figcaption>",
        '<svg class="figure" role="img" aria-label="A straight line through the origin climbs',
        "Standalone copy",
        "<math",
    ):
        assert shown in re.sub(r"</?span[^>]*>|</?p>\n?", "", page), shown
    tour = (site / "tours/walk/index.html").read_text()
    assert "one step" in tour
    assert 'aria-label="A straight line climbs from nought to one' in tour
    assert "<style" not in tour.partition("<article")[2]
    assert "new to the store" in (site / "report/index.html").read_text()
    assert "The runner itself costs" in (site / "report/index.html").read_text()


def test_builds_in_two_folders_and_time_zones_cached_or_not_are_the_same(good, tmp_path):
    """The second runs from a copy of the machinery too: everything is imported from the checkout of the folder."""
    other = tmp_path / "far" / "away"
    shutil.copytree(good[0], other, ignore=shutil.ignore_patterns("site", "__pycache__"), symlinks=False)
    edit(other, "genref/_site/build.py", "0 warnings", "no warnings")
    status, said = build(other, "--no-cache", TZ="Asia/Tokyo")
    assert status == 0, said
    assert "7 run, 0 cached" in said
    assert "no warnings" in said
    assert {row["why"] for row in report(other)["per_program"]} == {"the store was set aside (--no-cache)"}
    status, said = build(good[0], TZ="UTC")
    assert status == 0, said
    assert "0 run, 7 cached" in said
    assert report(good[0])["claims"]["run"] == 0
    assert files(other / "site") == files(good[0] / "site")


def rerun(root):
    """The programs and the number of claims that a build runs again."""
    status, said = build(root)
    assert status == 0, said
    made = report(root)
    count = made["programs"]
    assert count["total"] == count["run"] + count["cached"] + count["excused"]
    again = {f"{row['path']}:{row['line']}": row["why"] for row in made["per_program"] if not row["cached"]}
    assert len(again) == count["run"]
    return again, made["claims"]["run"]


def test_editing_prose_runs_nothing(copy):
    edit(copy, "docs/index.md", "# Small", "# Small\n\nA line of prose moves the program.")
    assert rerun(copy) == ({}, 0)
    assert "moves the program" in (copy / "site/index.html").read_text()


def test_editing_one_fence_runs_that_one_and_a_flipped_byte_another(copy):
    edit(copy, "docs/index.md", "x = 1", "x = 3 - 2")
    edit(copy, "README.md", "# Small", "# Smaller")
    done = [p for p in front.programs.collect(copy).programs if p.path == "README.md"]
    entry = Store(copy).file(runner.key(done[0]))
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 1
    entry.write_bytes(data)
    assert rerun(copy) == (
        {
            "docs/index.md:6": "its code, its seed or its libraries are new to the store",
            "README.md:4": "its entry in the store was damaged",
        },
        0,
    )


def test_editing_a_module_runs_exactly_what_loads_it(copy):
    with (copy / "genref/toy/line.py").open("a") as module:
        module.write("\n\nOTHER = 1\n")
    places = ["snippets/toy/line.py:1", "docs/toy/line.md:8", "genref/toy/line.py:16"]
    assert rerun(copy) == (dict.fromkeys(places, "genref/toy/line.py changed"), 1)


PROGRAMS = {  # what stands in a fence: its fault, with the line in it
    "x = 1\nassert x == 2": (2, "AssertionError: assert x == 2"),
    "raise KeyError('x')": (1, "KeyError: 'x'"),
    "while True:\n    pass": (1, "still running after 1 s; make it faster, or comment `limit: seconds=120` above it"),
    "import os\nos.abort()": (1, "ended by SIGABRT before its last line; find what aborts"),
    "bytearray(20 * 2**30)": (
        1,
        "MemoryError: bytearray(20 * 2**30); make it smaller, or comment `limit: memory=6GiB` above it",
    ),
    "for _ in range(1000):\n    print('x' * 2**20)": (
        1,
        "wrote more than 8 MiB; print less, or comment `limit: output=32MiB` above it",
    ),
    "import socket\nsocket.create_connection(('127.0.0.1', 9))": (
        2,
        "PermissionError: looked up a host (socket.getaddrinfo): programs of the site run alone, in their own folder",
    ),
    "open('../x', 'w')": (
        1,
        "PermissionError: wrote outside its folder (open '../x'): programs of the site run alone, in their own folder",
    ),
    "raise SystemExit(0)": (1, "ended before its last line (SystemExit: 0); let it run to its end"),
    "import os\nos._exit(0)": (1, "ended before its last line (exit status 0); let it run to its end"),
    "import warnings\nwarnings.warn('careful')": (2, "UserWarning: careful"),
    "if 1\n    pass": (1, "SyntaxError: expected ':'"),
    "import torch\nprint(torch.rand(2))\nassert abs(1)": (
        1,
        "uses global randomness: pass a generator; its output changes with the seed",
    ),
    "print('nothing')": (1, "verifies nothing; assert something, or give its expected output"),
}


def verifying(source):
    """A program whose only fault is the one that is wanted."""
    return source if "assert" in source or "nothing" in source else f"{source}\nassert abs(1)"


PAGE = f"""# Faults

A formula $\\nosuch x$.

[claim: nothing]

{TICKS}python title="snippets/toy/line.py"
--8<-- "snippets/toy/line.py:chek"
{TICKS}

A [dead anchor](toy/line.md#nowhere), a [dead link](nowhere.md) and an [anchor here](#none).

{TICKS}python
print("one")
{TICKS}
<!--pytest-codeblocks:expected-output-->
{TICKS}
two
{TICKS}

<img src="picture.png">
"""
LONELY = 'r"""A module.\n\nClaim: toy-lonely\n    It has no test module.\n"""\n'
BARE = 'assert len("ab")\n\n\ndef figure(ax):\n    "Too short."\n    ax.plot([1, 2])\n'


TESTS = """

@pytest.mark.claim("toy-skipped")
def test_skipped(evidence, f=line):
    pytest.skip("later")


@mutant(test_skipped, "none")
def none(x):
    return x


@pytest.mark.claim("toy-stray")
def test_stray(evidence, f=line):
    evidence.exact(f(torch.ones(1)), [2], oracle="by hand")


@mutant(test_stray, "three times")
def thrice(x):
    return 3 * x
"""
ALT = "say in its docstring, in 40 characters or more, what is to be seen"
MARK = "mark one in tests/toy/test_line.py"


@pytest.fixture(scope="module")
def bad(good, tmp_path_factory):
    """One build that meets every fault at once; the lines of its pages, what it printed, and its status."""
    root = tmp_path_factory.mktemp("bad").resolve() / "small"
    shutil.copytree(good[0], root, symlinks=True)
    fences = [f"<!-- limit: seconds=1 -->\n{TICKS}python\n{code}\n{TICKS}\n" for code in map(verifying, PROGRAMS)]
    (root / "docs/programs.md").write_text("# Programs\n\n" + "\n".join(fences))
    (root / "docs/page.md").write_text(PAGE)
    (root / "genref/toy/lonely.py").write_text(LONELY)
    (root / "docs/toy/lonely.md").write_text("# Lonely\n\n[claim: toy-lonely]\n")
    (root / "snippets/toy/bare.py").write_text(BARE)
    stated = "".join(f"    Claim: toy-{name}\n        No.\n\n" for name in ("untested", "skipped"))
    edit(root, "genref/toy/line.py", "    Claim: toy-line\n", f"{stated}    Claim: toy-line\n")
    boxes = "[claim: toy-line]\n\n[claim: toy-untested]\n\n[claim: toy-skipped]\n"
    edit(root, "docs/toy/line.md", "[claim: toy-line]\n", boxes)
    edit(root, "tests/toy/test_line.py", 'answers=["Q1"]', 'answers=["Q2"]')
    with (root / "tests/toy/test_line.py").open("a") as tests:
        tests.write(TESTS)
    edit(root, "mkdocs.yml", "docs_dir: docs\n", "docs_dir: docs\nnav: [index.md, gone.md]\n")
    edit(
        root,
        "genref/toy/line.py",
        "    Claim: toy-line\n",
        "    Claim: toy-untested\n        No.\n\n    Claim: toy-line\n",
    )
    edit(root, "tests/toy/test_line.py", "2 * x + 1", "2 * x")
    status, said = build(root, GITHUB_ACTIONS="true")
    return root, said, status


def line(root, place, text):
    lines = (root / place).read_text().split("\n")
    return next(number for number, each in enumerate(lines, 1) if text in each)


def test_every_fault_is_listed_once_sorted_last_and_the_build_fails(bad):
    root, said, status = bad
    assert status == 1
    text = (root / "docs/programs.md").read_text()
    expected = set()
    for source, (at, message) in PROGRAMS.items():
        first = text.split(verifying(source) + "\n" + TICKS)[0].count("\n") + 1
        expected.add(f"docs/programs.md:{first + at - 1}: {message}")
    page = lambda words: f"docs/page.md:{line(root, 'docs/page.md', words)}: "
    module = lambda name, words: f"genref/toy/{name}.py:{line(root, f'genref/toy/{name}.py', words)}: "
    tests = lambda words: f"tests/toy/test_line.py:{line(root, 'tests/toy/test_line.py', words)}: "
    bound = "at worst it measured 0 where 1e-12 is allowed"
    named = "name one that it has"
    expected |= {
        page("nosuch") + 'formula `\\nosuch x`: Unknown command "\\nosuch"; write it as math-core reads it',
        page("[claim: nothing]") + "unknown claim nothing",
        page('line.py:chek"') + "snippets/toy/line.py has no section chek; did you mean check?",
        page("dead") + f"dead anchor ../toy/line/#nowhere: toy/line/index.html has no #nowhere; {named}",
        page("dead") + f"dead anchor #none: page/index.html has no #none; {named}",
        page("dead") + "dead link nowhere.md; name a page that exists",
        page("two") + "expected output differs: the page has 'two', it printed 'one'; make update rewrites it",
        page("picture") + "image picture.png without alt text; write ![what is to be seen](picture.png)",
        page("picture") + "asks for picture.png, which is not there",
        f"snippets/toy/bare.py:4: figure has no alt text: {ALT}",
        module("line", "toy-untested") + f"claim toy-untested has no test; {MARK} with claim('toy-untested')",
        module("lonely", "toy-lonely") + "claim toy-lonely has no test module; write tests/toy/test_lonely.py",
        f"tests/toy/test_line.py:8: claim toy-line: the check accepts the mutant 'an offset'; {bound}",
        "tests/toy/test_line.py:8: claim toy-line answers ['Q2'], docs/questions.yml says ['Q1']",
        f"{tests('toy-skipped')}claim toy-skipped was skipped, with its test or a mutant; run it",
        f"{tests('toy-stray')}claim toy-stray is tested but no docstring of genref states it",
    }
    listed = re.split(r"\n\d+ faults:\n", said)[1].splitlines()
    faults = [each for each in listed if not each.startswith("::error")]
    places = [(each.split(":")[0], int(each.split(":")[1])) for each in faults]
    assert places == sorted(places)
    assert len(faults) == len(set(faults)) == int(re.search(r"\n(\d+) faults:\n", said)[1])
    assert "\n".join(sorted(expected ^ set(faults))) == ""


def test_the_others_ran_and_the_last_good_site_stands(bad, good):
    root, said, _ = bad
    started = re.findall(r"^(?:programs|claims): (\S+)$", said, re.M)
    assert len({place for place in started if place.startswith("docs/programs.md:")}) == len(PROGRAMS)
    assert "tests/toy/test_line.py:1" in started
    assert files(root / "site") == files(good[0] / "site")
    assert not list((root / ".cache/site").glob("*"))


def test_on_github_faults_are_announced_where_they_stand(bad):
    _, said, _ = bad
    where = r"^::error file=snippets/toy/bare.py,line=4::figure has no alt text: say in its docstring"
    assert len(re.findall(where, said, re.M)) == 1
    assert said.count("\n::error file=") == int(re.search(r"\n(\d+) faults:\n", said)[1])


def test_what_stops_the_machinery_itself_is_listed_too(copy):
    """A module and a list that cannot be read, and a renderer that raises; on a terminal, with a progress bar."""
    (copy / "genref/toy/broken.py").write_text("def f(:\n")
    (copy / "docs/questions.yml").write_text("- names: [Q1]\n- { names: Q2 ? }\n  x")
    (copy / "docs/index.md").write_text("# Small\n")
    (copy / "raising.py").write_text("def on_env(env, **_):\n    raise RuntimeError('no room')\n")
    edit(copy, "mkdocs.yml", "hooks: [genref/_site/hooks.py]", "hooks: [genref/_site/hooks.py, raising.py]")
    status, said = build(copy, FORCE_COLOR="1")
    assert status == 1
    said = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", said)
    faults = re.split(r"\n\d+ faults?:\n", said)[1].splitlines()
    assert [fault.partition(": ")[0] for fault in faults if "questions.yml says" not in fault] == [
        "docs/questions.yml:2",
        "genref/toy/broken.py:1",
        "mkdocs.yml:1",
    ]
    assert "mkdocs.yml:1: the pages were not made: RuntimeError: no room" in faults
    assert re.search(r"claims .*1/1", said)


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("A link in toy/line.md leads\n  nowhere", "docs/toy/line.md:1"),
        ("see genref/toy/line.py:12 for more", "genref/toy/line.py:12"),
        ("no page toy/none.md", "mkdocs.yml:1"),
        ("something else", "mkdocs.yml:1"),
    ],
)
def test_a_warning_of_mkdocs_is_given_its_place(good, message, place):
    assert str(front.located(good[0], message)) == f"{place}: {' '.join(message.split())}"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (runner.BuildError("the fork server ended"), 1, "genref/_site/runner.py:1: the fork server ended\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_a_build_that_is_stopped_says_so(good, monkeypatch, capsys, error, status, said):
    def stopped(*_, **__):
        raise error

    monkeypatch.chdir(good[0])
    monkeypatch.setattr(sys, "argv", ["genref", "build"])
    monkeypatch.setattr(front, "build", stopped)
    assert front.main() == status
    assert capsys.readouterr().out == said


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
        edit(copy, "docs/index.md", "x = 1\n", "import time\n\ntime.sleep(99)\nx = 1\n")
    elif stage == "claims":
        edit(copy, "tests/toy/test_line.py", "    x, y =", "    __import__('time').sleep(99)\n    x, y =")
    else:
        (copy / "slow.py").write_text(SLOW)
        edit(copy, "mkdocs.yml", "hooks: [genref/_site/hooks.py]", "hooks: [genref/_site/hooks.py, slow.py]")
    building = command(copy, "genref._site", "build")
    started = {"programs": "programs: docs/index.md:6", "claims": "claims: tests/toy"}
    assert wait_for((copy / "rendering").exists, 60) if stage == "render" else heard(started[stage])
    wanted = 1 if stage == "render" else 3  # the builder, its server, a program
    assert wait_for(lambda: len(processes(str(copy))) == wanted, 10)
    building.send_signal(signal.SIGKILL)
    building.communicate()
    assert wait_for(lambda: not processes(str(copy)), 5)
    assert files(copy / "site") == files(good[0] / "site")
    for place in ("docs/index.md", "tests/toy/test_line.py", "mkdocs.yml"):
        shutil.copy(SMALL / place, copy / place)
    assert rerun(copy) == ({}, 0)
    assert files(copy / "site") == files(good[0] / "site")
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
    edit(copy, "docs/index.md", "x = 1", "x = 1 + 0")
    both = [command(copy, "genref._site", "build") for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("another build of this checkout is running; waiting for it" in text for text in said) == 1
    assert sorted(re.search(r"\((\d) run", text)[1] for text in said) == ["0", "1"]
    assert files(copy / "site").keys() == files(good[0] / "site").keys()


def test_update_rewrites_expected_output_and_leaves_that_of_a_failing_program(copy):
    good = (copy / "docs/toy/line.md").read_text()
    edit(copy, "docs/toy/line.md", "tensor([2., 2.])", "tensor([3., 3.])\nand more")
    edit(copy, "docs/toy/line.md", f"{TICKS}\ntwice as high at 2 as at 1\n{TICKS}", f"{TICKS}\n{TICKS}")
    inner = f"\n    {TICKS}python\n    print('a')\n\n    print('\\nb')\n    {TICKS}\n"
    inner += f"    <!--pytest-codeblocks:expected-output-->\n    {TICKS}\n    c\n    {TICKS}\n"
    failing = inner.replace("print('a')", "raise ValueError")
    with (copy / "docs/index.md").open("a") as page:
        page.write(f"\n!!! note\n{inner}")
    status, said = ran(copy, "genref._site", "update")
    assert status == 0, said
    assert (copy / "docs/toy/line.md").read_text() == good
    assert (copy / "docs/index.md").read_text().endswith(inner.replace("    c\n", "    a\n\n    b\n"))
    assert said.count("rewrote the expected output") == 3
    assert ran(copy, "genref._site", "update") == (0, "every expected output is as printed\n")
    with (copy / "docs/index.md").open("a") as page:
        page.write(f"\n!!! note\n{failing}")
    status, said = ran(copy, "genref._site", "update")
    assert status == 1
    assert "ValueError" in said
    assert (copy / "docs/index.md").read_text().endswith(failing)


@pytest.mark.parametrize(
    ("main", "words", "said"),
    [
        ("build", ["build", "--fast"], "unrecognized arguments: --fast"),
        ("build", [], "the following arguments are required: command"),
        ("build", ["bild"], "invalid choice: 'bild'"),
        ("verify", ["verify", "a", "b"], "unrecognized arguments: b"),
        ("verify", ["verify", "toy/lime"], "no claim or stem matches 'toy/lime'; did you mean toy/line?"),
    ],
)
def test_a_wrong_command_exits_with_2(copy, monkeypatch, capsys, main, words, said):
    from genref._site import verify

    monkeypatch.chdir(copy)
    monkeypatch.setattr(sys, "argv", ["genref", *words])
    with pytest.raises(SystemExit) as end:
        {"build": front.main, "verify": verify.main}[main]()
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_outside_a_checkout_both_commands_say_so(tmp_path, monkeypatch, capsys):
    from genref._site import verify

    monkeypatch.chdir(tmp_path)
    for main, word in ((front.main, "build"), (verify.main, "verify")):
        monkeypatch.setattr(sys, "argv", ["genref", word])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        assert "no mkdocs.yml here; run this in a checkout of genref" in capsys.readouterr().err


def test_verify_prints_the_table_of_the_claims_chosen(copy):
    status, said = ran(copy, "genref", "verify", "*-line")
    assert status == 0, said
    assert re.search(r"toy-line +held +numeric: error 0 where 1.0e-12 is allowed +1 of 1", said)
    assert said.splitlines()[-1] == "1 of 1 claims hold"


def test_verify_fails_and_says_why_where_a_claim_does_not_hold(copy):
    edit(copy, "genref/toy/line.py", "torch.mul(x, slope)", "torch.mul(x, slope) + 1e-6")
    status, said = ran(copy, "genref", "verify")
    assert status == 1
    assert re.search(r"toy-line +failed +numeric: error \S+ where 1.0e-12 is allowed +1 of 1", said)
    assert "0 of 1 claims hold" in said
    assert "tests/toy/test_line.py:11: claim toy-line: numeric: measured 1e-06, allowed 1e-12" in said
