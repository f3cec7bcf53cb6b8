"""A build that meets every fault at once names each once, with its line, last; and leaves the last good site."""

import re
import shutil

import pytest

ASSERTED = "; mend the program, or what it asserts"
RAISED = "; mend the program, or catch it where it is meant"
WARNED = "; avoid it, or catch it where it is meant"
TICKS = "`" * 3


PROGRAMS = {  # what stands in a fence: its fault, with the line in it
    "x = 1\nassert x == 2": (2, "AssertionError: assert x == 2" + ASSERTED),
    "raise KeyError('x')": (1, "KeyError: 'x'" + RAISED),
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
    "import warnings\nwarnings.warn('careful')": (2, "UserWarning: careful" + WARNED),
    "if 1\n    pass": (1, "SyntaxError: expected ':'; mend the program"),
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

A formula $\\nosuch \\frac12$.

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
    root = shutil.copytree(good, type(good)(tmp_path_factory.mktemp("bad").resolve() / "small"), symlinks=True)
    fences = [f"{TICKS}python\n{code}\n{TICKS}\n" for code in map(verifying, PROGRAMS)]
    fences = [f"<!-- limit: seconds=1 -->\n{fence}" if "while" in fence else fence for fence in fences]
    (root / "docs/programs.md").write_text("# Programs\n\n" + "\n".join(fences))
    (root / "docs/page.md").write_text(PAGE)
    (root / "genref/toy/lonely.py").write_text(LONELY)
    (root / "docs/toy/lonely.md").write_text("# Lonely\n\n[claim: toy-lonely]\n")
    (root / "snippets/toy/bare.py").write_text(BARE)
    stated = "".join(f"    Claim: toy-{name}\n        No.\n\n" for name in ("untested", "skipped"))
    root.edit("genref/toy/line.py", "    Claim: toy-line\n", f"{stated}    Claim: toy-line\n")
    boxes = "[claim: toy-line]\n\n[claim: toy-untested]\n\n[claim: toy-skipped]\n"
    root.edit("docs/toy/line.md", "[claim: toy-line]\n", boxes)
    root.edit("tests/toy/test_line.py", 'answers=["Q1"]', 'answers=["Q2"]')
    root.edit("tests/toy/test_line.py", "", TESTS)
    root.edit("mkdocs.yml", "docs_dir: docs\n", "docs_dir: docs\nnav: [index.md, gone.md]\n")
    root.edit("tests/toy/test_line.py", "2 * x + 1", "2 * x")
    status, said = root.build(GITHUB_ACTIONS="true")
    return root, said, status


def test_every_fault_is_listed_once_sorted_last_and_the_build_fails(bad):
    root, said, status = bad
    assert status == 1
    text = (root / "docs/programs.md").read_text()
    expected = set()
    for source, (at, message) in PROGRAMS.items():
        first = text.split(verifying(source) + "\n" + TICKS)[0].count("\n") + 1
        expected.add(f"docs/programs.md:{first + at - 1}: {message}")
    page = lambda words: f"docs/page.md:{root.line('docs/page.md', words)}: "
    module = lambda name, words: f"genref/toy/{name}.py:{root.line(f'genref/toy/{name}.py', words)}: "
    tests = lambda words: f"tests/toy/test_line.py:{root.line('tests/toy/test_line.py', words)}: "
    bound = "at worst it measured 0 where 1e-12 is allowed"
    named = "name one that it has"
    expected |= {
        page("nosuch") + 'formula `\\nosuch \\frac12`: Unknown command "\\nosuch"; write it as math-core reads it',
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
        "mkdocs.yml:4: dead link to gone.md; write that page, or take it out",
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
    assert root.pages() == good.pages()
    assert not list((root / ".cache/site").glob("*"))


def test_a_configuration_that_cannot_be_read_is_one_fault(copy):
    (copy / "mkdocs.yml").write_text("site_name: small\nnav: [one\n")
    status, said = copy.build()
    assert status == 1
    assert re.fullmatch(r"mkdocs.yml:\d: cannot be read: .*; mend it\n", said)


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
    copy.edit("mkdocs.yml", "hooks: [genref/_site/hooks.py]", "hooks: [genref/_site/hooks.py, raising.py]")
    status, said = copy.build(FORCE_COLOR="1")
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
