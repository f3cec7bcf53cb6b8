"""The rules of the house, each a short test on the checkout as it stands."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from genref._site import claims, extension, programs, scan

ROOT = Path(__file__).resolve().parents[2]
SITE = programs.collect(ROOT)
TOPICS = {"latent": {"gradients"}, "projection": {"flows"}, "energy": {"adversarial"}}
"""What a topic may import besides numerics and itself."""
AMERICAN = re.compile(
    r"\b(\w*(?:normaliz|generaliz|minimiz|maximiz|optimiz|regulariz|parametriz|parameteriz|marginaliz|analyz|factoriz"
    r"|initializ|vectoriz|discretiz|recogniz|summariz)\w*|behaviors?|colors?|colored|favors?|centers?|centered|gray|modeling|labeled)\b",
    re.I,
)


def modules():
    return [p for p in sorted((ROOT / "genref").rglob("*.py")) if "_site" not in p.parts]


def imported(path):
    """The genref modules that a file imports, and all modules by name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def claim_modules():
    return sorted(path for path in (ROOT / "tests").glob("*/test_*.py") if path.parent.name != "site")


def pages():
    return sorted((ROOT / "docs").rglob("*.md"))


def test_the_checkout_has_no_fault_that_shows_before_anything_runs():
    assert SITE.faults == []


def test_fences_found_are_run_or_excused():
    """Counted by a parser of its own, however their info string is written."""
    parser, found = MarkdownIt(), 0
    texts = [path.read_text() for path in [*pages(), ROOT / "README.md"]]
    texts += [text for path in modules() for text, _ in scan.docstrings(path)]
    for text in texts:
        blocks = [token for token in parser.parse(text) if token.type == "fence"]
        # Admonitions are indented by four, which CommonMark reads as code: their fences are counted in it.
        blocks += [
            inner
            for token in parser.parse(text)
            if token.type == "code_block"
            for inner in parser.parse(token.content)
            if inner.type == "fence"
        ]
        found += sum(bool(re.match(r"\{?\s*\.?(py|ipython)", token.info.strip(), re.I)) for token in blocks)
    run = [p for p in SITE.programs if p.kind in ("fence", "readme", "docstring")]
    assert found == SITE.fences == len(run) + len(SITE.excused) + SITE.included


def test_claims_stated_are_claims_tested():
    tested = set()
    for path in claim_modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.claim":
                tested.add(ast.literal_eval(node.args[0]))
    assert tested == {claim.name for claim in SITE.claims}


def test_every_question_is_answered_by_a_claim_or_a_discussion():
    listed = [name for row in SITE.questions for name in row["names"]]
    assert len(listed) == len(set(listed)) == 70
    wanted = {claim for row in SITE.questions for claim in row["claims"]}
    stated = {claim.name for claim in SITE.claims}
    discussions = {name for row in SITE.questions if row["kind"] == "discussion" for name in row["names"]}
    assert wanted <= stated
    assert discussions == SITE.discussed
    for row in SITE.questions:
        home = ROOT / f"docs/{row['page']}.md"
        assert home.is_file(), row["page"]


def test_every_public_symbol_is_on_a_page():
    for path in modules():
        if path.name in ("__init__.py", "__main__.py"):
            continue
        stem = path.relative_to(ROOT / "genref").with_suffix("")
        page = ROOT / "docs" / stem.with_suffix(".md")
        assert f"::: genref.{'.'.join(stem.parts)}" in page.read_text(), f"{page} does not show {stem}"
        module = importlib.import_module(f"genref.{'.'.join(stem.parts)}")
        own = {n for n, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
        assert {name for name in own if not name.startswith("_")} <= set(module.__all__)


def test_the_symbols_page_lists_what_the_modules_export():
    names = {name for name, _ in extension.public(ROOT)}
    exported = set()
    for path in modules():
        if path.parent != ROOT / "genref":
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            exported |= {f"{name}.{symbol}" for symbol in getattr(importlib.import_module(name), "__all__", [])}
    assert names == exported


def test_imports_go_one_way():
    for path in modules():
        topic = path.relative_to(ROOT / "genref").parts[0]
        for name in imported(path):
            parts = name.split(".")
            if parts[0] != "genref" or len(parts) < 2 or path.name == "__main__.py":
                continue
            allowed = {topic, "numerics", *TOPICS.get(topic, set())}
            assert parts[1] in allowed or parts[1].startswith("_lazy"), f"{path} imports {name}"
    for path in (ROOT / "snippets").rglob("*.py"):
        assert not any(name.startswith(("genref._site", "tests")) for name in imported(path))


def test_only_the_site_imports_matplotlib():
    for path in modules():
        assert not any(name.split(".")[0] == "matplotlib" for name in imported(path)), path


def test_oracles_are_scipy_sympy_and_mpmath_in_tests_only():
    for path in modules():
        assert not {name.split(".")[0] for name in imported(path)} & {"scipy", "sympy", "mpmath"}, path


def test_no_page_loads_from_another_host():
    source = "\n".join(path.read_text() for path in [*pages(), *(ROOT / "genref/_site/theme").rglob("*.html")])
    source += "\n".join(path.read_text() for path in (ROOT / "docs").rglob("*.css"))
    assert not re.findall(
        r"(?:<(?:script|link|img|iframe)[^>]+|!\[[^\]]*\]\(|url\(|@import )[\"']?https?://[^\s\"')]+", source
    )


def test_every_figure_has_alt_text():
    for path in (ROOT / "snippets").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("figure"):
                assert len(ast.get_docstring(node) or "") >= 40, f"{path}: {node.name}"


def test_oracles_are_independent():
    """The plugin refuses a dependent oracle when its test runs; here every claim test is read at once."""
    checked = 0
    for path in claim_modules():
        tree = ast.parse(path.read_text())
        named = [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and "pytest.mark.claim" in ast.unparse(n)]
        if not named:
            continue
        spec = importlib.util.spec_from_file_location(f"guard_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        for name in named:
            assert claims.dependent(getattr(module, name)) == [], f"{path}: {name}"
            checked += 1
    assert checked == len(SITE.claims)


def test_british_spelling_in_prose():
    for path in [*pages(), ROOT / "README.md", ROOT / "CHANGELOG.md", *modules()]:
        if path.suffix == ".md":
            text = re.sub(r"`[^`\n]*`", "", scan.outside(path.read_text()).partition("\n## Sources\n")[0])
            text = re.sub(r"^(?:needs|tags): .*|^ *\[(?:claim|claim-line|figure): .*|^::: .*", "", text, flags=re.M)
        else:
            text = "\n".join(re.sub(r"`[^`\n]*`", "", scan.outside(doc)) for doc, _ in scan.docstrings(path))
        text = re.sub(r"\]\([^)]*\)|https?://\S+", "", text)
        assert AMERICAN.findall(text) == [], path


def test_the_address_of_the_site_stands_once():
    settings = programs.config(ROOT)
    files = [
        p
        for p in ROOT.rglob("*")
        if p.suffix in (".py", ".md", ".yml", ".toml", ".html", ".css", ".cff") and p.is_file()
    ]
    files = [p for p in files if not {".venv", ".cache", "site", "node_modules"} & set(p.relative_to(ROOT).parts)]
    for key in ("site_url", "repo_url"):
        if address := settings.get(key):
            assert [p.name for p in files if address.rstrip("/") in p.read_text()] == ["mkdocs.yml"]


def test_every_exclusion_says_why():
    for path in [p for folder in ("genref", "tests", "snippets", "docs") for p in (ROOT / folder).rglob("*.py")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert "pragma: " + "no cover" not in line, f"{path}:{number}"
            assert not re.search(r"#\s*type: ignore(?!\[)", line), f"{path}:{number}: say which error"
            assert not re.search(r"#\s*noqa(?!: [A-Z]+\d+  \(\w)", line), f"{path}:{number}: say which rule, and why"


@pytest.mark.parametrize("name", ["LICENSE", "CITATION.cff", "CHANGELOG.md", "README.md", "constraints.txt"])
def test_the_house_has_its_papers(name):
    assert (ROOT / name).stat().st_size > 100


def test_the_citation_has_the_version_of_the_package():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == importlib.import_module("genref").__version__
    assert f'version = "{cited["version"]}"' in (ROOT / "pyproject.toml").read_text()


def test_constraints_pin_everything_and_torch_without_a_local_label():
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert "torch==2.13.0" in lines


def test_a_folded_block_has_its_text_below_its_title():
    """On the line of the title it would be shown as it stands, and the block would not fold."""
    for path in pages():
        assert not re.findall(r'^ *\?\?\?\+? \w+(?: "[^"\n]*")[ \t]+\S.*', path.read_text(), re.M), path
