"""Reading Markdown: every fence is found however it is written, with its output, excuse, formulas and lines."""

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from genref._site import programs, scan

ROOT = Path(__file__).resolve().parents[2]
TICKS = "`" * 3


def counted(text):
    """Python fences by the CommonMark parser; what it reads as indented code is a container of ours: read again."""
    found = 0
    for token in MarkdownIt().parse(text):
        if token.type == "fence":
            found += bool(re.search(r"(^|[{\s.])i?py", token.info.partition("title")[0], re.I))
        elif token.type == "code_block":
            found += counted(token.content)
    return found


def indented(text, by):
    return "".join(by + line if line.strip() else line for line in text.splitlines(keepends=True))


FENCE = f"{TICKS}python\nassert abs(1)\n{TICKS}\n"
HARD = {  # name: (text, number of Python fences)
    "plain": (FENCE, 1),
    "short": (f"{TICKS}py\nassert abs(1)\n{TICKS}\n", 1),
    "title": (f'{TICKS}python title="a.py" hl_lines="1"\nassert abs(1)\n{TICKS}\n', 1),
    "braces": (f"{TICKS}{{.python .annotate}}\nassert abs(1)\n{TICKS}\n", 1),
    "braces and spaces": (f"{TICKS} {{ .py3 #name }}\nassert abs(1)\n{TICKS}\n", 1),
    "space": (f"{TICKS} python\nassert abs(1)\n{TICKS}  \n", 1),
    "capitals": (f"{TICKS}Python\nassert abs(1)\n{TICKS}\n", 1),
    "consoles": (f"{TICKS}pycon\n>>> 1\n{TICKS}\n{TICKS}ipython3\n1\n{TICKS}\n", 2),
    "tildes": (f"~~~python\n{TICKS}\n~~\n~~~\n", 1),
    "other languages": (f"{TICKS}console\n$ python\n{TICKS}\n{TICKS}\n{TICKS}\n{TICKS}text\npython\n{TICKS}\n", 0),
    "versions": (f"{TICKS}python2\n1\n{TICKS}\n{TICKS}{{ #name .python3.11 }}\n1\n{TICKS}\n", 2),
    "shown in a longer fence": (f"{TICKS}`md\n{FENCE}{TICKS}`\n", 0),
    "holds a shorter fence": (f'{TICKS}`python\nx = """\n{FENCE}"""\n{TICKS}``\n', 1),
    "holds an opening": (f"{TICKS}python\n{TICKS}python\nassert abs(1)\n{TICKS}\n", 1),
    "two, no line between": (f"Text\n{FENCE}{FENCE}Text\n", 2),
    "admonition": (f"!!! note\n\n{indented(FENCE, '    ')}\n??? hint\n\n{indented(FENCE, '    ')}", 2),
    "nested admonitions": (f"!!! note\n\n    ??? hint\n\n{indented(FENCE, ' ' * 8)}", 1),
    "tabs": (f'=== "One"\n\n{indented(FENCE, "    ")}\n=== "Two"\n\n{indented(FENCE, "    ")}', 2),
    "list": (f"- one\n\n{indented(FENCE, '  ')}\n- two\n\n{indented(FENCE, '    ')}", 2),
    "numbered list": (f"1. one\n\n{indented(FENCE, '    ')}\n10. two\n\n{indented(FENCE, '    ')}", 2),
    "admonition in a list": (f"- one\n\n    !!! note\n\n{indented(FENCE, '        ')}", 1),
    "footnote": (f"Text[^1].\n\n[^1]: Note.\n\n{indented(FENCE, '    ')}", 1),
    "definition": (f"Term\n\n:   Meaning.\n\n{indented(FENCE, '    ')}", 1),
    "quotation": (indented(FENCE, "> "), 1),
    "quotation in a list": (f"- one\n\n{indented(FENCE, '    > ')}", 1),
    "tab as indent": (f"!!! note\n\n{indented(FENCE, chr(9))}", 1),
    "inline": (f"Write {TICKS}python{TICKS}, not `{TICKS}python`.\n\n{TICKS}python x{TICKS}\n", 0),
    "never closed": (f"Text\n\n{TICKS}python\nassert abs(1)\n", 1),
    "other line ends": (FENCE.replace("\n", "\r\n").replace("\r\n", "\n"), 1),
}


@pytest.mark.parametrize("name", HARD)
def test_every_fence_is_found_however_it_is_written(name):
    text, number = HARD[name]
    found = [fence for fence in scan.fences(text) if fence.python]
    assert len(found) == number
    for fence in found:
        assert text.split("\n")[fence.start].lstrip("> \t")[:3] in (TICKS, "~~~")
        assert fence.line == fence.start + 2
    assert counted(text) == number


def test_every_fence_of_this_checkout_is_found():
    texts = [path.read_text() for path in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]]
    for path in (ROOT / "genref").rglob("*.py"):
        texts += [text for text, _ in scan.docstrings(path)]
    assert len(texts) > 20
    for text in texts:
        assert sum(fence.python for fence in scan.fences(text)) == counted(text), text


def test_the_code_of_a_fence_is_cut_free_of_its_indent():
    for indent in ("", "    ", "> ", "\t"):
        text = indented(f"{TICKS}python\nif x:\n    y\n\nz\n{TICKS}\n", indent)
        (fence,) = scan.fences(text)
        assert fence.code == "if x:\n    y\n\nz\n"
        assert (fence.start, fence.end, fence.line) == (0, 5, 2)


EXPECTED = f"<!--pytest-codeblocks:expected-output-->\n{TICKS}\nprinted\n{TICKS}\n"
SKIP = '<!--pytest.mark.skip(reason="a mistake made on purpose")-->\n'


def test_expected_output_belongs_to_the_fence_before_it():
    first, second = scan.fences(f"{FENCE}\n{EXPECTED}\nText.\n\n{FENCE}")
    assert (first.expected, first.expects, second.expected) == ("printed\n", (5, 7), None)
    (inside,) = scan.fences(f"!!! note\n\n{indented(FENCE + EXPECTED, '    ')}")
    assert inside.expected == "printed\n"


def collected(checkout, text, **files):
    """The site of a checkout with one page, and the faults of that page."""
    named = {name.replace("__", "/") + ".py": source for name, source in files.items()}
    site = programs.collect(checkout({"docs/a.md": text, **named}))
    return site, [str(fault) for fault in site.faults if fault.path == "docs/a.md"]


def test_an_excuse_needs_a_reason_and_stands_once_a_page(checkout):
    bare = "<!--pytest.mark.skip-->\n"
    site, faults = collected(checkout, f"{SKIP}{FENCE}\n{bare}{FENCE}\n{SKIP}{FENCE}")
    assert faults == [
        'docs/a.md:8: excused without a reason; write <!--pytest.mark.skip(reason="...")-->',
        "docs/a.md:13: a second excused program; at most one a page",
    ]
    assert [place for place in site.excused if place[0] == "docs/a.md"] == [
        ("docs/a.md", 3, "a mistake made on purpose"),
        ("docs/a.md", 8, ""),
        ("docs/a.md", 13, "a mistake made on purpose"),
    ]
    assert not [p for p in site.programs if p.path == "docs/a.md"]


def test_other_marks_are_refused(checkout):
    marks = ["pytest-codeblocks:cont", "pytest-codeblocks:skipfile", "pytest.mark.xfail", "pytest-codeblocks:skip"]
    marks += ["pytest-codeblocks:expected-output-ignore-whitespace", "pytest.mark.skipif"]
    for mark in marks:
        site, faults = collected(
            checkout, f"Not `<!--{mark}-->`:\n\n<!--{mark}-->\n{FENCE}\n~~~md\n<!--{mark}-->\n~~~\n"
        )
        assert faults == [f'docs/a.md:3: `{mark}` hides a program; use <!--pytest.mark.skip(reason="...")-->']
        assert [p.line for p in site.programs if p.path == "docs/a.md"] == [5], mark


def test_fences_that_stock_passes_over_are_named(checkout):
    text = f"{TICKS}py\nassert abs(1)\n{TICKS}\n\n{indented(FENCE, '> ')}\n~~~python\nassert abs(1)\n~~~\n"
    _, faults = collected(checkout, text)
    assert [fault.partition(";")[0] for fault in faults] == [
        "docs/a.md:1: stock pytest-codeblocks passes over ```py",
        "docs/a.md:5: stock pytest-codeblocks passes over ```python",
        "docs/a.md:9: stock pytest-codeblocks passes over ~~~python",
    ]


def test_programs_that_verify_nothing_are_named(checkout):
    sources = ["print(1)", "assert True", 'assert "this"', "x = 1"]
    _, faults = collected(checkout, "".join(f"{TICKS}python\n{source}\n{TICKS}\n" for source in sources))
    message = "verifies nothing; assert something, or give its expected output"
    assert faults == [f"docs/a.md:{3 * k + 2}: {message}" for k in range(4)]
    verify = ["assert x", "torch.testing.assert_close(a, b)", "with pytest.raises(E): f()", "if x: y", "def f(: broken"]
    assert [programs.verifies(source) for source in verify] == [True, True, False, False, True]


FORMULAS = {  # text: formulas found, displayed ones in capitals
    "Take $x$ and $y^2$.": ["x", "y^2"],
    "$$\na + b\n$$": ["\nA + B\n"],
    "A display $$ x $$ in a line, then $y$.": [" X ", "y"],
    "It spans $a +\nb$ lines.": ["a +\nb"],
    "Code `$x$` and ``$y$ ` $z$`` stay.": [],
    "Prices: 3$ and 5$, \\$4, US$5 and $ 6 $.": [],
    "$a\\$b$": ["a\\$b"],
    "<!-- $x$ --> $y$": ["y"],
    "One $ here.\n\nAnother $ there.": [],
    "($x$), $y$: $z$-th": ["x", "y", "z"],
    "**$x$** and *$y$*": ["x", "y"],
}


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_told_from_dollars_and_code(text):
    assert [tex.upper() if shown else tex for _, tex, shown in scan.formulas(text)] == FORMULAS[text]


def test_formulas_become_mathml():
    assert scan.mathml(r"\frac{a}{b}", False).startswith("<math")
    assert 'display="block"' in scan.mathml("a", True)
    assert "<mfrac>" in scan.mathml("> \\frac{a}\n> {b}", True)
    with pytest.raises(ValueError, match=r"formula `\\nosuch x`: "):
        scan.mathml("\\nosuch\nx", False)
    with pytest.raises(ValueError, match=r"formula `\\bigl\(x\\bigr\)\^2`: an index makes a big bracket small"):
        scan.mathml(r"\bigl(x\bigr)^2", False)
    assert "minsize" in scan.mathml(r"{\bigl(x\bigr)}^2", False)


def test_an_unknown_command_is_named_with_its_line_wherever_it_stands(checkout):
    module = 'r"""A module."""\n\n\ndef f():\n    r"""Returns $x$.\n\n    The second $\\wrong$.\n    """\n'
    site, faults = collected(checkout, f"Text $x$.\n\n{FENCE}\n$$\n\\nosuch\n$$\n", genref__toy__bad=module)
    assert faults == [f for f in faults if f.startswith("docs/a.md:7: formula `\\nosuch`: ")]
    assert faults[0].endswith("; write it as math-core reads it")
    assert len(faults) == 1
    (inner,) = [str(fault) for fault in site.faults if fault.path == "genref/toy/bad.py"]
    assert inner.startswith("genref/toy/bad.py:7: formula `\\wrong`: ")


def test_directives_are_read_and_their_faults_named(checkout):
    text = (
        '# Page {data-answers="Q1 Q2"}\n\n[claim: toy-line]\n\n[claim: toy-lines]\n[claim-line: toy-line]\n\n'
        "[claim: toy-line]\n[figure: toy/lime]\n[figure: toy/line]\n[figure: toy/line dots]\n\n"
        f"In words, [claim: nothing].\n\n{TICKS}text\n[claim: nothing]\n{TICKS}\n"
    )
    snippet = "assert abs(1)\n\n\ndef figure(ax):\n    pass\n"
    site, faults = collected(checkout, text, snippets__toy__line=snippet)
    assert faults == [
        "docs/a.md:5: unknown claim toy-lines; did you mean toy-line?",
        "docs/a.md:8: claim toy-line already has its box at docs/a.md:3; link to it",
        "docs/a.md:9: no snippet snippets/toy/lime.py to draw; did you mean toy/line?",
        "docs/a.md:11: snippets/toy/line.py has no function figure_dots to draw",
        "docs/a.md:3: claim toy-line belongs on docs/toy/line.md; move its box there",
    ]
    assert site.discussed == {"Q1", "Q2"}


def test_front_matter_names_pages_and_questions_that_are_there(checkout):
    text = "---\ndescription: A page.\nneeds: [toy/lime, a]\nanswers: [Q1]\n---\n# Page\n"
    _, faults = collected(checkout, text)
    assert faults == [
        "docs/a.md:3: needs toy/lime, which is no page",
        "docs/a.md:4: answers ['Q1']; by docs/questions.yml its claims answer []",
    ]


def test_front_matter_that_cannot_be_read_is_named_with_its_line(checkout):
    _, faults = collected(checkout, "---\ntags: [a]\ndescription: One: two\n---\n# Page\n")
    assert faults == [
        "docs/a.md:3: front matter cannot be read: mapping values are not allowed here; put the value in quotes"
    ]


def test_sections_of_snippets_are_read_and_their_faults_named(checkout):
    def shows(*lines):
        return f'{TICKS}python title="snippets/toy/a.py"\n' + "".join(f"{line}\n" for line in lines) + f"{TICKS}\n"

    text = shows('--8<-- "snippets/toy/a.py:check"') + f"{EXPECTED}\n"
    text += shows('--8<-- "snippets/toy/a.py:chek"') + shows('--8<-- "snippets/toy/b.py:check"')
    text += shows('--8<-- "snippets/toy/a.py:check"', "x = 1") + shows('--8<-- "genref/toy/line.py:check"')
    snippet = "# --8<-- [start:check]\nprint('printed')\n# --8<-- [end:check]\n"
    site, faults = collected(checkout, text, snippets__toy__a=snippet)
    assert faults == [
        "docs/a.md:10: snippets/toy/a.py has no section chek; did you mean check?",
        "docs/a.md:13: no file snippets/toy/b.py to show",
        "docs/a.md:13: snippets/toy/b.py is not a snippet that runs",
        "docs/a.md:16: a fence that shows a snippet holds `--8<--` lines of one snippet and nothing else",
        "docs/a.md:20: genref/toy/line.py has no section check",
        "docs/a.md:20: genref/toy/line.py is not a snippet that runs",
    ]
    assert site.snippets["snippets/toy/a.py"].expected == [("docs/a.md", 6, "printed\n")]


CLAIMS = '''r"""A module.

Claim: module-level
    It holds that $x$,
    and more.

    A second paragraph.
"""


class A:
    """A class."""

    async def method(self):
        """Does it.

        Claim: of-a-method
            It holds.

        Returns:
            Nothing.
        """
'''


def test_claims_are_read_from_docstrings_with_their_lines(checkout):
    found = scan.claims(checkout({"genref/toy/more.py": CLAIMS}))
    assert [(c.name, c.stem, c.path, c.line) for c in found] == [
        ("toy-line", "toy/line", "genref/toy/line.py", 23),
        ("module-level", "toy/more", "genref/toy/more.py", 3),
        ("of-a-method", "toy/more", "genref/toy/more.py", 17),
    ]
    assert found[1].statement == "It holds that $x$,\nand more.\n\nA second paragraph."


def test_faults_of_claims_are_named(checkout):
    module = 'def f():\n    """Does.\n\n    Claim: toy-line\n        Again.\n    """\n'
    site = programs.collect(checkout({"genref/toy/more.py": module}))
    assert sorted(str(fault) for fault in site.faults if "claim" in fault.message) == [
        "genref/toy/line.py:23: claim toy-line has no test module; write tests/toy/test_line.py",
        "genref/toy/line.py:23: claim toy-line is on no page; put [claim: toy-line] on docs/toy/line.md",
        "genref/toy/more.py:4: claim toy-line has no test module; write tests/toy/test_more.py",
        "genref/toy/more.py:4: claim toy-line is already stated at genref/toy/line.py:23",
        "genref/toy/more.py:4: claim toy-line is on no page; put [claim: toy-line] on docs/toy/more.md",
    ]
