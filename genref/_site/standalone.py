"""The standalone copy of a snippet: with the genref functions it uses inlined, it needs torch and matplotlib only."""

import ast
import sys
from functools import cache
from pathlib import Path

from genref._site.scan import Fault

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
ALLOWED = {"torch", "numpy", "matplotlib", *sys.stdlib_module_names}


def bound(node: ast.stmt) -> list[str]:
    """The names that a statement of a module's top level binds."""
    if isinstance(node, Definition):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(a.asname or a.name).split(".")[0] for a in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]


@cache
def used(node: ast.AST) -> set[str]:
    """The names in a piece of source."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def plain(source: str) -> str:
    """The module with shape annotations turned into plain tensors and docstrings cut to their first line."""
    tree, raw = ast.parse(source), source.encode().splitlines(keepends=True)
    starts = [sum(map(len, raw[:k])) for k in range(len(raw) + 1)]
    shapes = {
        a.asname or a.name
        for n in tree.body
        if isinstance(n, ast.ImportFrom) and n.module == "jaxtyping"
        for a in n.names
    }
    edits: list[tuple[int, int, str]] = []
    for node in ast.walk(tree):
        new = None
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in shapes:
            new = ast.unparse(node.slice.elts[0] if isinstance(node.slice, ast.Tuple) else node.slice)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            new = 'r"""' + node.value.value.strip().split("\n")[0] + '"""'
        if new is not None and isinstance(node, (ast.Subscript, ast.Expr)):
            start = starts[node.lineno - 1] + node.col_offset
            edits.append((start, starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0), new))
    text = source.encode()
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new.encode() + text[end:]
    return text.decode()


@cache
def parts(source: str) -> tuple[dict[str, ast.stmt], list[str]]:
    """What the top level of a module binds, and the lines of its plain form; read once for all snippets."""
    text = plain(source)
    return {each: node for node in ast.parse(text).body for each in bound(node)}, text.splitlines()


class Inliner:
    """Collects, in an order that runs, the imports and definitions that a snippet needs of genref."""

    def __init__(self, root: Path, path: str) -> None:
        self.root, self.path, self.line = root, path, 1
        self.imports: dict[str, None] = {}
        self.parts: list[str] = []
        self.origin: dict[str, str] = {}
        self.faults: list[Fault] = []

    def fail(self, message: str) -> None:
        """Names a fault at the import of the snippet that is being followed."""
        self.faults.append(Fault(self.path, self.line, message))

    def claim(self, name: str, origin: str) -> bool:
        """Whether a name is new; a fault if it already stands for something else."""
        first = self.origin.setdefault(name, origin)
        if first != origin:
            self.fail(f"two inlined objects named {name}: {first} and {origin}; rename one")
        return first == origin

    def take(self, module: str, name: str) -> None:
        """Inlines one object of one module, after all that it uses."""
        if self.origin.get(name) == module or not self.claim(name, module):
            return
        file = self.root / (module.replace(".", "/") + ".py")
        if not file.is_file():
            self.fail(f"no module {module}; import from the stem that defines {name}")
            return
        try:
            home, lines = parts(file.read_text())
        except SyntaxError:
            self.fail(f"{module} does not parse; mend it")
            return
        if name not in home:
            self.fail(f"{module} does not define {name}")
            return
        self.statement(module, home[name], home, lines)

    def statement(self, module: str, node: ast.stmt, home: dict[str, ast.stmt], lines: list[str]) -> None:
        for each in sorted((used(node) - set(bound(node))) & set(home)):
            inner = home[each]
            if isinstance(inner, ast.ImportFrom) and (inner.module or "").startswith("genref"):
                self.take(str(inner.module), each)
            elif isinstance(inner, (ast.Import, ast.ImportFrom)):
                self.library(inner, each)
            else:
                self.take(module, each)
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
        while start and lines[start - 1].startswith("#"):
            start -= 1
        self.parts.append("\n".join(lines[start : node.end_lineno]))

    def library(self, node: ast.Import | ast.ImportFrom, name: str) -> None:
        alias = next(a for a in node.names if (a.asname or a.name).split(".")[0] == name)
        one = ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], 0)
        text = ast.unparse(one)
        if self.claim(name, text if alias.asname or isinstance(node, ast.ImportFrom) else f"import {name}"):
            self.imports[text] = None


def standalone(root: Path, path: str, header: str) -> tuple[str, list[Fault]]:
    """The snippet at `path` as one file without genref, and what stands in the way of that."""
    inliner = Inliner(root, path)
    lines = (root / path).read_text().splitlines()
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError as error:
        return "", [Fault(path, error.lineno or 1, f"SyntaxError: {error.msg}")]
    gone: set[int] = {k for k, line in enumerate(lines) if line.lstrip().startswith("# --8<--")}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        inliner.line = node.lineno
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        if any(name.split(".")[0] == "genref" for name in names):
            gone |= set(range(node.lineno - 1, node.end_lineno or node.lineno))
            if not isinstance(node, ast.ImportFrom) or names[0].count(".") != 2 or any(a.asname for a in node.names):
                inliner.fail("import genref in one form only: `from genref.T.S import name`")
                continue
            for alias in node.names:
                inliner.take(names[0], alias.name)
        elif node in tree.body:
            gone |= set(range(node.lineno - 1, node.end_lineno or node.lineno))
            for name in bound(node):
                inliner.library(node, name)
    own = {
        name: node.lineno
        for node in tree.body
        if not isinstance(node, (ast.Import, ast.ImportFrom))
        for name in bound(node)
    }
    for name in own.keys() & inliner.origin.keys():
        inliner.line = own[name]
        inliner.fail(f"{name} is also inlined: {inliner.origin[name]}; rename it")
    inliner.line = 1
    for name in sorted(inliner.imports):
        if name.split()[1].split(".")[0] not in ALLOWED:
            inliner.fail(f"its standalone copy would need `{name}`; only torch, numpy and matplotlib are allowed")
    body = "\n".join(line for k, line in enumerate(lines) if k not in gone).strip()
    order = sorted(
        inliner.imports, key=lambda text: (text.split()[1].split(".")[0] not in sys.stdlib_module_names, text)
    )
    text = "\n\n\n".join(["\n".join([header, "", *order]), *inliner.parts, body]) + "\n"
    return text, inliner.faults
