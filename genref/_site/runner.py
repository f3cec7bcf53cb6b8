"""Runs programs through the fork server and the store."""

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from genref._site.programs import Program, test_module
from genref._site.scan import Fault
from genref._site.store import Store, digest

HERE = Path(__file__).resolve().parent
PINS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "MPLBACKEND": "Agg",
    "TZ": "UTC",
    "LC_ALL": "C.UTF-8",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",  # torch.optim makes it: in the folder of the program
}
if platform.machine() in ("x86_64", "AMD64"):
    PINS |= {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE", "OPENBLAS_CORETYPE": "Haswell"}
LOST = ("DISPLAY", "WAYLAND_DISPLAY", "PYTHONWARNINGS", "PYTHONSTARTUP", "PYTHONPATH")
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class BuildError(Exception):
    """The machinery itself cannot go on."""


@dataclass
class Outcome:
    """What became of a program: run now or found in the store."""

    program: Program
    cached: bool = False
    why: str = ""
    seconds: float = 0.0
    overhead: float = 0.0
    stdout: str = ""
    figures: dict[str, dict[str, str]] = field(default_factory=dict)
    cells: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    reads: list[list[str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


KEPT = ("seconds", "overhead", "stdout", "figures", "cells", "verdicts", "reads")
"""The fields of an outcome that the store keeps."""


def epoch(root: Path) -> str:
    """The time of the last commit, for all that writes a date."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    return git(root, "log", "-1", "--format=%ct") or "0"


def git(root: Path, *words: str) -> str:
    """What git says of the checkout; nothing where there is no git, or no history."""
    found = shutil.which("git")
    if not found:
        return ""
    said = subprocess.run([found, *words], cwd=root, capture_output=True, text=True, check=False)  # noqa: S603  (our own words)
    return said.stdout.strip()


@cache
def libraries() -> dict[str, str]:
    """The versions of Python and of all libraries that a program can reach, read off the names of their folders."""
    folders = {p.name.removesuffix(".dist-info") for place in sys.path for p in Path(place).glob("*.dist-info")}
    found = dict(sorted(folder.lower().rsplit("-", 1) for folder in folders))
    found.pop("genref", None)
    return {"python": platform.python_version(), **found}


@cache
def foundation() -> str:
    """What every key shares: pins, machine type, versions, and the files that run and draw."""
    files = [(HERE / name).read_text() for name in ("worker.py", "style.py")]
    return digest(json.dumps([PINS, sys.platform, platform.machine(), libraries(), files]))


def key(program: Program, turn: int = 0) -> str:
    """The store's key of a program: its code and what it runs under, not where it stands."""
    name = program.name if program.kind in ("snippet", "tour", "claims") else ""
    return digest(
        json.dumps([foundation(), program.kind.replace("readme", "fence"), name, program.source, program.limits, turn])
    )


class Server:
    """The fork server's process. On Linux it dies with the thread that made it, which must therefore also close it."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.work = Path(tempfile.mkdtemp(prefix=f"work-{os.getpid()}-", dir=self.store.folder)).resolve()
        environment = {k: v for k, v in os.environ.items() if k not in LOST} | PINS
        environment |= {"SOURCE_DATE_EPOCH": epoch(root), "MPLCONFIGDIR": str(self.store.folder / "matplotlib")}
        environment["HOME"] = str(self.work)
        self.root, self.log = root, self.work / "server.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(  # noqa: S603  (our own worker, by this interpreter)
                [sys.executable, "-P", str(HERE / "worker.py"), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.work,
                env=environment,
                text=True,
                start_new_session=True,
            )
        try:
            self.preloaded = self.answer()["preloaded"]
            if "genref" in self.preloaded:
                raise BuildError("the fork server holds genref: programs would not be seen reading it")
        except BuildError:
            self.close()
            raise

    def answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            self.process.wait()
            raise BuildError(f"the fork server ended:\n{self.log.read_text()}")
        return dict(json.loads(line))

    def send(self, number: int, program: Program, turn: int) -> Path:
        """Starts a program in a folder of its own."""
        folder = self.work / str(number)
        (folder / "cwd").mkdir(parents=True)
        job = {
            "id": number,
            "kind": program.kind if program.kind in ("snippet", "tour", "claims") else "plain",
            "root": str(self.root),
            "folder": str(folder),
            "path": program.path,
            "file": str(self.root / program.path),
            "line": program.line,
            "source": program.source,
            "name": program.name,
            "seed": int(key(program, turn)[:8], 16),
            **program.limits,
        }
        with contextlib.suppress(BrokenPipeError):  # the answer will say that the server ended
            self.process.stdin.write(json.dumps(job) + "\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]
        return folder

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # type: ignore[union-attr]
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]
        shutil.rmtree(self.work, ignore_errors=True)


class Host:
    """A fork server that starts when something has to run, and that several runs can share."""

    def __init__(self, root: Path) -> None:
        self.root, self._server = root, list[Server]()

    @property
    def server(self) -> Server:
        if not self._server:
            self._server.append(Server(self.root))
        return self._server[0]

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._server:
            server.close()


def ending(program: Program, end: dict[str, Any]) -> str:
    """In one line, why a program ended without a result."""
    limits, status = program.limits, end["status"]
    if end["late"]:
        return f"still running after {limits['seconds']:g} s; make it faster, or comment `limit: seconds=120` above it"
    if status == -signal.SIGXFSZ:
        most = limits["output"] / 2**20
        return f"wrote more than {most:g} MiB; print less, or comment `limit: output=32MiB` above it"
    if status == -signal.SIGKILL:
        return "killed from outside (signal 9), most likely for memory; make it smaller"
    if status < 0:
        return f"ended by {signal.Signals(-status).name} before its last line; find what aborts"
    return f"ended before its last line (exit status {status}); let it run to its end"


def outcome(program: Program, folder: Path, end: dict[str, Any], store: Store) -> Outcome:
    """Reads what a program left behind."""
    result: dict[str, Any] = {"failures": [], "reads": []}
    faults = []
    if end["status"] == 0 and (folder / "result.json").is_file():
        result |= json.loads((folder / "result.json").read_text())
    else:
        error = (folder / "err").read_text(errors="replace").strip().splitlines()[-1:]
        faults.append(
            program.fault(ending(program, end) + "".join(f" ({line})" for line in error if end["status"] > 0))
        )
    for failure in result["failures"]:
        faults.append(program.fault(failure["message"], failure["line"]))
    verdicts = folder / "cwd" / "claims.json"
    done = Outcome(program, seconds=end["seconds"], faults=faults)
    if (folder / "out").stat().st_size <= program.limits["output"]:
        done.stdout = (folder / "out").read_text(errors="replace")
    done.overhead = done.seconds - result.get("seconds", 0.0)
    done.figures, done.cells = result.get("figures", {}), result.get("cells", [])
    done.reads = [[kind, store.relative(path), state] for kind, path, state in result["reads"]]
    done.verdicts = json.loads(verdicts.read_text()) if verdicts.is_file() else []
    for verdict in done.verdicts:
        named = f"claim {verdict['id']}"
        for line, message in verdict["problems"]:
            faults.append(program.fault(message if message.startswith(named) else f"{named}: {message}", line))
    shutil.rmtree(folder, ignore_errors=True)
    done.reads.append(["chance", "", ""]) if result.get("chance") and program.kind != "claims" else None
    return done


def check_output(done: Outcome) -> list[Fault]:
    """Compares what a program printed with what its page says it prints."""
    faults = []
    for path, line, text in done.program.expected:
        if text != done.stdout:
            ours, theirs = done.stdout.splitlines(), text.splitlines()
            pairs = zip(ours + ["(nothing)"] * len(theirs), theirs + ["(nothing)"] * len(ours), strict=False)
            at, (new, old) = next(((k, pair) for k, pair in enumerate(pairs) if pair[0] != pair[1]), (0, ("", "")))
            message = f"expected output differs: the page has {old!r}, it printed {new!r}; make update rewrites it"
            faults.append(Fault(path, line + min(at, len(theirs)), message))
    return faults


def run(
    root: Path,
    programs: Iterable[Program],
    *,
    cache: bool = True,
    turn: int = 0,
    done: Callable[[Outcome], None] = lambda _: None,
    started: Callable[[Program], None] = lambda _: None,
    host: "Host | None" = None,
) -> list[Outcome]:
    """Runs what the store does not hold, longest first, and returns the outcome of every program in the order given.

    A program that draws from a global random generator runs again under another seed: its output must not change.
    """
    programs, store = list(programs), Store(root)
    outcomes: dict[int, Outcome] = {}
    waiting: list[tuple[float, int, int]] = []
    times = _times(store)
    alike: dict[str, int] = {}
    twins: list[tuple[int, int]] = []
    for index, program in enumerate(programs):
        name = key(program, turn)
        if name in alike:
            twins.append((index, alike[name]))
            continue
        alike[name] = index
        entry, why = store.load(name) if cache else (None, "the store was set aside (--no-cache)")
        if entry:
            outcomes[index] = Outcome(program, True, **{name: entry[name] for name in KEPT})
            done(outcomes[index])
        else:
            outcomes[index] = Outcome(program, why=why)
            waiting.append((-times.get(program.place, 1.0), index, turn))
    if waiting:
        with contextlib.nullcontext(host) if host else Host(root) as at:
            _drain(at.server, programs, outcomes, sorted(waiting), turn, started, done)
        _remember(store, times, outcomes.values())
    for index, twin in twins:
        first = outcomes[twin]
        faults = [
            programs[index].fault(f.message, f.line - first.program.line + programs[index].line) for f in first.faults
        ]
        outcomes[index] = Outcome(
            **{**vars(first), "program": programs[index], "cached": True, "why": "", "faults": faults}
        )
    for index in range(len(programs)):
        outcomes[index].faults = outcomes[index].faults or check_output(outcomes[index])
    return [outcomes[index] for index in range(len(programs))]


def _drain(
    server: Server,
    programs: list[Program],
    outcomes: dict[int, Outcome],
    waiting: list[tuple[float, int, int]],
    turn: int,
    started: Callable[[Program], None],
    done: Callable[[Outcome], None],
) -> None:
    """Keeps as many programs running as there are processors until none is left."""
    flying: dict[int, tuple[int, int, Path]] = {}
    number = 0
    while waiting or flying:
        while waiting and len(flying) < CPUS:
            _, index, now = waiting.pop(0)
            started(programs[index])
            flying[number] = (index, now, server.send(number, programs[index], now))
            number += 1
        end = server.answer()
        index, now, folder = flying.pop(end["id"])
        program = programs[index]
        result = outcome(program, folder, end, server.store)
        random = ["chance", "", ""] in result.reads
        result.reads = [read for read in result.reads if read[0] != "chance"]
        if now != turn:  # the second run, under another seed
            first = outcomes[index]
            if result.faults or (result.stdout, _data(result)) != (first.stdout, _data(first)):
                changed = "".join(f"; under another seed {f.message}" for f in result.faults[:1])
                changed = changed or "; its output changes with the seed"
                first.faults.append(program.fault(f"uses global randomness: pass a generator{changed}"))
        else:
            result.why = outcomes[index].why
            outcomes[index] = result
            if random and not result.faults:
                waiting.insert(0, (0.0, index, turn + 1))
                continue
        if not outcomes[index].faults:
            server.store.save(key(program, turn), {name: getattr(outcomes[index], name) for name in KEPT})
        done(outcomes[index])


def _data(done: Outcome) -> object:
    return [done.cells, {name: figure["data"] for name, figure in done.figures.items()}]


def _times(store: Store) -> dict[str, float]:
    try:
        return dict(json.loads((store.folder / "times.json").read_text()))
    except (OSError, ValueError):
        return {}


def _remember(store: Store, times: dict[str, float], done: Iterable[Outcome]) -> None:
    """Keeps how long programs took, to start the longest first; advisory only."""
    times |= {d.program.place: d.seconds for d in done if not d.cached}
    fresh = store.folder / f"times-{os.getpid()}.json"
    fresh.write_text(json.dumps(times))
    fresh.replace(store.folder / "times.json")


def claim_programs(root: Path, stems: Iterable[str]) -> list[Program]:
    """The claim modules of some stems as programs of the runner."""
    found = []
    for stem in sorted(set(stems)):
        path = test_module(stem)
        if (root / path).is_file():
            limits = {"seconds": 600.0, "memory": 6 * 2**30, "output": 8 * 2**20}
            found.append(Program("claims", path, 1, (root / path).read_text(), stem, limits=limits))
    return found
