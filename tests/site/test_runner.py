"""Every way in which a program can fail, run in one batch: each is named with its line, and the others still run."""

import random
import re
import time
from fnmatch import fnmatchcase
from itertools import count
from statistics import median

import pytest

from genref._site import programs, runner, style
from genref._site.programs import LIMITS, Program

FIRST = 11  # where the program begins on its page
ASSERTED = "; mend the program, or what it asserts"
RAISED = "; mend the program, or catch it where it is meant"
WARNED = "; avoid it, or catch it where it is meant"
ALONE = ": programs of the site run alone, in their own folder"
SMALLER = "; make it smaller, or comment `limit: memory=6GiB` above it"
LESS = "wrote more than 8 MiB; print less, or comment `limit: output=32MiB` above it"

FAULTS = {  # name: (program, line in it, message)
    "assert": ("x = 1\nassert x == 2\n", 2, "AssertionError: assert x == 2" + ASSERTED),
    "said": ("x = 1\nassert x == 2, 'not two'\n", 2, "AssertionError: not two" + ASSERTED),
    "exception": ("def f():\n    raise KeyError('k')\n\nf()\n", 2, "KeyError: 'k'" + RAISED),
    "chain": ("import torch\ntorch.ones(2) @ torch.ones(3)\n", 2, "RuntimeError: *same number of elements*" + RAISED),
    "interrupt": ("raise KeyboardInterrupt\n", 1, "KeyboardInterrupt: raise KeyboardInterrupt" + RAISED),
    "loop": (
        "while True:\n    pass\n",
        1,
        "still running after 1 s; make it faster, or comment `limit: seconds=120` above it",
    ),
    "thread forever": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=[99]).start()\n",
        1,
        "still running after 1 s; make it faster, or comment `limit: seconds=120` above it",
    ),
    "abort": (
        "import os\nos.abort()\n",
        1,
        "ended by SIGABRT before its last line; find what aborts",
    ),
    "segfault": (
        "import ctypes\nctypes.string_at(0)\n",
        1,
        "ended by SIGSEGV before its last line; find what aborts",
    ),
    "killed": (
        "import os\nos.kill(os.getpid(), 9)\n",
        1,
        "killed from outside (signal 9), most likely for memory; make it smaller",
    ),
    "memory": ("x = 1\nlist(bytes(20 * 2**30))\n", 2, "MemoryError: list(bytes(20 * 2**30))" + SMALLER),
    "memory in torch": (
        "import torch\ntorch.zeros(20 * 2**28)\n",
        2,
        "RuntimeError: *can't allocate memory*" + SMALLER,
    ),
    "output": ("block = 'x' * 2**20\nfor _ in range(1000):\n    print(block)\n", 1, LESS),
    "error output": (
        "import sys\nblock = 'x' * 2**20\nfor _ in range(1000):\n    sys.stderr.write(block)\n",
        1,
        LESS,
    ),
    "socket": (
        "import socket\n\nwith socket.socket() as s:\n    s.connect(('127.0.0.1', 9))\n",
        4,
        "PermissionError: opened a network connection (socket.connect)" + ALONE,
    ),
    "host": (
        "import urllib.request\nurllib.request.urlopen('https://example.org')\n",
        2,
        "URLError: *looked up a host (socket.getaddrinfo)*",
    ),
    "caught": (
        "import socket\n\ntry:\n    socket.create_server(('127.0.0.1', 0))\nexcept OSError:\n    pass\n",
        4,
        "opened a network port (socket.bind)" + ALONE,
    ),
    "write": (
        "from pathlib import Path\nPath('../out.txt').write_text('x')\n",
        2,
        "PermissionError: wrote outside its folder (open '../out.txt')" + ALONE,
    ),
    "move": (
        "import os\nopen('x', 'w').close()\nos.rename('x', '../x')\n",
        3,
        "PermissionError: wrote outside its folder (os.rename '../x')" + ALONE,
    ),
    "link": (
        "import os\nos.symlink('x', '../x')\n",
        2,
        "PermissionError: wrote outside its folder (os.symlink '../x')" + ALONE,
    ),
    "remove": (
        "import os\nos.remove('/tmp/nothing')\n",
        2,
        "PermissionError: wrote outside its folder (os.remove '/tmp/nothing')" + ALONE,
    ),
    "subprocess": (
        "import subprocess\nsubprocess.run(['true'])\n",
        2,
        "PermissionError: started another program (subprocess.Popen)" + ALONE,
    ),
    "shell": ("import os\nos.system('true')\n", 2, "PermissionError: started another program (os.system)" + ALONE),
    "fork": ("import os\nos.fork()\n", 2, "PermissionError: started another process (os.fork)" + ALONE),
    "pool": (
        "from multiprocessing import get_context\n\nget_context('spawn').Process(target=print).start()\n",
        3,
        "PermissionError: started another program (fork_exec)" + ALONE,
    ),
    "exit": (
        "import sys\nsys.exit(0)\nassert False\n",
        2,
        "ended before its last line (SystemExit: 0); let it run to its end",
    ),
    "hard exit": (
        "import os\nos._exit(0)\nassert False\n",
        1,
        "ended before its last line (exit status 0); let it run to its end",
    ),
    "warning": ("import warnings\nwarnings.warn('careful')\n", 2, "UserWarning: careful" + WARNED),
    "deprecated": (
        "import warnings\nwarnings.warn('old', DeprecationWarning)\n",
        2,
        "DeprecationWarning: old" + WARNED,
    ),
    "unclosed": (
        "def f():\n    open('/dev/null')\n\n\nf()\n",
        2,
        "ResourceWarning: unclosed file <_io.TextIOWrapper name='/dev/null' mode='r' encoding='UTF-8'>" + WARNED,
    ),
    "unclosed at the end": (
        "file = open('/dev/null')\n",
        1,
        "ResourceWarning: unclosed file <_io.TextIOWrapper name='/dev/null' mode='r' encoding='UTF-8'>" + WARNED,
    ),
    "unraisable": (
        "class A:\n    def __del__(self):\n        raise ValueError('late')\n\n\nA()\n",
        3,
        "ValueError: late" + RAISED,
    ),
    "thread": (
        "import threading\ndef f():\n    raise ValueError('aside')\nthreading.Thread(target=f).start()\n",
        3,
        "ValueError: aside" + RAISED,
    ),
    "syntax": ("x = 1\nif x\n    print(x)\n", 2, "SyntaxError: expected ':'; mend the program"),
    "torch seed": (
        "import torch\nprint(torch.rand(3))\n",
        1,
        "uses global randomness: pass a generator; its output changes with the seed",
    ),
    "numpy seed": (
        "import numpy\nprint(numpy.random.rand(3))\n",
        1,
        "uses global randomness: pass a generator; its output changes with the seed",
    ),
    "alt text": (
        "def figure(ax):\n    'Short.'\n    ax.plot([1, 2])\n",
        1,
        "figure has no alt text: say in its docstring, in 40 characters or more, what is to be seen",
    ),
    "figure seed": (
        "import torch\n\n\ndef figure(fig):\n    '''A cloud of points that chance alone has drawn, anew each time.'''\n"
        "    fig.gca().plot(torch.rand(3))\n",
        1,
        "uses global randomness: pass a generator; its output changes with the seed",
    ),
    "tour": (
        "# %%\nx = 1\n\n# %%\nassert x == 2\n",
        5,
        "AssertionError: assert x == 2" + ASSERTED,
    ),
    "tour alt text": (
        "# %%\nimport matplotlib.pyplot as plt\n\n# %%\nplt.plot([1])\n",
        5,
        "figure without alt text: begin the cell with `# alt: what is to be seen`",
    ),
}

SOUND = {
    "plain": "assert 1 + 1 == 2\n",
    "pickle": "import pickle\n\n\nclass A:\n    x = 1\n\n\nassert pickle.loads(pickle.dumps(A())).x == 1\n",
    "source": (
        "import inspect\n\n\ndef f():\n    return 1  # one\n\n\nclass A:\n    x = 2  # two\n\n\n"
        "assert inspect.getsource(f) == 'def f():\\n    return 1  # one\\n'\n"
        "assert inspect.getsource(A) == 'class A:\\n    x = 2  # two\\n'\n"
    ),
    "main": (
        f"import sys\nfrom pathlib import Path\n\nmain = sys.modules['__main__']\n"
        f"assert vars(main) is globals() and __name__ == '__main__' and Path(__file__).name == 'main.md'\n"
        f"assert sys._getframe().f_lineno == {FIRST + 5}\n"
    ),
    "cold": "import sys\n\nassert not [name for name in sys.modules if name.split('.')[0] == 'genref']\n",
    "empty": "import os\nimport sys\n\nassert os.listdir() == []\nassert sys.stdin.read() == ''\n",
    "pins": "import os\n\nimport torch\n\nassert torch.get_num_threads() == 1\n"
    + "".join(f"assert os.environ[{name!r}] == {value!r}\n" for name, value in runner.PINS.items())
    + "assert 'DISPLAY' not in os.environ and 'PYTHONPATH' not in os.environ\n"
    "assert os.environ['SOURCE_DATE_EPOCH'].isdigit()\n",
    "own folder": (
        "import tempfile\nfrom pathlib import Path\n\nPath('a').mkdir()\nPath('a/b').write_text('b')\n"
        "Path('a/b').replace('c')\nwith tempfile.TemporaryDirectory() as place:\n"
        "    assert Path(place).parent == Path.cwd()\n"
    ),
    "warning expected": "import warnings\n\nwith warnings.catch_warnings(record=True) as seen:\n"
    "    warnings.warn('careful')\nassert len(seen) == 1\n",
    "chance without effect": "import torch\n\nx = torch.rand(3)\nassert x.shape == (3,)\nprint(x.shape)\n",
    "own seed": "import torch\n\ntorch.manual_seed(3)\nx = torch.rand(3)\nprint(x)\nassert x.max() < 1\n",
}


LARGE = "print('x' * (9 * 2**20))\nassert bytes(4 * 2**30)\n"
FENCE = f"```python\n{LARGE}```\n"
LARGE_PAGE = f"{FENCE}\n<!-- limit: output=16MiB memory=8GiB seconds=70 -->\n{FENCE}\n<!-- limit: output=9 -->\n{FENCE}"


def program(name):
    kind = {"tour": "tour", "tour alt text": "tour", "alt text": "snippet", "figure seed": "snippet"}.get(name, "fence")
    limits = LIMITS | {"seconds": 1.0 if name in ("loop", "thread forever") else 60.0}
    source = FAULTS[name][0] if name in FAULTS else SOUND[name]
    path = f"docs/{name.replace(' ', '-')}.md"
    return Program(kind, path, FIRST if kind == "fence" else 1, source, name, limits=limits)


def lucky_first(made):
    here, there = (random.Random(int(runner.key(made, turn)[:8], 16)).random() for turn in (0, 1))
    return here < 0.5 <= there


def unlucky():
    """A program that holds under its first seed and fails under the second."""
    texts = (f"import random  # {nonce}\n\nassert random.random() < 0.5\n" for nonce in count())
    return next(filter(lucky_first, (Program("fence", "docs/unlucky.md", 1, text) for text in texts)))


def printing(number, text):
    place = f"docs/print{number}.md"
    return Program("fence", place, 2, "print('one')\nprint('two')\n", expected=[(place, 7, text)])


@pytest.fixture(scope="module")
def site(checkout):
    root = checkout({"docs/large.md": LARGE_PAGE, "snippets/toy/big.py": f"# limit: output=16MiB memory=8GiB\n{LARGE}"})
    return programs.collect(root)


@pytest.fixture(scope="module")
def batch(site):
    """All of them at once, as a build runs them."""
    wanted = [program(name) for name in [*FAULTS, *SOUND]]
    twins = [Program("fence", "docs/a.md", 1, "assert not 1\n"), Program("readme", "README.md", 40, "assert not 1\n")]
    prints = [printing(k, text) for k, text in enumerate(["one\ntwo\n", "one\ntoo\n", "one\n", "one\ntwo\nthree\n"])]
    limited = [p for p in site.programs if p.path in ("docs/large.md", "snippets/toy/big.py")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISPLAY", ":0")
        patch.setenv("PYTHONPATH", "/nowhere")
        done = runner.run(site.root, [*wanted, unlucky(), *twins, *prints, *limited])
    return {o.program.place: o for o in done}


@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_is_named_with_its_line(batch, name):
    _, line, message = FAULTS[name]
    (fault,) = batch[program(name).place].faults
    assert (fault.path, fault.line) == (program(name).path, program(name).line + line - 1)
    assert fnmatchcase(fault.message, message) if ": *" in message else fault.message == message
    assert "\n" not in str(fault)


@pytest.mark.parametrize("name", SOUND)
def test_the_others_still_run(batch, name):
    assert batch[program(name).place].faults == []


def said(batch, *places):
    return [str(fault) for place in places for fault in batch[place].faults]


def test_a_program_that_fails_under_another_seed_only_fails(batch):
    message = "under another seed AssertionError: assert random.random() < 0.5" + ASSERTED
    assert said(batch, "docs/unlucky.md:1") == [
        f"docs/unlucky.md:1: uses global randomness: pass a generator; {message}"
    ]


def test_the_same_code_in_two_places_runs_once_and_fails_in_both(batch):
    message = "AssertionError: assert not 1" + ASSERTED
    assert said(batch, "docs/a.md:1", "README.md:40") == [f"docs/a.md:1: {message}", f"README.md:40: {message}"]
    assert (batch["docs/a.md:1"].cached, batch["README.md:40"].cached) == (False, True)


def test_expected_output_is_compared_line_by_line(batch):
    mend = "make update rewrites it"
    assert said(batch, *(f"docs/print{k}.md:2" for k in range(4))) == [
        f"docs/print1.md:8: expected output differs: the page has 'too', it printed 'two'; {mend}",
        f"docs/print2.md:8: expected output differs: the page has '(nothing)', it printed 'two'; {mend}",
        f"docs/print3.md:9: expected output differs: the page has 'three', it printed '(nothing)'; {mend}",
    ]


def test_limits_are_raised_by_a_comment_above_the_fence_or_in_the_snippet(site, batch):
    assert [str(fault) for fault in site.faults if fault.path == "docs/large.md"] == [
        "docs/large.md:14: limit `output=9` is not of the form seconds=120, memory=6GiB or output=32MiB"
    ]
    assert said(batch, "docs/large.md:8", "snippets/toy/big.py:1") == []
    assert said(batch, "docs/large.md:2", "docs/large.md:14") == [f"docs/large.md:{k}: {LESS}" for k in (2, 14)]
    bounds = batch["docs/large.md:8"].program.limits
    assert bounds == {"seconds": 70, "memory": 8 * 2**30, "output": 16 * 2**20}


def with_worker(root, monkeypatch, text):
    """Runs a few programs under another fork server."""
    (root / "worker.py").write_text(text)
    (root / "style.py").write_text("")
    runner.foundation()  # is computed once, from the true one
    monkeypatch.setattr(runner, "HERE", root)
    with pytest.raises(runner.BuildError) as error:
        runner.run(root, [Program("fence", f"docs/{k}.md", 1, f"assert {k} + 1\n") for k in range(8)])
    assert not list((root / ".cache/genref").glob("work-*"))
    return str(error.value)


def test_a_failed_preload_ends_the_build(checkout, monkeypatch):
    text = (runner.HERE / "worker.py").read_text()
    broken = re.sub(r"PRELOADED = \(.*\)", "PRELOADED = ('nosuchlibrary',)", text)
    assert "No module named 'nosuchlibrary'" in with_worker(checkout(), monkeypatch, broken)


def test_a_server_that_holds_genref_ends_the_build(checkout, monkeypatch):
    warm = 'print(\'{"preloaded": ["genref"]}\', flush=True)\ninput()\n'
    assert "the fork server holds genref" in with_worker(checkout(), monkeypatch, warm)


def test_a_server_that_dies_ends_the_build(checkout, monkeypatch):
    dying = "print('{\"preloaded\": []}', flush=True)\ninput()\nraise SystemExit('out of memory')\n"
    assert with_worker(checkout(), monkeypatch, dying) == "the fork server ended:\nout of memory\n"


def test_the_cost_of_the_runner_itself(checkout, monkeypatch):
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):
        monkeypatch.delenv(name, raising=False)  # what coverage costs is not the runner's
    trivial = [Program("fence", f"docs/{k}.md", 1, f"assert {k} + 1\n") for k in range(24)]
    times = []
    done = runner.run(checkout(), trivial, done=lambda _: times.append(time.monotonic()))
    cost, whole = median(o.overhead for o in done), (times[-1] - times[0]) / (len(times) - 1)
    assert not [o.faults for o in done if o.faults]
    assert max(cost, whole) <= 0.15, f"{cost:.3f} s a program, {whole:.3f} s from one end to the next"


def test_the_fingerprint_of_contours_is_that_of_their_numbers():
    def level(height):
        return style.drawn(lambda ax: ax.contour([[0.0, 1.0], [1.0, 2.0]], levels=[height]), "toy", "A line.")[1]

    assert level(0.5) == level(0.5) != level(0.7)


def test_figures_keep_the_digits_and_the_primes_of_their_labels():
    def labelled(ax):
        ax.plot([0.123456, 0.2], [0.1, 0.2])
        ax.set(xlabel="$I(x; x')$", ylabel="0.12345", xticks=[0.1234, 0.1235])

    svg, _ = style.drawn(labelled, "toy", "A line.")
    assert "0.12345<" in svg
    assert "0.1234<" in svg
    assert "\N{PRIME}" in svg
    assert not re.search(r"<[^>]*\d\.\d{3}", svg)
    with pytest.raises(ValueError, match="a font that no browser has"):
        style.drawn(lambda ax: ax.set_title(r"$\mathcal{N}$"), "toy", "A line.")
