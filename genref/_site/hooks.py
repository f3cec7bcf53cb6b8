"""What MkDocs alone does, beside the Markdown extension: tours through mkdocs-jupyter, and the font of the formulas."""

import gzip
import io
import json
import re
import shutil
from html import escape
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unicodedata import normalize

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import CombinedEvent, event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from genref._site import extension, scan
from genref._site.audit import INDEX_BUDGET
from genref._site.runner import Outcome
from genref._site.store import Store, digest

FONT = "assets/math.woff2"
UNSEARCHED = re.compile(
    r'<(svg|details|div) class="(?:figure|evidence|claim-line\b[^"]*)".*?</\1>'
    r"|<pre\b.*?</pre>|</?(?:span|m\w+)\b[^>]*>",
    re.S,
)
FORMULA = re.compile(r"<math\b.*?</math>", re.S)
CLAIM = re.compile(r'(<div class="claim\b[^"]*" )(id="claim-([\w-]+)")>\s*<p>.*?</p>', re.S)
ON_ALL_PAGES = {"check", "derivation", "going further", "reference", "sources", "where it stops", "wrong turns"}
"""Titles that lead to every page, and so to none: the search leaves these sections out, and keeps those below them."""
SEARCHED = [5000, 2000, 1000, 700, 500, 400, 300, 240, 190, 170, 150, 130, 120, 110, 100, 90, 80, 70, 60, 50, 40, 20, 0]
"""How many characters of a section the search may hold, the first that fits: `SHARE` as many of claims and openings."""
SHARE = {"claim": 10, "opening": 5, "section": 1}
CLAIM_BOOST = 100
"""The weight of a claim. A word of a title counts a thousand times as much as one of a text, and claims are texts."""
ITALIC = [0x210E, *range(0x1D434, 0x1D468), 0x1D6A4, 0x1D6A5, *range(0x1D6E2, 0x1D71C)]
SLANTED = {letter for code in ITALIC if (letter := normalize("NFKC", chr(code))).isalpha()}
"""A browser draws an `<mi>` of one of these letters as the italic one."""
NOTEBOOK = [
    (r"<(style|script)\b.*?</\1>|<!--.*?-->", ""),
    (
        r'<div class="zeroclipboard-container">.*?</clipboard-copy>\s*</div>|<div class="clipboard-copy-txt".*?</div>',
        "",
    ),
    (r'<div class="jp-(?:InputPrompt|OutputPrompt|Collapser)[^>]*>[^<]*</div>', ""),
    (r'(<div class="jp-[^>]*) tabindex="0"', r"\1"),
    (r'<a class="anchor-link" (href="[^"]*")>', r'<a class="headerlink" \1 title="Link to this section">'),
    (
        r'<div class="highlight-ipynb hl-python"><pre>(.*?)</pre></div>',
        r'<div class="language-python highlight"><pre><code>\1</code></pre></div>',
    ),
    (
        r'<div class="jp-RenderedText jp-OutputArea-output"[^>]*>\s*<pre>(.*?)</pre>\s*</div>',
        r'<div class="language-text output no-copy highlight"><span class="filename">Output</span>'
        r"<pre><code>\1</code></pre></div>",
    ),
]
"""A notebook's own sheets, scripts and prompts go; its cells look like the fences of all other pages."""


def notebook(tour: Outcome) -> dict[str, Any]:
    """The executed notebook of a tour, with its formulas as MathML and its figures as they stand on every page."""
    cells = list[dict[str, Any]]()
    for cell in tour.cells:
        source = cell["source"].rstrip("\n")
        if cell["kind"] == "markdown":
            source = scan.MATH.sub(_formula, source)
            cells.append({"cell_type": "markdown", "metadata": {}, "source": source})
            continue
        outputs = list[dict[str, Any]]()
        for shown in cell["outputs"]:
            if "svg" in shown:
                data = {"text/html": f"<figure>{shown['svg']}</figure>"}
                outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
            else:
                outputs.append({"output_type": "stream", "name": "stdout", "text": shown["text"]})
        cells.append(
            {"cell_type": "code", "metadata": {}, "execution_count": None, "source": source, "outputs": outputs}
        )
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    tools = {name: version(name) for name in ("mkdocs-jupyter", "nbconvert")}  # their cache goes by the notebook alone
    return {"nbformat": 4, "nbformat_minor": 4, "metadata": {"kernelspec": kernel, "tools": tools}, "cells": cells}


def _formula(match: re.Match[str]) -> str:
    if match["skip"]:
        return match["skip"]
    try:
        return scan.mathml(match["display"] or match["inline"], bool(match["display"]))
    except ValueError as error:
        return f'<code class="fault">{escape(str(error))}</code>'


def on_config(config: MkDocsConfig) -> None:
    """Keeps the rendered notebooks in the store: other builds empty the plugin's own folder."""
    if plugin := config.plugins.get("mkdocs-jupyter"):
        plugin.config["cache_dir"] = str(Store(Path(config.config_file_path).parent).folder / "notebooks")


@event_priority(-100)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Puts the executed notebook of each tour in the place of its page."""
    if "mkdocs-jupyter" not in config.plugins:
        return files
    now = extension.context()
    folder = Store(now.root).folder / "tours"
    folder.mkdir(exist_ok=True)
    for (kind, path), tour in now.by_path.items():
        page = files.get_file_from_path(f"tours/{Path(path).stem}.md")
        if kind != "tour" or tour.faults or page is None:
            continue
        target = folder / f"{Path(path).stem}.ipynb"
        text = json.dumps(notebook(tour), indent=1)
        if not target.is_file() or target.read_text() != text:
            target.write_text(text)
        files.remove(page)
        files.append(File.generated(config, page.src_uri, abs_src_path=str(target)))
    return files


@event_priority(-100)
def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Makes the page of a tour look like the others; assets/genref.css styles both."""
    if page.file.abs_src_path and page.file.abs_src_path.endswith(".ipynb"):
        for pattern, instead in NOTEBOOK:
            html = re.sub(pattern, instead, html, flags=re.S)
    return html


@event_priority(100)
def _before_search(context: dict[str, Any], /, page: Page, **_: Any) -> dict[str, Any]:
    """Shows the search the words of a page, each claim as a section of its own, and no drawings, code or evidence."""
    context["titles"] = {one.file.src_uri.removesuffix(".md"): one.title for one in context["nav"].pages}
    page.meta["whole"] = page.content
    answers = f"</h1><p>{' '.join(page.meta['answers'])}.</p>" if page.meta.get("answers") else "</h1>"
    shown = UNSEARCHED.sub("", FORMULA.sub(_short, page.content or "")).replace("</h1>", answers, 1)
    page.content = CLAIM.sub(r"\1><h2 \2>\3</h2>", shown)
    return context


def _short(formula: re.Match[str]) -> str:
    """A formula for the index of the search, where words count: its signs if they are few."""
    signs = re.sub(r"<[^>]*>|\s", "", formula[0])
    return signs if len(signs) <= 6 else "…"


@event_priority(-100)
def _after_search(context: dict[str, Any], /, page: Page, **_: Any) -> dict[str, Any]:
    page.content = page.meta.pop("whole")
    return context


on_page_context = CombinedEvent(_before_search, _after_search)


@event_priority(-100)
def on_post_build(config: MkDocsConfig) -> None:
    """Cuts what every page loads to what the site needs: the index of the search, the font of the formulas."""
    index = Path(config.site_dir) / "search/search_index.json"
    if index.is_file():
        index.write_text(lean(index.read_text()))
    cut_font(config)


def lean(index: str, budget: int = INDEX_BUDGET) -> str:
    """The index of the search as plain text, each section cut to the first length at which all fits the budget."""
    whole = json.loads(index)
    whole["docs"] = [section for section in whole["docs"] if section["title"].lower() not in ON_ALL_PAGES]
    texts = [" ".join(re.sub(r"<[^>]*>", " ", section["text"]).split()) for section in whole["docs"]]
    shares = []
    for section in whole["docs"]:
        _, inside, anchor = section["location"].partition("#")
        shares.append(SHARE["claim" if anchor.startswith("claim-") else "section" if inside else "opening"])
        if inside:
            section.pop("tags", None)  # they are those of the page
        if anchor.startswith("claim-"):
            section["boost"] = CLAIM_BOOST
    for length in SEARCHED:
        for section, text, share in zip(whole["docs"], texts, shares, strict=True):
            end = share * length
            section["text"] = text if len(text) <= end else text[:end].rpartition(" ")[0] + " …"
        index = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
        if len(gzip.compress(index.encode(), 6, mtime=0)) <= budget:
            break
    return index


def cut_font(config: MkDocsConfig) -> None:
    """Cuts the font of the formulas to the characters that the site's formulas use."""
    site = Path(config.site_dir)
    used, letters = set[str](), set[str]()
    for file in site.rglob("*.html"):
        for formula in re.findall(r"<math.*?</math>", file.read_text(), re.S):
            letters |= {normalize("NFKC", letter) for letter in re.findall(r"<mi>(.)</mi>", formula)}
            formula = re.sub("<mi>(.)</mi>", lambda one: "" if one[1] in SLANTED else one[1], formula)
            used |= set(re.sub(r"<[^>]*>", "", formula).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
            used |= {"√"} if "<msqrt" in formula or "<mroot" in formula else set()
    used |= {chr(code) for code in ITALIC if normalize("NFKC", chr(code)) in letters}
    characters = "".join(sorted(used))
    folder = Store(Path(config.config_file_path).parent).folder / "fonts"
    folder.mkdir(exist_ok=True)
    made = folder / f"{digest(characters + version('fonttools') + version('ziamath'))}.woff2"
    if not made.is_file():
        made.with_suffix(".new").write_bytes(font(characters))
        made.with_suffix(".new").replace(made)
    target = site / FONT
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made, target)


def font(characters: str) -> bytes:
    """A WOFF2 subset of STIX Two Math, under the OFL, with the tables that set formulas."""
    from fontTools import subset
    from fontTools.ttLib import TTFont

    (package,) = find_spec("ziamath").submodule_search_locations  # type: ignore[union-attr, misc]
    source = Path(package) / "fonts/STIXTwoMath-Regular.ttf"
    options = subset.Options(flavor="woff2", layout_features=[], hinting=False, notdef_outline=True)
    with TTFont(io.BytesIO(source.read_bytes()), recalcTimestamp=False) as made:
        cut = subset.Subsetter(options)
        cut.populate(text=characters)
        cut.subset(made)
        even_radicals(made)
        out = io.BytesIO()
        made.flavor = "woff2"
        made.save(out)
    return out.getvalue()


def even_radicals(font: Any) -> None:
    """Makes radicals of all sizes equally wide: to the right of a root Chromium leaves room for the widest.

    The bar of an inline root gets the distance that it has in a display.
    """
    math, radical = font["MATH"].table, font.getBestCmap().get(ord("√"))
    if radical is None:
        return
    math.MathConstants.RadicalVerticalGap.Value = math.MathConstants.RadicalDisplayStyleVerticalGap.Value
    made = math.MathVariants.VertGlyphConstruction[math.MathVariants.VertGlyphCoverage.glyphs.index(radical)]
    names = [one.VariantGlyph for one in made.MathGlyphVariantRecord]
    width, _ = font["hmtx"][radical]
    for name in dict.fromkeys([*names, *(part.glyph for part in made.GlyphAssembly.PartRecords)]):
        outline = font["glyf"][name]
        outline.coordinates.scale((width / font["hmtx"][name][0], 1))
        outline.coordinates.toInt()
        outline.recalcBounds(font["glyf"])
        font["hmtx"][name] = (width, outline.xMin)
