"""Reads the built site as a browser would: links, anchors, alt texts, other hosts, raw formulas, bytes and requests."""

import gzip
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from genref._site.scan import Fault

PAGE_BUDGET, SEARCH_BUDGET, REQUESTS = 150_000, 250_000, 12
INDEX_BUDGET = SEARCH_BUDGET - PAGE_BUDGET - 15_000  # the rest is for the worker that searches it
RAW_TEX = re.compile(
    r"\$[^\s$][^$\n]{0,80}(?<!\s)\$(?!\w)|\\(?:frac|sum|int|mathbb|mathrm|left|begin|alpha|beta|rho|le|in)\b"
)
INNARDS = re.compile(r"(<(svg|math|code)\b[^>]*>).*?(</\2>)", re.S)
"""Of a drawing, a formula or code only its tag is read: the rest is thousands of paths and tokens."""
LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "audio": "src",
    "video": "src",
    "source": "src",
    "object": "data",
}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@dataclass
class Read(HTMLParser):
    """What one page holds."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    prose: list[str] = field(default_factory=list)
    quiet: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.ids |= {found[key] for key in ("id", "name") if key == "id" or tag == "a" if found.get(key)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and set(found.get("rel", "").split()) & {"stylesheet", "preload", "icon", "modulepreload"}:
            self.resources.append(found.get("href", ""))
        elif tag in LOADS and found.get(LOADS[tag]):
            self.resources.append(found[LOADS[tag]])
        if tag == "img" and "alt" not in found:
            place = found.get("src", "")
            self.problems.append((f"image {place} without alt text; write ![what is to be seen]({place})", place))
        if tag == "svg" and found.get("class") == "figure" and len(found.get("aria-label", "")) < 40:
            self.problems.append(("figure without alt text; say in the docstring of `figure` what is to be seen", ""))
        if tag in ("code", "pre", "script", "style", "math", "svg") and tag not in VOID:
            self.quiet.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.quiet:
            while self.quiet.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not self.quiet:
            self.prose.append(data)


def read(path: Path) -> Read:
    page = Read()
    page.feed(INNARDS.sub(r"\1\3", path.read_text()))
    return page


def source(site: Path, page: Path) -> str:
    """The Markdown that a page was made from."""
    place = page.relative_to(site).as_posix().removesuffix("index.html").rstrip("/")
    return f"docs/{place}.md" if place else "docs/index.md"


def audit(root: Path, site: Path) -> tuple[list[dict[str, object]], list[Fault]]:
    """The weight of every page, and the faults of the site as built."""
    pages = {page: read(page) for page in sorted(site.rglob("*.html"))}
    settings = (root / "mkdocs.yml").read_text()
    weights, faults, sizes = list[dict[str, object]](), list[Fault](), dict[Path, int]()

    def wire(path: Path) -> int:
        if path not in sizes:
            raw = path.read_bytes()
            sizes[path] = len(raw) if path.suffix in (".woff2", ".png") else len(gzip.compress(raw, 6, mtime=0))
        return sizes[path]

    for page, seen in pages.items():
        place = source(site, page)
        if not (root / place).is_file():
            named = root / place.removesuffix(".md") / "index.md"
            place = (
                named.relative_to(root).as_posix() if named.is_file() else f"site/{page.relative_to(site).as_posix()}"
            )
        text = (root / place).read_text() if (root / place).is_file() else ""

        def fail(message: str, needle: str = "", place: str = place, text: str = text) -> None:
            line = text.count("\n", 0, text.find(needle)) + 1 if needle and needle in text else 1
            faults.append(Fault(place, line, message))

        for message, needle in seen.problems:
            fail(message, needle)
        for found in RAW_TEX.finditer(" ".join(seen.prose)):
            fail(f"formula left raw: {found[0]!r}; write it as $...$ that math-core reads", found[0][:12])
        if page.name != "404.html":
            for link in dict.fromkeys(seen.links):
                if problem := dead(site, page, link, pages):
                    url = urlsplit(link)
                    needle = f"#{url.fragment}" if url.fragment else posixpath.basename(url.path.rstrip("/"))
                    if needle in text:
                        fail(problem, needle)
                    else:  # the page does not say it, so the navigation does
                        name = posixpath.relpath(target(site, page, link), site)
                        fail(f"dead link to {name}; write that page, or take it out", name, "mkdocs.yml", settings)
        files = set[Path]()
        for resource in dict.fromkeys(seen.resources):
            if urlsplit(resource).netloc:
                fail(f"asks another host for {resource}; put the file into docs/assets")
            elif not resource.startswith("data:"):
                file = target(site, page, resource)
                files.add(file)
                if not file.is_file():
                    fail(f"asks for {resource}, which is not there", resource)
        for sheet in [file for file in files if file.suffix == ".css" and file.is_file()]:
            for asked in css_urls(sheet):
                if urlsplit(asked).netloc:
                    fail(f"{sheet.name} asks another host for {asked}; put the file into docs/assets")
        total = wire(page) + sum(wire(file) for file in files if file.is_file())
        count = 1 + len(files)
        weights.append(
            {
                "path": page.relative_to(site).as_posix(),
                "html_bytes": page.stat().st_size,
                "wire_bytes": total,
                "requests": count,
            }
        )
        if total > PAGE_BUDGET or count > REQUESTS:
            fail(
                f"first view of {total:,} bytes in {count} requests, over {PAGE_BUDGET:,} in {REQUESTS}: split the page"
            )
        search = [*site.glob("search/search_index.json"), *site.glob("assets/javascripts/workers/search.*.js")]
        if (whole := total + sum(map(wire, search))) > SEARCH_BUDGET:
            fail(f"with search {whole:,} bytes; the budget is {SEARCH_BUDGET:,}: split the page")
    return weights, faults


def target(site: Path, page: Path, link: str) -> Path:
    """The file that a link of a page leads to."""
    path = unquote(urlsplit(link).path)
    place = site / path.lstrip("/") if path.startswith("/") else page.parent / path
    place = Path(posixpath.normpath(place))
    return place / "index.html" if place.is_dir() else place


def dead(site: Path, page: Path, link: str, pages: dict[Path, Read]) -> str:
    """What is wrong with a link within the site."""
    url = urlsplit(link)
    if url.scheme or url.netloc or not (url.path or url.fragment):
        return ""
    place = page if not url.path else target(site, page, link)
    if not place.is_file():
        return f"dead link {link}; name a page that exists"
    if url.fragment and place in pages and unquote(url.fragment) not in pages[place].ids:
        return f"dead anchor {link}: {place.relative_to(site).as_posix()} has no #{url.fragment}; name one that it has"
    return ""


def css_urls(sheet: Path) -> Iterator[str]:
    for match in re.finditer(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)", sheet.read_text()):
        yield match[1] or match[2]
