"""Everything executable is a program: where each stands, what it must print, what is wrong with it before it runs."""

import ast
import re
import tomllib
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from genref._site import scan
from genref._site.scan import Fault, Fence
from genref._site.standalone import standalone

SIZES = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
LIMITS: dict[str, float] = {"seconds": 60, "memory": 3 * 2**30, "output": 8 * 2**20}


@dataclass
class Program:
    """One unit that runs: `line` is the line of its first line of code in `path`."""

    kind: str
    path: str
    line: int
    source: str
    name: str = ""
    expected: list[tuple[str, int, str]] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=lambda: dict(LIMITS))
    made_from: str | None = None

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"

    def fault(self, message: str, line: int = 0) -> Fault:
        return Fault(self.path, line or self.line, message)


@dataclass
class Site:
    """What a checkout holds: programs, claims, excused fences, and the faults seen without running anything."""

    root: Path
    programs: list[Program] = field(default_factory=list)
    claims: list[scan.Claim] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    excused: list[tuple[str, int, str]] = field(default_factory=list)
    included: int = 0
    fences: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    questions: list[dict[str, Any]] = field(default_factory=list)
    discussed: set[str] = field(default_factory=set)

    @property
    def snippets(self) -> dict[str, Program]:
        return {p.path: p for p in self.programs if p.kind == "snippet"}


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without importing what its tags name."""


Loader.add_multi_constructor("", lambda *_: None)


def config(root: Path) -> dict[str, Any]:
    return dict(yaml.load((root / "mkdocs.yml").read_text(), Loader))  # noqa: S506  (a safe loader, made lenient)


def limits(text: str, path: str, line: int, faults: list[Fault]) -> dict[str, float]:
    """Reads `seconds=120 memory=6GiB output=32MiB`."""
    found = dict(LIMITS)
    for item in text.split():
        match = re.fullmatch(r"(seconds|memory|output)=(\d+)(KiB|MiB|GiB)?", item)
        if not match or (match[1] == "seconds") == bool(match[3]):
            faults.append(
                Fault(path, line, f"limit `{item}` is not of the form seconds=120, memory=6GiB or output=32MiB")
            )
        else:
            found[match[1]] = int(match[2]) * SIZES.get(match[3] or "", 1)
    return found


def verifies(source: str) -> bool:
    """Whether a program asserts something that can fail, itself or through a library's assertion."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return True  # reported when it runs, with its line
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant):
            return True
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name.startswith("assert"):
                return True
    return False


def nearest(name: str, names: list[str]) -> str:
    close = get_close_matches(name, names, 1)
    return f"; did you mean {close[0]}?" if close else ""


class Collector:
    """Walks a checkout once."""

    def __init__(self, root: Path) -> None:
        self.site = Site(root, config=config(root))
        self.root = root
        self.boxes: dict[str, str] = {}
        self.pages: list[Path] = []
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        self.version = project.get("version", "")

    def fail(self, path: str, line: int, message: str) -> None:
        self.site.faults.append(Fault(path, line, message))

    def collect(self) -> Site:
        site, root = self.site, self.root
        site.claims = scan.claims(root)
        if (root / "docs/questions.yml").is_file():
            try:
                site.questions = yaml.safe_load((root / "docs/questions.yml").read_text()) or []
            except yaml.MarkedYAMLError as error:
                line = error.problem_mark.line + 1 if error.problem_mark else 1
                self.fail("docs/questions.yml", line, f"cannot be read: {error.problem}")
        for path in sorted((root / "snippets").rglob("*.py")):
            self.snippet(path.relative_to(root).as_posix())
        self.pages = sorted((root / "docs").rglob("*.md"))
        for path in self.pages:
            self.text(path.relative_to(root).as_posix(), path.read_text(), 1, "fence")
        if (root / "README.md").is_file():
            self.text("README.md", (root / "README.md").read_text(), 1, "readme")
        for path in sorted((root / "genref").rglob("*.py")):
            place = path.relative_to(root).as_posix()
            if not (path.parent / "__init__.py").is_file():
                self.fail(
                    place,
                    1,
                    f"{Path(place).parent} has no __init__.py; copy that of another topic, and say what it is about",
                )
            if not place.startswith("genref/_site/"):
                try:
                    ast.parse(path.read_text())
                except SyntaxError as error:
                    self.fail(place, error.lineno or 1, f"SyntaxError: {error.msg}")
                for text, line in scan.docstrings(path):
                    self.text(place, text, line, "docstring")
        for path in sorted((root / "docs/tours").glob("*.py")):
            self.tour(path.relative_to(root).as_posix())
        self.claims()
        for program in site.programs:
            if program.kind != "standalone" and not program.expected and not verifies(program.source):
                site.faults.append(program.fault("verifies nothing; assert something, or give its expected output"))
        return site

    def snippet(self, path: str) -> None:
        source = (self.root / path).read_text()
        name = path.removeprefix("snippets/").removesuffix(".py")
        bounds = limits(" ".join(scan.LIMIT.findall(source)), path, 1, self.site.faults)
        program = Program("snippet", path, 1, source, name, limits=bounds)
        url = f"{self.site.config.get('site_url') or ''}{name}/"
        header = f"# From {url} (genref {self.version}, MIT licence); made from {path}."
        text, faults = standalone(self.root, path, header)
        self.site.faults += faults
        self.site.programs.append(program)
        if text and not faults:
            self.site.programs.append(Program("standalone", path, 1, text, name, limits=bounds, made_from=path))

    def tour(self, path: str) -> None:
        source = (self.root / path).read_text()
        bounds = limits(" ".join(scan.LIMIT.findall(source)), path, 1, self.site.faults)
        self.site.programs.append(Program("tour", path, 1, source, Path(path).stem, limits=bounds))
        prose = "\n".join(re.sub(r"^# ?", "", line) if line.startswith("#") else "" for line in source.split("\n"))
        self.maths(path, prose, 1)

    def text(self, path: str, text: str, first: int, kind: str) -> None:
        """Reads one text: a page, the README or a docstring."""
        page = kind in ("fence", "readme")
        excuses = 0
        for mark in scan.OTHER_MARK.finditer(scan.outside(text)):
            line = first + scan.line_of(scan.outside(text), mark.start(1)) - 1
            self.fail(path, line, f'`{mark[1]}` hides a program; use <!--pytest.mark.skip(reason="...")-->')
        for fence in scan.fences(text):
            line = first + fence.line - 1
            if not fence.python:
                continue
            for file, section in fence.includes:
                self.include(path, line, file, section)
            self.site.fences += 1
            if fence.excuse is not None:
                excuses += 1
                if not fence.excuse.strip():
                    self.fail(path, line, 'excused without a reason; write <!--pytest.mark.skip(reason="...")-->')
                elif excuses > 1:
                    self.fail(path, line, "a second excused program; at most one a page")
                self.site.excused.append((path, line, fence.excuse))
            elif fence.includes:
                self.inclusion(path, line, fence)
            elif fence.info != "python" or ">" in fence.indent or "~" in fence.ticks:
                mend = "write ```python, outside quotations"
                self.fail(path, line - 1, f"stock pytest-codeblocks passes over {fence.ticks}{fence.info}; {mend}")
            else:
                bounds = limits(fence.limits, path, line, self.site.faults)
                program = Program(kind, path, line, fence.code, limits=bounds)
                self.expects(program, path, first, fence)
                self.site.programs.append(program)
        self.maths(path, scan.outside(text), first)
        if page:
            self.front_matter(path, text)
            self.directives(path, scan.outside(text))

    def expects(self, program: Program, path: str, first: int, fence: Fence) -> None:
        if fence.expected is not None and fence.expects:
            program.expected.append((path, first + fence.expects[0] + 1, fence.expected))

    def include(self, path: str, line: int, file: str, section: str) -> None:
        if not (self.root / file).is_file():
            self.fail(path, line, f"no file {file} to show")
        elif f"[start:{section}]" not in (source := (self.root / file).read_text()):
            names = re.findall(r"\[start:([\w-]+)\]", source)
            self.fail(path, line, f"{file} has no section {section}{nearest(section, names)}")

    def inclusion(self, path: str, line: int, fence: Fence) -> None:
        """A fence that shows sections of a snippet shows nothing else, and its output is the snippet's."""
        self.site.included += 1
        files = {file for file, _ in fence.includes}
        rest = [code for code in fence.code.splitlines() if code.strip() and not scan.INCLUDE.match(code)]
        if rest or len(files) > 1:
            self.fail(path, line, "a fence that shows a snippet holds `--8<--` lines of one snippet and nothing else")
        elif program := self.site.snippets.get(next(iter(files))):
            self.expects(program, path, 1, fence)
        else:
            self.fail(path, line, f"{next(iter(files))} is not a snippet that runs")

    def maths(self, path: str, text: str, first: int) -> None:
        for match, tex, display in scan.formulas(text):
            try:
                scan.mathml(tex, display)
            except ValueError as error:
                self.fail(
                    path, first + scan.line_of(text, match.start()) - 1, f"{error}; write it as math-core reads it"
                )

    def front_matter(self, path: str, text: str) -> None:
        """The stems to read first exist, and the questions are those that the page's claims answer."""
        if not (match := re.match(r"---\n(.*?)\n---\n", text, re.S)):
            return
        try:
            meta = yaml.safe_load(match[1]) or {}
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 2 if error.problem_mark else 1
            self.fail(path, line, f"front matter cannot be read: {error.problem}; put the value in quotes")
            return
        stem = path.removeprefix("docs/").removesuffix(".md")
        lines = {
            name: scan.line_of(text, text.index(f"\n{name}:") + 1) for name in ("needs", "answers") if name in meta
        }
        for need in meta.get("needs") or []:
            if not (self.root / f"docs/{need}.md").is_file():
                stems = [page.relative_to(self.root / "docs").with_suffix("").as_posix() for page in self.pages]
                self.fail(path, lines["needs"], f"needs {need}, which is no page{nearest(need, stems)}")
        own = {claim.name for claim in self.site.claims if claim.stem == stem}
        wanted = sorted({name for row in self.site.questions if own & set(row["claims"]) for name in row["names"]})
        if "answers" in meta and sorted(meta["answers"] or []) != wanted:
            self.fail(
                path, lines["answers"], f"answers {meta['answers']}; by docs/questions.yml its claims answer {wanted}"
            )

    def directives(self, path: str, text: str) -> None:
        self.site.discussed |= {q for m in scan.ANSWERS.finditer(text) for q in m[1].split()}
        known = {claim.name: claim for claim in self.site.claims}
        for match in scan.DIRECTIVE.finditer(text):
            line, (kind, argument) = scan.line_of(text, match.start(1)), (match[1], match[2] or "")
            if kind in ("claim", "claim-line") and argument not in known:
                self.fail(path, line, f"unknown claim {argument}{nearest(argument, list(known))}")
            elif kind == "claim":
                if argument in self.boxes:
                    self.fail(path, line, f"claim {argument} already has its box at {self.boxes[argument]}; link to it")
                self.boxes.setdefault(argument, f"{path}:{line}")
            elif kind == "figure":
                stem, _, key = argument.partition(" ")
                function = f"figure_{key}" if key else "figure"
                program = self.site.snippets.get(f"snippets/{stem}.py")
                if not program:
                    names = [p.name for p in self.site.snippets.values()]
                    self.fail(path, line, f"no snippet snippets/{stem}.py to draw{nearest(stem, names)}")
                elif f"def {function}(" not in program.source:
                    self.fail(path, line, f"{program.path} has no function {function} to draw")

    def claims(self) -> None:
        seen: dict[str, scan.Claim] = {}
        for claim in self.site.claims:
            if claim.name in seen:
                first = seen[claim.name]
                self.fail(claim.path, claim.line, f"claim {claim.name} is already stated at {first.path}:{first.line}")
            seen.setdefault(claim.name, claim)
            if claim.name not in self.boxes:
                self.fail(
                    claim.path,
                    claim.line,
                    f"claim {claim.name} is on no page; put [claim: {claim.name}] on docs/{claim.stem}.md",
                )
            elif not (box := self.boxes[claim.name]).startswith(f"docs/{claim.stem}.md:"):
                path, _, line = box.partition(":")
                self.fail(path, int(line), f"claim {claim.name} belongs on docs/{claim.stem}.md; move its box there")
            tests = self.root / test_module(claim.stem)
            for number in re.findall(r"\d+\.\d{3,}", claim.statement) if tests.is_file() else []:
                if number not in tests.read_text():
                    place = test_module(claim.stem)
                    self.fail(
                        claim.path, claim.line, f"claim {claim.name} states {number}, which {place} does not check"
                    )
            if not tests.is_file():
                self.fail(
                    claim.path, claim.line, f"claim {claim.name} has no test module; write {test_module(claim.stem)}"
                )


def test_module(stem: str) -> str:
    topic, _, name = stem.rpartition("/")
    return f"tests/{topic}/test_{name}.py"


def collect(root: Path) -> Site:
    """Everything that the checkout at `root` will run, state and show."""
    return Collector(root).collect()
