"""Reads Markdown as the site does: fences, formulas, directives and claims, each with its line."""

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import math_core

FENCE = re.compile(r"^(?P<indent>[ \t]*(?:>[ \t]?)*)(?P<ticks>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)$")
PYTHON = re.compile(r"^(?:\{(?:[^}\"]*\s)?)?\s*\.?i?py(?!3?tb\b)", re.I)
"""All that looks like Python, but for tracebacks; what is not ours to run is then named, not passed over."""
DIRECTIVE = re.compile(
    r"^[ \t]*\[(claim|claim-line|figure|ledger|questions|symbols|report|tour)(?:: ([^\]\n]+))?\][ \t]*$", re.M
)
INCLUDE = re.compile(r"^[ \t]*--8<--[ \t]+\"([^\":]+):([^\"]+)\"[ \t]*$", re.M)
EXPECTED = re.compile(r"(?m:^)[ \t]*<!--[-\s]*pytest-codeblocks:expected-output\s*-->")
SKIP = re.compile(r"(?m:^)[ \t]*<!--[-\s]*pytest\.mark\.skip(?:\(reason=\"([^\"]*)\"\))?\s*-->")
OTHER_MARK = re.compile(
    r"^[ \t]*<!--[-\s]*(pytest(?:-codeblocks:(?!expected-output\s*-->)|\.mark\.(?!skip\b))\S*?)(?:--|\s|\()", re.M
)
LIMIT = re.compile(r"(?:<!--|#)\s*limit:\s*([^\n]*?)\s*(?:-->|$)", re.M)
ANSWERS = re.compile(r"^#+ .*\{[^}\n]*data-answers=\"([^\"]+)\"", re.M)
TEXT = r"(?:(?!\n[ \t]*\n)[\s\S])"
MATH = re.compile(
    rf"(?P<skip><!--[\s\S]*?-->|(?<!`)(?P<tick>`+)(?!`){TEXT}+?(?<!`)(?P=tick)(?!`)|\\\$)"
    rf"|\$\$(?P<display>{TEXT}+?)\$\$"
    r"|(?<![\w$])\$(?=[^\s$])(?P<inline>(?:\\.|[^$\\\n]|\n(?![ \t]*\n))+?)(?<!\s)\$(?!\w)"
)


@dataclass(frozen=True)
class Fault:
    """Something wrong with the site: where, what, and how to mend it."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass
class Fence:
    """A fenced block: `line` is that of its first line of code, `start` and `end` count lines of the text from 0."""

    info: str
    code: str
    line: int
    start: int
    end: int
    indent: str
    ticks: str
    expected: str | None = None
    expects: tuple[int, int] | None = None
    excuse: str | None = None
    limits: str = ""
    includes: list[tuple[str, str]] = field(default_factory=list)

    @property
    def python(self) -> bool:
        return bool(PYTHON.match(self.info))


@dataclass(frozen=True)
class Claim:
    """A statement in a docstring of genref, and where it stands."""

    name: str
    statement: str
    path: str
    line: int

    @property
    def stem(self) -> str:
        return self.path.removeprefix("genref/").removesuffix(".py")


def strip_indent(line: str, indent: str) -> str:
    kept = min(len(indent), len(line) - len(line.lstrip(" \t>" if ">" in indent else " \t")))
    return line[kept:]


def fences(text: str) -> list[Fence]:
    """All fenced blocks of a text, each with its expected output, its excuse and its limits."""
    lines, found, at, above = text.split("\n"), list[Fence](), 0, 0
    while at < len(lines):
        match = FENCE.match(lines[at])
        if not match:
            at += 1
            continue
        ticks, indent = match["ticks"], match["indent"]
        close = re.compile(rf"^[ \t]*(?:>[ \t]?)*{re.escape(ticks[0])}{{{len(ticks)},}}[ \t]*$")
        end = next((k for k in range(at + 1, len(lines)) if close.match(lines[k])), len(lines))
        code = "".join(strip_indent(line, indent) + "\n" for line in lines[at + 1 : end])
        fence = Fence(match["info"].strip(), code, at + 2, at, end, indent, ticks, includes=INCLUDE.findall(code))
        between = "\n".join(lines[above:at])
        if EXPECTED.search(between) and found:
            found[-1].expected, found[-1].expects = code, (at, end)
        else:
            if skip := SKIP.search(between):
                fence.excuse = skip[1] or ""
            fence.limits = " ".join(LIMIT.findall(between))
            found.append(fence)
        at = above = end + 1
    return found


def outside(text: str) -> str:
    """The text with the lines of fences (not their number) taken out."""
    lines = text.split("\n")
    for fence in fences(text):
        for start, end in filter(None, ((fence.start, fence.end), fence.expects)):
            lines[start : end + 1] = [""] * len(lines[start : end + 1])
    return "\n".join(lines)


def formulas(text: str) -> Iterator[tuple[re.Match[str], str, bool]]:
    """The formulas outside code: where, the TeX, and whether it is displayed."""
    for match in MATH.finditer(text):
        if not match["skip"]:
            yield match, match["display"] or match["inline"], bool(match["display"])


_converter = math_core.LatexToMathML(fancy_error=False)


@cache
def mathml(tex: str, display: bool) -> str:
    """The formula as MathML; raises ValueError with the reason for a formula that cannot be set."""
    tex = re.sub(r"^[ \t>]+", "", tex.strip(), flags=re.M)
    try:
        made = _converter.convert_with_local_state(tex, displaystyle=display)
        said = ""
    except math_core.LatexError as error:
        made, said = "", re.sub(r"^\d+: ", "", str(error)).rstrip(".")
    if re.search(r"<m(?:sup|sub|subsup)><mo[^>]*minsize", made):
        said = r"an index makes a big bracket small where the braces of {\bigl(x\bigr)}^2 are left out"
    if said:
        raise ValueError(f"formula `{' '.join(tex.split())}`: {said}")
    return made


def line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def docstrings(path: Path) -> tuple[tuple[str, int], ...]:
    """The docstrings of a module, as written and without their indentation, with the line each begins on."""
    try:
        return _docstrings(path.read_text())
    except SyntaxError:
        return ()  # the collector names it


@cache
def _docstrings(source: str) -> tuple[tuple[str, int], ...]:
    lines, found = source.splitlines(), []
    for node in ast.walk(ast.parse("\n".join(lines))):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            value = node.body[0].value  # type: ignore[attr-defined]
            raw = "\n".join(lines[value.lineno - 1 : value.end_lineno])
            first, *rest = re.sub(r"^\s*\w?(\"\"\"|''')|(\"\"\"|''')\s*$", "", raw).split("\n")
            found.append((first.strip() + "\n" + textwrap.dedent("\n".join(rest)), value.lineno))
    return tuple(found)


CLAIM = re.compile(r"^Claim: *(\S+) *\n((?:[ \t]+.*\n?|[ \t]*\n)+)", re.M)


def claims(root: Path) -> list[Claim]:
    """All claims stated in genref, in the order of the files and lines."""
    found = []
    for path in sorted((root / "genref").rglob("*.py")):
        place = path.relative_to(root).as_posix()
        if place.startswith("genref/_site/"):
            continue
        for text, line in docstrings(path):
            for match in CLAIM.finditer(text):
                statement = textwrap.dedent(match[2]).strip()
                found.append(Claim(match[1], statement, place, line + line_of(text, match.start()) - 1))
    return found
