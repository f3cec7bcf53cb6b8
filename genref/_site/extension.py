"""The Markdown extension: programs with their output, claims with their verdict, figures, formulas.

Runs alike under MkDocs and Zensical. It never raises for content: what is wrong is shown in place, and the builder
lists it.
"""

import ast
import logging
import os
import posixpath
import re
from functools import lru_cache
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import markdown.util
from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor

from genref._site import programs, runner, scan
from genref._site.store import Store

log = logging.getLogger("mkdocs.genref")
TITLE = re.compile(r"title=\"([^\"]+)\"")
CAPTION = re.compile(r"\A[ \t]*\*(?!\*)((?:(?!\n[ \t]*\n)[\s\S])+?)\*[ \t]*(?=\n[ \t]*(?:\n|\Z)|\Z)")
TIED = re.compile("(" + markdown.util.HTML_PLACEHOLDER_RE.pattern + "[.,;:?!)]+)")
"""An inline formula and the punctuation that must not begin the next line."""
NOTES = re.compile(rf"{scan.EXPECTED.pattern}|{scan.SKIP.pattern}|<!--\s*limit:.*?-->")


class Context:
    """What the pages of one state of the checkout are made from."""

    def __init__(self, site: programs.Site, found: list[runner.Outcome], verdicts: dict[str, dict[str, Any]]) -> None:
        self.site, self.root, self.verdicts = site, site.root, verdicts
        self.outcomes = {o.program.source: o for o in found if o.program.kind not in ("snippet", "standalone", "tour")}
        self.by_path = {(o.program.kind, o.program.path): o for o in found}
        self.claims = {claim.name: claim for claim in site.claims}

    def standalone(self, snippet: str) -> runner.Outcome | None:
        return self.by_path.get(("standalone", snippet))


def verdicts(root: Path, stems: list[str]) -> dict[str, dict[str, Any]]:
    """The verdicts that the store holds for the claims as they now stand."""
    store = Store(root)
    entries = (store.load(runner.key(program))[0] for program in runner.claim_programs(root, stems))
    return {verdict["id"]: verdict for entry in entries if entry for verdict in entry["verdicts"]}


prepared: Context | None = None
"""Set by the builder, which has run everything and lists the faults itself."""


def context() -> Context:
    """The builder's context, or one of the checkout in this folder, made anew when a file of it changes."""
    if prepared is not None:
        return prepared
    root = Path.cwd().resolve()
    stamps = []
    for folder in ("docs", "genref", "snippets", "tests"):
        for path, _, names in os.walk(root / folder):
            if "__pycache__" not in path:
                stamps += [(path, name, os.stat(os.path.join(path, name)).st_mtime_ns) for name in sorted(names)]
    return _context(root, tuple(stamps))


@lru_cache(1)
def _context(root: Path, stamps: tuple[object, ...]) -> Context:
    """Runs what the store does not hold; faults become warnings, so that a strict build fails."""
    site = programs.collect(root)
    found = runner.run(root, site.programs)
    made = Context(site, found, verdicts(root, [claim.stem for claim in site.claims]))
    for fault in sorted({str(f) for f in site.faults} | {str(f) for o in found for f in o.faults}):
        log.warning(fault)
    for name in sorted(made.claims.keys() - made.verdicts.keys()):
        log.warning(f"claim {name} was not checked in this build; run make site")
    return made


def number(value: float | None) -> str:
    """A measured number, to two digits; without bound where it is None."""
    if value is None:
        return "unbounded"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{value:.2g}" if -3 < int(power) < 6 else f"{mantissa}e{int(power)}"


def held(verdict: dict[str, Any] | None) -> str:
    """`held`, `failed` or `not run`."""
    if verdict is None:
        return "not run"
    mutants = verdict["mutants"]
    good = verdict.get("held") and mutants and all(m["rejected"] for m in mutants) and not verdict["problems"]
    return "held" if good else "failed"


WORD = {"held": "Holds", "failed": "Does not hold", "not run": "Not checked in this build"}


def measured(verdict: dict[str, Any]) -> str:
    """The evidence for a claim in a few words."""
    if verdict["kind"] == "statistical":
        return f"z = {number(verdict['measured'])}, below {number(verdict['bound'])}"
    if verdict["bound"] == 0:
        return "equal to the oracle" if verdict["measured"] == 0 else f"{number(verdict['measured'])} differences"
    error = {"relative": "relative error", "excess": "excess"}.get(verdict.get("note", ""), "error")
    return f"{error} {number(verdict['measured'])} where {number(verdict['bound'])} is allowed"


def summary(verdict: dict[str, Any] | None) -> str:
    """A verdict in one line."""
    word = WORD[held(verdict)]
    if verdict is None or "kind" not in verdict:
        return word
    wrong = [m["rejected"] for m in verdict["mutants"]]
    tally = f"{sum(wrong)} of {len(wrong)} wrong versions rejected"
    return f"{word}: {verdict['kind']}, {measured(verdict)}; {tally}"


class Transform(Preprocessor):
    """Replaces the directives, formulas and programs of a text by what they show."""

    def __init__(self, md: Markdown) -> None:
        super().__init__(md)
        self.shown: set[str] = set()

    @property
    def page(self) -> str:
        """The source path of the page being made, under MkDocs or Zensical."""
        if "relpath" in self.md.treeprocessors:
            file = getattr(self.md.treeprocessors["relpath"], "file", None)
            if file is not None:
                return str(file.src_uri)
        pages = [vars(p)["page"].path for p in self.md.preprocessors if type(p).__name__ == "ContextPreprocessor"]
        return str(pages[0]) if pages else "index.md"

    def link(self, target: str) -> str:
        path, _, anchor = target.partition("#")
        if path == self.page:
            return f"#{anchor}"
        return posixpath.relpath(path, posixpath.dirname(self.page) or ".") + (f"#{anchor}" if anchor else "")

    def run(self, lines: list[str]) -> list[str]:
        self.now = context()
        return self.text("\n".join(lines)).split("\n")

    def text(self, text: str) -> str:
        """Transforms a text: what stands between fences, then each fence."""
        lines, out, at = text.split("\n"), list[str](), 0
        for fence in scan.fences(text):
            out.append(self.prose("\n".join(lines[at : fence.start])))
            out.append(self.fence(fence, "\n".join(lines[fence.start : fence.end + 1])))
            at = fence.end + 1
            if fence.expects:
                at = fence.expects[1] + 1
        out.append(self.prose("\n".join(lines[at:])))
        return "\n".join(out)

    def prose(self, text: str) -> str:
        parts, at = list[str](), 0
        for match in scan.DIRECTIVE.finditer(text):
            if match.start() < at:
                continue
            parts.append(self.formulas(text[at : match.start()]))
            at = match.end()
            caption = CAPTION.match(text[at + 1 :]) if match[1] == "figure" else None
            if caption:
                at += 1 + caption.end()
            done = getattr(self, "_" + match[1].replace("-", "_"))(match[2] or "", caption[1] if caption else "")
            parts.append(f"\n\n{done}\n\n")
        return NOTES.sub("", "".join(parts) + self.formulas(text[at:]))

    def formulas(self, text: str) -> str:
        def set_(match: re.Match[str]) -> str:
            if match["skip"]:
                return match["skip"]
            display = bool(match["display"])
            tex = match["display"] or match["inline"]
            try:
                made = scan.mathml(tex, display)
            except ValueError as error:
                made = f'<code class="fault">{escape(str(error))}</code>'
            if display:
                made = f'<div class="formula">{made}</div>'
            return str(self.md.htmlStash.store(made))

        return TIED.sub(r'<span class="tie">\1</span>', scan.MATH.sub(set_, text))

    def fence(self, fence: scan.Fence, raw: str) -> str:
        """A fence, followed by what its program printed."""
        if not fence.python or fence.excuse is not None:
            return raw
        title = TITLE.search(fence.info)
        snippet = title[1] if title and title[1].startswith("snippets/") else ""
        outcome = self.now.by_path.get(("snippet", snippet)) if snippet else self.now.outcomes.get(fence.code)
        if outcome is None:
            return raw
        parts = [raw]
        shown = fence.expected if fence.expected is not None else "" if snippet else outcome.stdout
        if outcome.faults:
            parts.append(self.block("This program failed in the build", "\n".join(map(str, outcome.faults))))
        elif shown:
            parts.append(f'```{{.text .output .no-copy title="Output"}}\n{shown}```\n')
        if snippet and snippet not in self.shown and (alone := self.now.standalone(snippet)):
            self.shown.add(snippet)
            code = f"```python\n{alone.program.source}```"
            parts.append('??? abstract "Standalone copy: needs torch and matplotlib only"\n\n' + indent(code))
        first, *rest = parts
        return "\n".join([first, *(indent(f"\n{part}\n", fence.indent) for part in rest)])

    @staticmethod
    def block(title: str, text: str) -> str:
        return f'!!! danger "{title}"\n\n    ```text\n{indent(text)}\n    ```'

    # The directives, each by its name.

    def _claim(self, name: str, _: str) -> str:
        claim = self.now.claims.get(name)
        if claim is None:
            return self.block("Unknown claim", name)
        verdict = self.now.verdicts.get(name)
        state = held(verdict).replace(" ", "-")
        parts = [
            f'<div class="claim {state}" id="claim-{name}" markdown="1">',
            f"[Claim `{name}`](#claim-{name}){{ .claim-name }}",
            self.formulas(claim.statement),
        ]
        if verdict is None or "kind" not in verdict:
            parts.append(f'<p class="verdict">{summary(verdict)}</p>')
        else:
            rows = [f"| {escape(m['name'])} | {number(m['measured'])} |" for m in verdict["mutants"]]
            note = verdict["note"] if verdict["kind"] == "statistical" else ""
            body = [f"Oracle: {verdict['oracle']}." + (f" {note.capitalize()}." if note else "")]
            body.append("\n".join(["| Wrong version, rejected | Its error |", "| --- | --- |", *rows]))
            body.append(f"Test: {self.source(verdict['test'])}")
            parts.append(f'??? evidence "{summary(verdict)}"\n\n' + indent("\n\n".join(body)))
        return "\n\n".join([*parts, "</div>"])

    def source(self, place: str) -> str:
        """A place in the sources; a link where the repository has an address."""
        path, _, line = place.partition(":")
        address = self.now.site.config.get("repo_url")
        return f"[`{place}`]({address.rstrip('/')}/blob/main/{path}#L{line})" if address else f"`{place}`"

    def _claim_line(self, name: str, _: str) -> str:
        if name not in self.now.claims:
            return self.block("Unknown claim", name)
        claim, verdict = self.now.claims[name], self.now.verdicts.get(name)
        place = self.link(f"{claim.stem}.md#claim-{name}")
        state = held(verdict).replace(" ", "-")
        statement = self.formulas(claim.statement.split("\n\n")[0])
        link = f"[`{name}`]({place})"
        text = f"{link} {statement}\n\n{summary(verdict)}.\n{{ .verdict }}"
        return f'<div class="claim-line {state}" markdown="1">\n\n{text}\n\n</div>'

    def _figure(self, argument: str, caption: str) -> str:
        stem, _, key = argument.partition(" ")
        outcome = self.now.by_path.get(("snippet", f"snippets/{stem}.py"))
        drawn = outcome.figures.get(f"figure_{key}" if key else "figure") if outcome else None
        if outcome is None or drawn is None:
            return self.block("This figure could not be drawn", argument)
        art = self.md.htmlStash.store(f'<div class="drawing">{drawn["svg"]}</div>')
        text = f'\n\n<figcaption markdown="1">\n{self.formulas(caption)}\n</figcaption>' if caption else ""
        code = figure_code(outcome.program.source, f"figure_{key}" if key else "figure")
        block = indent(f"```{{.python .no-copy}}\n{code}\n```")
        closed = f'??? example "How this figure is drawn"\n\n{block}' if code else ""
        return f'<figure markdown="1">\n\n{art}{text}\n\n</figure>\n\n{closed}'

    def _ledger(self, *_: str) -> str:
        out, topic = list[str](), ""
        for claim in self.now.claims.values():
            if claim.stem.split("/")[0] != topic:
                topic = claim.stem.split("/")[0]
                page = self.now.root / "docs" / topic / "index.md"
                title = re.search(r"^# (.+)$", page.read_text(), re.M) if page.is_file() else None
                out.append(f"## {title[1] if title else topic}")
            verdict = self.now.verdicts.get(claim.name)
            place, state = self.link(f"{claim.stem}.md#claim-{claim.name}"), held(verdict).replace(" ", "-")
            roads = f" Against {verdict['oracle']}." if verdict and "oracle" in verdict else ""
            text = f"[`{claim.name}`]({place}){roads}\n\n{summary(verdict)}.\n{{ .verdict }}"
            out.append(f'<div class="claim-line {state}" markdown="1">\n\n{text}\n\n</div>')
        return "\n\n".join(out)

    def _questions(self, *_: str) -> str:
        out, letter = list[str](), ""
        for row in self.now.site.questions:
            if row["names"][0][0] != letter:
                letter = row["names"][0][0]
                end = "\n</div>\n\n" if out else ""
                head = "| Question | What is asked | Answered by |\n| --- | --- | --- |"
                out.append(f'{end}## Set {letter}\n\n<div class="stacked" markdown="1">\n\n{head}')
            names = ", ".join(row["names"])
            stated = [self.now.claims[c] for c in row["claims"] if c in self.now.claims]
            links = ", ".join(f"[`{c.name}`]({self.link(f'{c.stem}.md#claim-{c.name}')})" for c in stated)
            out.append(f"| {names} | {self.formulas(row['question'])} | {links or 'not yet'} |")
        return "\n".join([*out, "\n</div>" if out else ""])

    def _symbols(self, *_: str) -> str:
        out, module = list[str](), ""
        for symbol, doc in public(self.now.root):
            home, short = symbol.rsplit(".", 1)
            if home != module:
                module = home
                page = self.link(home.removeprefix("genref.").replace(".", "/") + ".md")
                out.append(f"\n## [`{home}`]({page})\n\n| Name | What it is |\n| --- | --- |")
            out.append(f"| [`{short}`][{symbol}] | {self.formulas(doc)} |")
        return "\n".join(out)

    def _report(self, *_: str) -> str:
        return '<div id="build-report"><p>The report is written by <code>make site</code>.</p></div>'

    def _tour(self, name: str, _: str) -> str:
        outcome = self.now.by_path.get(("tour", f"docs/tours/{name}.py"))
        if outcome is None or outcome.faults:
            return self.block("This tour failed", "\n".join(map(str, outcome.faults)) if outcome else name)
        out = []
        for cell in outcome.cells:
            if cell["kind"] == "markdown":
                out.append(self.formulas(cell["source"]))
                continue
            out.append(f"```python\n{cell['source']}```")
            for shown in cell["outputs"]:
                svg = shown.get("svg")
                text = f'```{{.text .output .no-copy title="Output"}}\n{shown.get("text", "")}```'
                out.append(self.md.htmlStash.store(f'<figure class="drawing">{svg}</figure>') if svg else text)
        return "\n\n".join(out)


def indent(text: str, by: str = "    ") -> str:
    return "\n".join(by + line if line.strip() else line for line in text.split("\n"))


def figure_code(source: str, name: str) -> str:
    """The code of a figure: its section of the snippet if it has one of its own, else the function."""
    section = re.search(rf"# --8<-- \[start:{name}\]\n(.*?)# --8<-- \[end:{name}\]", source, re.S)
    if section:
        return section[1].strip()
    node = next((n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == name), None)
    return ast.get_source_segment(source, node) or "" if node else ""


def public(root: Path) -> list[tuple[str, str]]:
    """The public symbols of genref, with the first line of their docstrings."""
    found = []
    for path in sorted((root / "genref").rglob("*.py")):
        place = path.relative_to(root)
        if "_site" in place.parts or path.parent == root / "genref":
            continue
        module = ".".join(place.with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text())
        exported: list[str] = next(
            (
                ast.literal_eval(n.value)
                for n in tree.body
                if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"
            ),
            [],
        )
        docs = {n.name: ast.get_docstring(n) or "" for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        for one, other in pairwise(tree.body):  # a constant's docstring stands below it
            if isinstance(one, ast.Assign) and isinstance(other, ast.Expr) and isinstance(other.value, ast.Constant):
                docs[ast.unparse(one.targets[0])] = str(other.value.value)
        found += [(f"{module}.{name}", docs.get(name, "").split("\n")[0]) for name in exported]
    return found


class Genref(Extension):
    """Registers the transform after snippets are included and before fences are read."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  (the name that Markdown calls)
        md.preprocessors.register(Transform(md), "genref", 27)


def makeExtension(**kwargs: Any) -> Genref:  # noqa: N802  (the name that Markdown calls)
    return Genref(**kwargs)
