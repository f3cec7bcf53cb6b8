"""The fork server that runs programs: one forked child per program, imports warm, genref cold.

Started by `runner.Server` as a script, under the pins of `runner.PINS`; imports nothing of genref, so that whatever a
program loads of it is read in the child and recorded. Speaks JSON lines: jobs on stdin, endings on stdout.
"""

import _posixsubprocess
import ast
import contextlib
import ctypes
import gc
import hashlib
import importlib
import importlib.util
import inspect
import json
import linecache
import os
import random
import resource
import selectors
import signal
import sys
import tempfile
import threading
import time
import traceback
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

LINUX = sys.platform == "linux"
HERE = Path(__file__).resolve().parent
ALONE = ": programs of the site run alone, in their own folder"
PRELOADED = ("torch", "numpy", "matplotlib.pyplot", "matplotlib.backends.backend_svg", "jaxtyping", "pytest")
FORBIDDEN = {
    "socket.connect": "opened a network connection",
    "socket.bind": "opened a network port",
    "socket.sendto": "sent to the network",
    "socket.sendmsg": "sent to the network",
    "socket.getaddrinfo": "looked up a host",
    "socket.gethostbyname": "looked up a host",
    "socket.gethostbyaddr": "looked up a host",
    "subprocess.Popen": "started another program",
    "os.system": "started another program",
    "os.exec": "started another program",
    "os.posix_spawn": "started another program",
    "os.spawn": "started another program",
    "os.fork": "started another process",
    "os.forkpty": "started another process",
}
WRITES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.truncate"}
WRITES |= {"os.chmod", "os.chown", "os.utime"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def die_with_parent(parent: int) -> None:
    """Asks Linux to kill this process when its parent dies; elsewhere the closed stdin of the server does."""
    if LINUX:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(0)


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Watch:
    """What a program reads, and what it may not do, seen through the interpreter's audit events."""

    __cantrace__ = True  # so that coverage sees its lines: the interpreter hides hooks from tracers

    def __init__(self, root: str, cwd: str, own: str) -> None:
        self.root, self.cwd, self.own = root + os.sep, cwd + os.sep, own
        self.library = tuple({sys.prefix + os.sep, sys.base_prefix + os.sep, "/proc/", "/sys/", "/dev/", "/etc/"})
        self.ignored = (os.path.join(root, ".git") + os.sep, os.path.join(root, ".cache") + os.sep)
        self.reads: dict[tuple[str, str], str] = {}
        self.imports: set[str] = set()
        self.violations: list[tuple[int, str]] = []
        self.active = True

    def path(self, name: object) -> str | None:
        """The absolute path of a file whose content counts; None for libraries, devices and its own folder."""
        if isinstance(name, int) or name is None:
            return None
        path = os.path.abspath(os.fsdecode(name))  # type: ignore[arg-type]
        if path == "/dev/null" or path.startswith((self.cwd, *self.ignored)) or path + os.sep == self.cwd:
            return None
        return None if path.startswith(self.library) else path

    def outside(self, name: object) -> bool:
        """Whether a write to this path would leave the program's folder."""
        if isinstance(name, int) or name is None:
            return False
        path = os.path.abspath(os.fsdecode(name))  # type: ignore[arg-type]
        return path != "/dev/null" and not (path + os.sep).startswith(self.cwd)

    def record(self, kind: str, path: str, state: str) -> None:
        self.reads.setdefault((kind, path), state)

    def refuse(self, what: str) -> None:
        what += ALONE
        self.violations.append((program_line(sys._getframe(), self.own), what))
        raise PermissionError(what)

    def asked_by_program(self) -> bool:
        """Whether the checkout's code, rather than the import system or a tool, lists a folder."""
        frame: types.FrameType | None = sys._getframe(2)
        while frame:
            name = frame.f_code.co_filename
            if name.startswith("<frozen importlib"):
                return False
            if name == self.own or (name.startswith(self.root) and not name.startswith((*self.library, str(HERE)))):
                return True
            frame = frame.f_back
        return False

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if not self.active:
            return
        if event == "import":
            self.imports.add(str(args[0]))
        elif event == "open":
            self.opened(args[0], args[2])
        elif event in ("os.listdir", "os.scandir"):
            path = self.path(args[0] or ".")
            if path and self.asked_by_program():
                self.active = False
                try:
                    names = "\0".join(sorted(os.listdir(path)))
                    self.record("folder", path, hashlib.sha256(names.encode()).hexdigest())
                except FileNotFoundError:
                    self.record("absent", path, "")
                except OSError:
                    pass
                self.active = True
        elif event in FORBIDDEN:
            self.refuse(f"{FORBIDDEN[event]} ({event})")
        elif event in WRITES:
            first, last = {"os.rename": (0, 2), "os.link": (0, 2), "os.symlink": (1, 2)}.get(event, (0, 1))
            for name in filter(self.outside, args[first:last]):
                self.refuse(f"wrote outside its folder ({event} {name!r})")

    def opened(self, name: object, flags: object) -> None:
        if isinstance(flags, int) and flags & WRITING and self.outside(name):
            self.refuse(f"wrote outside its folder (open {str(name)!r})")
        path = self.path(name)
        if not path:
            return
        folder, file = os.path.split(path)
        if file.endswith(".pyc") and os.path.basename(folder) == "__pycache__":
            path = os.path.join(os.path.dirname(folder), file.split(".")[0] + ".py")
        if ("file", path) in self.reads:
            return
        self.active = False
        try:
            self.record("file", path, digest(path))
        except FileNotFoundError:
            self.record("absent", path, "")
        except OSError:
            pass
        self.active = True

    def manifest(self) -> list[tuple[str, str, str]]:
        """All that was read; modules looked for in vain, or that a new file could shadow, count as absent files."""
        for name in self.imports:
            place = os.path.join(self.root, *name.split("."))
            module = sys.modules.get(name)
            if getattr(module, "__file__", None) == place + ".py":
                self.record("absent", os.path.join(place, "__init__.py"), "")
            for path in (place, place + ".py") if module is None else ():
                if not os.path.lexists(path):
                    self.record("absent", path, "")
        return sorted((kind, path, state) for (kind, path), state in self.reads.items())


def program_line(frame: types.FrameType | None, own: str) -> int:
    """The innermost line of the program on a stack."""
    while frame:
        if frame.f_code.co_filename == own:
            return frame.f_lineno
        frame = frame.f_back
    return 0


def traceback_line(error: BaseException, own: str) -> int:
    if isinstance(error, SyntaxError) and error.filename == own:
        return error.lineno or 0
    lines = [at.lineno or 0 for at in traceback.extract_tb(error.__traceback__) if at.filename == own]
    return lines[-1] if lines else 0


class Asked:
    """Notes every module that the import system is asked for, however: `import_module` raises no audit event."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        self.watch.imports.add(fullname)


def watch_environment(watch: Watch) -> None:
    """Records which GENREF_* variables are asked for, and files whose existence is; refuses what no event tells of."""
    sys.meta_path.insert(0, Asked(watch))
    _posixsubprocess.fork_exec = lambda *_: watch.refuse("started another program (fork_exec)")  # type: ignore[assignment]
    environ = type(os.environ)

    class Environ(environ):  # type: ignore[misc, valid-type]
        def __getitem__(self, key: str) -> str:
            if key.startswith("GENREF_"):
                watch.record("env", key, repr(self._data.get(self.encodekey(key))))
            return environ.__getitem__(self, key)

    os.environ.__class__ = Environ

    def recording(look: Callable[..., Any]) -> Callable[..., Any]:
        def looked(path: object, *args: object, **kwargs: object) -> Any:
            place = watch.path(path) if watch.active and isinstance(path, (str, bytes, os.PathLike)) else None
            if place:
                watch.active = False
                if not os.path.lexists(place):
                    watch.record("absent", place, "")
                watch.active = True
            return look(path, *args, **kwargs)

        return looked

    os.stat, os.lstat, os.access = recording(os.stat), recording(os.lstat), recording(os.access)


class Failed(Exception):  # noqa: N818  (a report, not an error of ours)
    """A program's failure, with its line."""

    def __init__(self, line: int, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.line, self.message, self.trace = line, message, trace


def explain(error: BaseException, own: str) -> Failed:
    line = traceback_line(error, own)
    if isinstance(error, SystemExit):
        return Failed(line, f"ended before its last line (SystemExit: {error.code}); let it run to its end")
    said = error.msg if isinstance(error, SyntaxError) and error.filename == own else str(error).strip()
    said = "; ".join(said.splitlines()) or (linecache.getline(own, line).strip() if line else "")
    if isinstance(error, MemoryError) or "can't allocate memory" in said:
        mend = "; make it smaller, or comment `limit: memory=6GiB` above it"
    elif ALONE in said:
        mend = ""
    elif isinstance(error, AssertionError):
        mend = "; mend the program, or what it asserts"
    else:
        mend = (
            "; mend the program"
            if isinstance(error, SyntaxError)
            else "; mend the program, or catch it where it is meant"
        )
    trace = "".join(traceback.format_exception(error))
    return Failed(line, (f"{type(error).__name__}: {said}" if said else type(error).__name__) + mend, trace)


def run_code(source: str, path: str, namespace: dict[str, object], first: int) -> None:
    code = compile("\n" * (first - 1) + source, path, "exec", dont_inherit=True)
    exec(code, namespace)  # noqa: S102  (running the site's own programs is what this file is for)


def seed(value: int) -> None:
    import numpy
    import torch

    random.seed(value)
    numpy.random.seed(value)
    torch.manual_seed(value)


def chance() -> str:
    """The state of the global random generators: it moves when a program uses them."""
    import numpy
    import torch

    state = repr((random.getstate(), numpy.random.get_state())).encode()
    return hashlib.sha256(state + torch.random.get_rng_state().numpy().tobytes()).hexdigest()


def run_tour(source: str, path: str, namespace: dict[str, object], style: types.ModuleType) -> list[dict[str, Any]]:
    """Runs the cells of a percent-format tour; shows a cell's last expression and the figures it leaves open."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(style.SETTINGS)
    cells: list[dict[str, Any]] = style.cells(source)
    for number, cell in enumerate(cells):
        cell["outputs"] = []
        if cell["kind"] == "markdown":
            continue
        tree = ast.parse("\n" * (cell["line"] - 1) + cell["source"], path)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        sys.stdout.flush()
        start = os.fstat(1).st_size
        exec(compile(tree, path, "exec"), namespace)  # noqa: S102  (a cell of a tour)
        shown = None
        if isinstance(last, ast.Expr):
            shown = eval(compile(ast.Expression(last.value), path, "eval"), namespace)  # noqa: S307  (its last line)
        sys.stdout.flush()
        text = os.pread(1, os.fstat(1).st_size - start, start).decode()
        if text:
            cell["outputs"].append({"text": text})
        for index in plt.get_fignums():
            alt = next((ln[6:].strip() for ln in cell["source"].splitlines() if ln.startswith("# alt:")), "")
            if len(alt) < 40:
                raise Failed(cell["line"], "figure without alt text: begin the cell with `# alt: what is to be seen`")
            name = f"{Path(path).stem}-{number}-{index}"
            cell["outputs"].append({"svg": style.svg(plt.figure(index), name, alt)[0], "alt": alt})
        plt.close("all")
        if shown is not None and not cell["outputs"]:
            cell["outputs"].append({"text": repr(shown) + "\n"})
    return cells


def draw(namespace: dict[str, object], path: str, name: str, style: types.ModuleType) -> dict[str, dict[str, str]]:
    """Draws each `figure` and `figure_*` of a snippet in the house style."""
    figures = {}
    for key, function in list(namespace.items()):
        if not (inspect.isfunction(function) and (key == "figure" or key.startswith("figure_"))):
            continue
        alt = " ".join((function.__doc__ or "").split())
        line = function.__code__.co_firstlineno
        if len(alt) < 40:
            raise Failed(
                line, f"{key} has no alt text: say in its docstring, in 40 characters or more, what is to be seen"
            )
        label = name if key == "figure" else f"{name} {key.removeprefix('figure_')}"
        drawn, data = style.drawn(function, label, alt)
        figures[key] = {"svg": drawn, "alt": alt, "data": data}
    return figures


def run_claims(job: dict[str, object]) -> None:
    import pytest

    warm = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"  # the server holds pytest's own plugins
    flags = [
        "-q",
        "-W",
        warm,
        "-m",
        "claim",
        "-p",
        "no:cacheprovider",
        "-p",
        "genref._site.claims",
        "--claims-json",
        "claims.json",
    ]
    status = pytest.main([*flags, "--rootdir", str(job["root"]), str(job["file"])])
    if status not in (0, 1):
        said = [line[2:] for line in Path("../out").read_text(errors="replace").splitlines() if line.startswith("E  ")]
        raise Failed(1, f"pytest could not run this module (status {int(status)}): {' '.join(said[-1:]).strip()}")


def child(job: dict[str, object], style: types.ModuleType) -> dict[str, object]:
    """Runs one job in this freshly forked process and says what came of it."""
    root, path, file = (str(job[k]) for k in ("root", "path", "file"))
    source, line, kind = str(job["source"]), int(str(job["line"])), str(job["kind"])
    main = types.ModuleType("__main__")
    main.__file__ = file
    sys.modules["__main__"] = main
    sys.path.insert(0, root)
    sys.argv, sys.dont_write_bytecode = [file], True
    text = "\n" * (line - 1) + source
    linecache.cache[path] = linecache.cache[file] = (len(text), None, text.splitlines(True), path)
    failures: list[Failed] = []

    def warned(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        at = lineno if filename == path else program_line(sys._getframe(), path)
        failures.append(Failed(at, f"{category.__name__}: {message}; avoid it, or catch it where it is meant"))

    def unraisable(what: "sys.UnraisableHookArgs") -> None:
        failures.append(explain(what.exc_value or RuntimeError(str(what.err_msg)), path))

    def in_thread(what: threading.ExceptHookArgs) -> None:
        failures.append(explain(what.exc_value or RuntimeError("a thread failed"), path))

    warnings.resetwarnings()
    warnings.simplefilter("always")
    for old in (DeprecationWarning, PendingDeprecationWarning, ImportWarning):
        warnings.filterwarnings("ignore", category=old)  # a library's own; Python hides them from users too
        warnings.filterwarnings("always", category=old, module=r"__main__|genref")
    warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")  # plt.show() without a screen
    warnings.showwarning, sys.unraisablehook, threading.excepthook = warned, unraisable, in_thread  # type: ignore[assignment]
    seed(int(str(job["seed"])))
    before = chance()
    watch = Watch(root, os.getcwd(), path)
    watch_environment(watch)
    sys.addaudithook(watch)
    result: dict[str, object] = {}
    start = time.monotonic()
    try:
        if kind == "claims":
            run_claims(job)
        elif kind == "tour":
            result["cells"] = run_tour(source, path, main.__dict__, style)
        else:
            run_code(source, path, main.__dict__, line)
            if kind == "snippet":
                import matplotlib.pyplot as plt

                plt.close("all")
                result["figures"] = draw(main.__dict__, path, str(job["name"]), style)
    except Failed as error:
        failures.append(error)
    except BaseException as error:  # noqa: BLE001  (SystemExit and KeyboardInterrupt are endings too)
        failures.append(explain(error, path))
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    result["seconds"] = time.monotonic() - start
    result["chance"] = chance() != before
    main.__dict__.clear()
    gc.collect()
    sys.stdout.flush()
    sys.stderr.flush()
    watch.active = False
    failures += [Failed(at, what) for at, what in watch.violations if not any(what in f.message for f in failures)]
    unique = {(f.line, f.message): f for f in failures}
    result["failures"] = [{"line": f.line, "message": f.message, "trace": f.trace} for f in unique.values()]
    result["reads"] = watch.manifest()
    return result


def limit(job: dict[str, object]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    output = int(str(job["output"]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (output, output))
    if LINUX:
        memory = int(str(job["memory"]))
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def begin(job: dict[str, object], style: types.ModuleType, server: int) -> None:
    """Makes a freshly forked process a program's own, runs it, and leaves its result behind."""
    os.setpgid(0, 0)
    die_with_parent(server)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    folder = Path(str(job["folder"]))
    for fd, name in ((1, "out"), (2, "err")):
        handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, fd)
        os.close(handle)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.chdir(folder / "cwd")
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "cwd")
    limit(job)
    result = child(job, style)
    Path(folder / "result.json").write_text(json.dumps(result))


def fork(job: dict[str, object], style: types.ModuleType) -> int:
    server, pid = os.getpid(), os.fork()
    if pid:
        return pid
    try:
        begin(job, style, server)
        os._exit(0)
    except BaseException:  # noqa: BLE001  (whatever happens, a child must not return into the server's loop)
        traceback.print_exc()
        os._exit(70)


def serve(style: types.ModuleType) -> None:
    """Forks a child for each job read, ends it at its time limit, and reports how it ended."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    wake, woken = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(wake, selectors.EVENT_READ)
    running: dict[int, tuple[dict[str, object], float, float]] = {}
    late: set[int] = set()
    pending = b""
    answers.write(json.dumps({"preloaded": sorted(name for name in sys.modules if "." not in name)}) + "\n")
    while True:
        now = time.monotonic()
        wait = min((deadline - now for _, _, deadline in running.values()), default=None)
        for key, _ in selector.select(wait if wait is None else max(wait, 0.0)):
            if key.fd == wake:
                os.read(wake, 4096)
                continue
            data = os.read(0, 1 << 20)
            if not data:
                for pid in running:
                    os.killpg(pid, signal.SIGKILL)
                os._exit(0)
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                job = json.loads(line)
                pid = fork(job, style)
                with contextlib.suppress(OSError):
                    os.setpgid(pid, pid)
                start = time.monotonic()
                running[pid] = (job, start, start + float(job["seconds"]))
        for pid, (_, _, deadline) in running.items():
            if time.monotonic() >= deadline:
                late.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                running[pid] = (*running[pid][:2], deadline + 3600)
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            job, start, _ = running.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            end = {"id": job["id"], "status": code, "late": pid in late, "seconds": time.monotonic() - start}
            answers.write(json.dumps(end) + "\n")
            late.discard(pid)


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    for library in PRELOADED:
        importlib.import_module(library)
    spec = importlib.util.spec_from_file_location("figure_style", HERE / "style.py")
    assert spec is not None
    assert spec.loader is not None
    style = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(style)
    style.warm()
    seed(0)
    gc.freeze()
    serve(style)


if __name__ == "__main__":
    main()
