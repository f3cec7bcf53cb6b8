"""The build front: programs, claims, pages, audit, swap; faults are listed last, as `path:line: what, and the mend`."""

import contextlib
import fcntl
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from genref._site import extension, programs, runner
from genref._site.audit import audit
from genref._site.programs import Program, Site
from genref._site.report import write
from genref._site.runner import Outcome
from genref._site.scan import Fault
from genref._site.store import Store


def terminal() -> bool:
    return sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))


def say(text: str, style: str = "") -> None:
    """Prints a line; in colour on a terminal."""
    if terminal():
        from rich import get_console
        from rich.text import Text

        get_console().print(Text(text, style), soft_wrap=True)
    else:
        print(text, flush=True)


class Stage:
    """Progress of one stage: a bar on a terminal, plain lines elsewhere; failures as they come."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.count = name, total, 0
        self.bar: Any = None
        if terminal():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (
                TextColumn("{task.description:9}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[at]}"),
            )
            self.bar = Progress(*columns, transient=True)
            self.bar.start()
            self.task = self.bar.add_task(name, total=total, at="")

    def started(self, program: Program) -> None:
        if self.bar:
            self.bar.update(self.task, at=program.place)
        else:
            say(f"{self.name}: {program.place}")

    def done(self, outcome: Outcome) -> None:
        self.count += 1
        if self.bar:
            self.bar.update(self.task, completed=self.count)
        for fault in outcome.faults:
            say(f"  {fault}", "red")

    def close(self) -> None:
        if self.bar:
            self.bar.stop()


@contextlib.contextmanager
def stage(name: str, total: int) -> Iterator[Stage]:
    made = Stage(name, total)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def lock(root: Path) -> Iterator[None]:
    """One build of a checkout at a time; a second one waits, and says so."""
    folder = root / ".cache"
    folder.mkdir(exist_ok=True)
    with (folder / "build.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build of this checkout is running; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def recover(root: Path) -> Path:
    """Puts back the last good site if a build died while it swapped; returns the folder for a new one."""
    place = root / ".cache" / "site"
    if (place / "old").is_dir() and not (root / "site").is_dir():
        (place / "old").rename(root / "site")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def swap(root: Path, place: Path) -> None:
    """Puts the new site in the place of the last one."""
    if (root / "site").is_dir():
        (root / "site").rename(place / "old")
    (place / "new").rename(root / "site")
    shutil.rmtree(place, ignore_errors=True)


def check_claims(site: Site, found: list[Outcome]) -> tuple[list[dict[str, Any]], list[Fault]]:
    """The verdict of every claim stated; faults where stated and tested claims, or answers and questions, differ."""
    verdicts = {v["id"]: v for o in found for v in o.verdicts}
    broken = {o.program.path for o in found if o.faults and not o.verdicts}
    answers: dict[str, set[str]] = {}
    for row in site.questions:
        for name in row["claims"]:
            answers.setdefault(name, set()).update(row["names"])
    listed, faults = list[dict[str, Any]](), list[Fault]()
    for claim in site.claims:
        verdict = verdicts.pop(claim.name, None)
        module = programs.test_module(claim.stem)
        state = extension.held(verdict)
        if verdict is None:
            if (site.root / module).is_file() and module not in broken:  # these have a fault of their own
                said = f"claim {claim.name} has no test; mark one in {module} with claim({claim.name!r})"
                faults.append(Fault(claim.path, claim.line, said))
        elif state != "held" and not verdict["problems"]:
            path, _, line = verdict["test"].partition(":")
            faults.append(Fault(path, int(line), f"claim {claim.name} was skipped, with its test or a mutant; run it"))
        elif set(verdict["answers"]) != answers.get(claim.name, set()):
            wanted = sorted(answers.get(claim.name, set()))
            path, _, line = verdict["test"].partition(":")
            faults.append(
                Fault(
                    path,
                    int(line),
                    f"claim {claim.name} answers {verdict['answers']}, docs/questions.yml says {wanted}",
                )
            )
        given = verdict or {}
        entry = {"id": claim.name, "stem": claim.stem, "statement": claim.statement, "kind": given.get("kind", "")}
        entry |= {"oracle": given.get("oracle", ""), "verdict": state, "measured": given.get("measured")}
        entry |= {"bound": given.get("bound"), "mutants": given.get("mutants", []), "answers": given.get("answers", [])}
        listed.append(entry | {"test": given.get("test", f"{module}:1")})
    for name, verdict in verdicts.items():
        path, _, line = verdict["test"].partition(":")
        faults.append(Fault(path, int(line), f"claim {name} is tested but no docstring of genref states it"))
    return listed, faults


class Collected(logging.Handler):
    """The warnings of MkDocs and its plugins."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        audited = ("contains a link", "contains an unrecognized", "included in the 'nav'")  # given by the audit
        if not any(words in message for words in audited):
            self.messages.append(message)


def render(root: Path, target: Path) -> list[Fault]:
    """Builds the pages with MkDocs; returns its warnings as faults."""
    from mkdocs.commands.build import build as mkdocs_build
    from mkdocs.config import load_config

    heard = Collected()
    logging.getLogger("mkdocs").addHandler(heard)
    try:
        settings = load_config(str(root / "mkdocs.yml"), site_dir=str(target))
        settings.plugins.on_startup(command="build", dirty=False)
        mkdocs_build(settings)
        settings.plugins.on_shutdown()
    except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever stops it is one fault beside the others)
        heard.messages.append(f"the pages were not made: {type(error).__name__}: {error}")
    finally:
        logging.getLogger("mkdocs").removeHandler(heard)
    return [located(root, message) for message in dict.fromkeys(heard.messages)]


def located(root: Path, message: str) -> Fault:
    """A warning of MkDocs with the place that it names, or that of its configuration."""
    match = re.search(r"[\w./-]+\.(?:md|py)\b(?::(\d+))?", message)
    for name in [match[0].partition(":")[0]] if match else []:
        for place in (name, f"docs/{name}"):
            if (root / place).is_file():
                return Fault(place, int(match[1] or 1) if match else 1, " ".join(message.split()))
    return Fault("mkdocs.yml", 1, " ".join(message.split()))


def announce(faults: list[Fault]) -> None:
    """Lists all faults, sorted, last; on GitHub also where they stand in the change."""
    say(f"\n{len(faults)} fault{'s' * (len(faults) != 1)}:", "bold red")
    for fault in faults:
        say(str(fault))
        if os.environ.get("GITHUB_ACTIONS") == "true":
            message = fault.message.replace("%", "%25").replace("\n", "%0A")
            say(f"::error file={fault.path},line={fault.line}::{message}")


def build(root: Path, *, cache: bool = True) -> int:
    """Builds the checkout at `root`; 0 if every program ran, every claim holds and every page is sound."""
    with lock(root):
        place = recover(root)
        try:
            return _build(root, place, cache)
        finally:
            shutil.rmtree(recover(root), ignore_errors=True)


def timed(seconds: dict[str, float], name: str) -> contextlib.AbstractContextManager[None]:
    @contextlib.contextmanager
    def clock() -> Iterator[None]:
        start = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - start, 3)

    return clock()


def _build(root: Path, place: Path, cache: bool) -> int:
    start, seconds = time.monotonic(), dict[str, float]()
    Store(root).forget()
    os.environ["SOURCE_DATE_EPOCH"] = runner.epoch(root)
    with runner.Host(root) as host:
        with timed(seconds, "programs"):
            site = programs.collect(root)
            with stage("programs", len(site.programs)) as at:
                found = runner.run(root, site.programs, cache=cache, done=at.done, started=at.started, host=host)
        with timed(seconds, "claims"):
            modules = runner.claim_programs(root, [claim.stem for claim in site.claims])
            with stage("claims", len(modules)) as at:
                tested = runner.run(root, modules, cache=cache, done=at.done, started=at.started, host=host)
    listed, missing = check_claims(site, tested)
    extension.prepared = extension.Context(site, found, {v["id"]: v for o in tested for v in o.verdicts})
    with timed(seconds, "render"), stage("pages", 1):
        warnings = render(root, place / "new")
    with timed(seconds, "audit"):
        pages, seen = audit(root, place / "new") if (place / "new" / "index.html").is_file() else ([], [])
    faults = {*site.faults, *missing, *warnings, *seen, *(f for o in [*found, *tested] for f in o.faults)}
    total = len(found) + len(site.excused)
    if site.fences != site.included + len(site.excused) + sum(
        p.kind in ("fence", "readme", "docstring") for p in site.programs
    ):
        counted = f"{site.fences} fences that look like Python are not all run, shown or excused"
        faults = faults or {Fault("docs", 1, f"{counted}; this is a fault of the scanner")}
    if faults:
        announce(sorted(faults, key=lambda f: (f.path, f.line, f.message)))
        return 1
    seconds["total"] = round(time.monotonic() - start, 3)
    report = write(root, place / "new", site, found, tested, listed, pages, seconds)
    swap(root, place)
    count, held = report["programs"], report["claims"]
    say(
        f"{total} programs ({count['run']} run, {count['cached']} cached) · {held['held']} claims hold, "
        f"{held['mutants_rejected']} mutants rejected · {len(pages)} pages · 0 warnings · "
        f"{seconds['total']:.0f} s · site/index.html"
    )
    return 0


def update(root: Path) -> int:
    """Rewrites every expected output that differs from what its program prints."""
    site = programs.collect(root)
    with stage("programs", len(site.programs)) as at:
        found = runner.run(root, site.programs, done=at.done, started=at.started)
    with stage("claims", 0) as at:
        tested = runner.run(root, runner.claim_programs(root, [claim.stem for claim in site.claims]), done=at.done)
    if wrong := [fault for o in tested for fault in o.faults]:
        announce(sorted(wrong, key=lambda f: (f.path, f.line, f.message)))
        say("nothing rewritten: while claims fail, what the programs print may be wrong too")
        return 1
    failed = [o for o in found if o.faults and o.faults != runner.check_output(o)]
    whole = [o for o in found if o not in failed]
    changes = sorted(
        {(path, line, text, o.stdout) for o in whole for path, line, text in o.program.expected if text != o.stdout},
        reverse=True,
    )
    for path, line, text, printed in changes:
        lines = (root / path).read_text().split("\n")
        end = line - 1 + text.count("\n")
        margin = re.match(r"\s*", lines[line - 2])[0]  # type: ignore[index]
        lines[line - 1 : end] = [margin + new if new else "" for new in printed.splitlines()]
        (root / path).write_text("\n".join(lines))
        say(f"{path}:{line}: rewrote the expected output")
    if failed:
        announce(sorted((f for o in failed for f in o.faults), key=lambda f: (f.path, f.line, f.message)))
    elif not changes:
        say("every expected output is as printed")
    return 1 if failed else 0


def main() -> int:
    """`python -m genref._site build [--no-cache]` or `update`."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m genref._site", description="Builds the site of the checkout in this folder."
    )
    choose = parser.add_subparsers(dest="command", required=True)
    made = choose.add_parser("build", help="run programs and claims, render, audit, swap")
    made.add_argument("--no-cache", action="store_true", help="run everything, whatever the store holds")
    choose.add_parser("update", help="rewrite expected output from the programs")
    given = parser.parse_args()
    root = Path.cwd().resolve()
    if not (root / "mkdocs.yml").is_file():
        parser.error("no mkdocs.yml here; run this in a checkout of genref")
    try:
        return build(root, cache=not given.no_cache) if given.command == "build" else update(root)
    except yaml.YAMLError as error:
        line = error.problem_mark.line + 1 if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark else 1
        say(f"mkdocs.yml:{line}: cannot be read: {' '.join(str(error).split())}; mend it", "red")
        return 1
    except runner.BuildError as error:
        say(f"genref/_site/runner.py:1: {error}", "red")
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130
