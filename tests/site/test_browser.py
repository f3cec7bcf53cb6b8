"""The built site in a real browser: accessible, self-contained, light, and what it says it is.

The site under test is `site/` of this checkout, as `make site` left it.
"""

import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

SITE = Path(__file__).parents[2] / "site"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
FIRST_VIEW, WITH_SEARCH, REQUESTS, SHIFT, PAINT = 150_000, 250_000, 12, 0.05, 2.0
OBSERVE = """
    window.shift = window.paint = 0
    const see = (type, then) =>
        new PerformanceObserver(list => list.getEntries().forEach(then)).observe({ type, buffered: true })
    see("layout-shift", entry => entry.hadRecentInput || (window.shift += entry.value))
    see("largest-contentful-paint", entry => window.paint = entry.startTime)
"""
TYPES = {
    ".css": "text/css",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
}


def addresses() -> list[str]:
    """The path of every page of the sitemap, the home page first."""
    sitemap = SITE / "sitemap.xml"
    found = re.findall(r"<loc>(.*?)</loc>", sitemap.read_text()) if sitemap.is_file() else []
    return sorted((urlsplit(address).path for address in found), key=lambda path: (len(path), path)) or ["/"]


HOME, *_ = PAGES = addresses()


class Server(ThreadingHTTPServer):
    """Serves `site/` under the path of its address, compressed, and counts what it sends."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server_port}"
        self.sent: list[tuple[str, int]] = []
        self.packed: dict[Path, bytes] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        place = SITE / unquote(urlsplit(self.path).path).removeprefix(HOME)
        place = place / "index.html" if place.is_dir() else place
        found = place.is_file()
        place = place if found else SITE / "404.html"
        plain = place.suffix in (".woff2", ".png")
        if place not in self.server.packed:
            raw = place.read_bytes()
            self.server.packed[place] = raw if plain else gzip.compress(raw, 6)
        body = self.server.packed[place]
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", TYPES.get(place.suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(body)))
        if not plain:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)
        self.server.sent.append((self.path, len(body)))

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""


@dataclass
class Visit:
    """A page opened on a telephone with an empty cache: what it asked for, what it complained about, its numbers."""

    page: Page
    path: str
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)

    def look(self, size: dict[str, int], scheme: str) -> None:
        self.page.set_viewport_size(size)
        self.page.emulate_media(color_scheme=scheme)
        want = "slate" if scheme == "dark" else "default"
        self.page.wait_for_function(f"document.body.dataset.mdColorScheme == {want!r}")

    def unfold(self, wide: bool = True) -> None:
        self.page.evaluate("open => document.querySelectorAll('article details').forEach(e => e.open = open)", wide)

    def search(self, words: str) -> None:
        self.page.keyboard.press("/")
        self.page.get_by_role("textbox", name="Search").press_sequentially(words)

    def copied(self, block: Locator) -> str:
        """What the copy button of a block puts on the clipboard, by keyboard."""
        block.locator(".md-code__button[data-md-type=copy]").focus()
        self.page.evaluate("navigator.clipboard.writeText('')")
        self.page.keyboard.press("Enter")
        return self.page.evaluate("navigator.clipboard.readText()")


def axe(page: Page, where: str) -> list[str]:
    """What axe finds. Of words of code that look alike it sees one, and of a formula the first few signs as plain text.

    Nearly all of its time would go into the contrast of those.
    """
    options = {"runOnly": {"type": "tag", "values": RULES}, "resultTypes": ["violations"]}
    result = page.evaluate(
        """options => {
            const seen = new Set()
            for (const word of document.querySelectorAll("pre span")) {
                const look = word.className + " in " + word.closest("pre").parentElement.className
                if (seen.has(look)) word.replaceWith(...word.childNodes)
                seen.add(look)
            }
            const formulas = [...document.querySelectorAll("math")].map(formula => [formula, [...formula.childNodes]])
            for (const [formula] of formulas.slice(1)) formula.replaceChildren(formula.textContent.trim().slice(0, 9))
            return axe.run(document, options).finally(() => {
                for (const [formula, parts] of formulas) formula.replaceChildren(...parts)
            })
        }""",
        options,
    )
    return [
        f"{where}: {rule['id']}: {' '.join(map(str, node['target']))}: {node['failureSummary']}"
        for rule in result["violations"]
        for node in rule["nodes"]
    ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        missing = "no Chromium here: install the package chromium (or google-chrome)"
        pytest.fail(missing, pytrace=False) if os.environ.get("CI") == "true" else pytest.skip(missing)
    if not (SITE / "sitemap.xml").is_file():
        pytest.fail("no site/ to look at: run make site", pytrace=False)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def server(browser: Browser) -> Iterator[Server]:
    made = Server()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(scope="module")
def numbers(request: pytest.FixtureRequest) -> Iterator[dict[str, dict[str, float]]]:
    """What was measured, page by page; printed at the end, and kept for the next build's report."""
    measured: dict[str, dict[str, float]] = {}
    yield measured
    (SITE.parent / ".cache/browser.json").write_text(json.dumps(measured))
    plugin = request.config.pluginmanager.get_plugin
    names = ["bytes", "with search", "requests", "shift", "paint"]
    rows = [
        [path, *(f"{row[name]:,}" if name in row else "" for name in names)] for path, row in sorted(measured.items())
    ]
    widths = [max(map(len, column)) for column in zip(["page", *names], *rows, strict=True)]
    with plugin("capturemanager").global_and_fixture_disabled():
        plugin("terminalreporter").write_line("")
        for row in [["page", *names], *rows]:
            plugin("terminalreporter").write_line(
                "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            )


def opened(browser: Browser, server: Server, path: str) -> Visit:
    context = browser.new_context(viewport=PHONE, base_url=server.base, reduced_motion="reduce")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.add_init_script(OBSERVE)
    made = Visit(context.new_page(), path)
    made.page.on("request", lambda request: made.asked.append(request.url))
    made.page.on(
        "console", lambda message: made.said.append(message.text) if message.type in ("error", "warning") else None
    )
    made.page.on("pageerror", lambda error: made.said.append(str(error)))
    server.sent.clear()
    made.page.goto(path, wait_until="networkidle")
    sent = list(server.sent)
    search = sum(size for place, size in sent if "/search/" in place or "/workers/" in place)
    total = sum(size for _, size in sent)
    made.numbers = {"bytes": total - search, "with search": total, "requests": len(sent)}
    made.numbers["shift"] = round(made.page.evaluate("shift"), 3)
    return made


@pytest.fixture(scope="module", params=[*PAGES, HOME + "404.html"])
def visit(
    request: pytest.FixtureRequest, browser: Browser, server: Server, numbers: dict[str, dict[str, float]]
) -> Iterator[Visit]:
    """Each page in turn."""
    made = opened(browser, server, request.param)
    numbers.setdefault(request.param, {}).update(made.numbers)
    yield made
    made.page.context.close()


@pytest.fixture
def home(browser: Browser, server: Server) -> Iterator[Visit]:
    made = opened(browser, server, HOME)
    yield made
    made.page.context.close()


def test_axe_finds_nothing(visit: Visit) -> None:
    """In two sizes and two schemes, with everything that folds open in one of each."""
    found = []
    visit.page.evaluate(AXE_SCRIPT)
    for size, scheme, wide in (
        (PHONE, "light", True),
        (PHONE, "dark", False),
        (DESK, "light", False),
        (DESK, "dark", True),
    ):
        visit.look(size, scheme)
        visit.unfold(wide)
        found += axe(visit.page, f"{visit.path} at {size['width']} px, {scheme}")
    assert not found, "\n" + "\n".join(found)


def test_first_view_is_light(visit: Visit) -> None:
    assert visit.numbers["bytes"] <= FIRST_VIEW
    assert visit.numbers["with search"] <= WITH_SEARCH
    assert visit.numbers["requests"] <= REQUESTS


def test_nothing_leaves_the_machine_and_nothing_complains(visit: Visit, server: Server) -> None:
    assert not [url for url in visit.asked if not url.startswith((server.base, "data:", "blob:"))]
    assert not [text for text in visit.said if text.startswith(("error", "warning"))]


def test_the_page_does_not_scroll_sideways(visit: Visit) -> None:
    visit.look(PHONE, "light")
    visit.unfold()
    wide = visit.page.evaluate(
        """() => document.documentElement.scrollWidth > innerWidth ? [...document.querySelectorAll("article *")]
        .filter(e => e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML.slice(0, 99)) : []"""
    )
    assert not wide[:3]


def test_formulas_fit_a_desk_and_drawings_can_be_read_on_a_phone(visit: Visit) -> None:
    """Only a phone scrolls formulas; there a drawing keeps 0.6 of its size, and lists leave scrolling to paragraphs."""
    visit.look(DESK, "light")
    visit.unfold()
    found = """([which, wrong]) => [...document.querySelectorAll(which)].filter(new Function("e", "return " + wrong))
        .map(e => e.textContent.trim().slice(0, 99))"""
    assert not visit.page.evaluate(found, ["article .formula", "e.scrollWidth > e.clientWidth"])
    visit.look(PHONE, "light")
    assert not visit.page.evaluate(found, ["svg.figure", "e.clientWidth < 0.59 * e.getAttribute('width')"])
    lists = "article :is(ul, ol):has(p, .formula, ul, ol)"
    assert not visit.page.evaluate(found, [lists, "e.scrollWidth > e.clientWidth"])


def test_layout_does_not_shift(visit: Visit) -> None:
    assert visit.numbers["shift"] <= SHIFT


def test_formulas_are_set(visit: Visit) -> None:
    visit.unfold()
    empty, raw = visit.page.evaluate(
        """() => {
            const empty = [], raw = [], tex = /\\$[^\\s$][^$]*\\$|\\\\[a-zA-Z]{2,}|\\\\[()\\[\\]]/
            for (const formula of document.querySelectorAll("math")) {
                const box = formula.getBoundingClientRect()
                if (!(box.width && box.height)) empty.push(formula.textContent)
            }
            const walker = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT)
            for (let node; node = walker.nextNode();)
                if (!node.parentElement.closest("code, pre, math, svg, script, style") && tex.test(node.data))
                    raw.push(node.data.slice(0, 80))
            return [empty, raw]
        }"""
    )
    assert not empty
    assert not raw


def test_formulas_use_the_font_of_the_site(visit: Visit) -> None:
    """Each sign once a page: which font draws it depends on nothing else."""
    visit.unfold()
    visit.page.evaluate(
        """() => {
            const seen = new Set()
            for (const one of document.querySelectorAll("math :is(mi, mn, mo, mtext)")) {
                const sign = one.tagName + one.textContent
                one.toggleAttribute("data-first", !seen.has(sign))
                seen.add(sign)
            }
        }"""
    )
    session = visit.page.context.new_cdp_session(visit.page)
    for domain in ("DOM", "CSS"):
        session.send(f"{domain}.enable")
    root = session.send("DOM.getDocument", {"depth": 0})["root"]["nodeId"]
    query = {"nodeId": root, "selector": "math [data-first]"}
    foreign = set()
    for node in session.send("DOM.querySelectorAll", query)["nodeIds"]:
        for used in session.send("CSS.getPlatformFontsForNode", {"nodeId": node})["fonts"]:
            if used["familyName"] != "STIX Two Math":
                foreign.add((used["familyName"], session.send("DOM.getOuterHTML", {"nodeId": node})["outerHTML"]))
    session.detach()
    assert not foreign


def test_pictures_are_described(visit: Visit) -> None:
    bare = visit.page.evaluate(
        """() => [...document.querySelectorAll("img, article svg")].filter(e => e.tagName == "IMG" ? !e.alt
        : e.role != "img" || !(e.ariaLabel?.length >= 40)).map(e => e.outerHTML.slice(0, 120))"""
    )
    assert not bare


def test_copy_buttons_copy_what_is_shown(visit: Visit) -> None:
    visit.look(DESK, "light")
    visit.unfold()
    for block in visit.page.locator("article .language-python.highlight:not(.doc-signature, .no-copy)").all():
        shown = block.locator("code").evaluate("code => code.textContent")
        assert visit.copied(block).strip() == shown.strip()


def test_a_copied_program_runs_and_prints_what_is_shown(home: Visit, tmp_path: Path) -> None:
    block = home.page.locator("article .language-python.highlight:has(+ .output)").first
    program = tmp_path / "copied.py"
    program.write_text(home.copied(block))
    ran = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.stderr == ""
    assert ran.stdout == block.locator("+ .output code").text_content()


def first_claims() -> list[tuple[str, str]]:
    """One claim of each stem: its page, and five words of its statement that few claims and no title of a page have."""
    if not (SITE / "claims.json").is_file():
        return [("", "")]
    listed = json.loads((SITE / "claims.json").read_text())
    sections = json.loads((SITE / "search/search_index.json").read_text())["docs"]
    titles = " ".join(section["title"] for section in sections if "#" not in section["location"]).lower()
    formula = re.compile(r"\$\$.*?\$\$|\$.*?\$|`.*?`", re.S)
    said = [list(dict.fromkeys(re.findall(r"\b[a-z]{4,}\b", formula.sub(" ", claim["statement"])))) for claim in listed]
    shared = Counter(word for words in said for word in words)
    found: dict[str, str] = {}
    for claim, words in zip(listed, said, strict=True):
        telling = sorted((word for word in words if word not in titles), key=shared.__getitem__)
        found.setdefault(claim["stem"], " ".join(telling[:5]))
    return list(found.items())


READERS = [
    ("adversarial/bilinear", "minimax"),
    ("adversarial/dirac", "gradient penalty"),
    ("adversarial/discriminator", "unbalanced classes"),
]
"""What readers typed whose word for a thing is in no claim: the opening of the page has it."""


@pytest.mark.parametrize(("stem", "words"), [*first_claims(), *READERS])
def test_search_finds_a_claim_by_its_words(home: Visit, stem: str, words: str) -> None:
    home.look(DESK, "light")
    home.search(words)
    home.page.locator(f".md-search-result__link[href*='/{stem}/']").first.wait_for(timeout=10_000)


def test_axe_finds_nothing_in_the_open_search_and_the_open_drawer(home: Visit) -> None:
    home.page.evaluate(AXE_SCRIPT)
    found = []
    for scheme in ("light", "dark"):
        home.look(DESK, scheme)
        home.search("claim")
        home.page.locator(".md-search-result__link").first.wait_for(timeout=10_000)
        found += axe(home.page, f"the open search, {scheme}")
        home.page.keyboard.press("Escape")
        home.look(PHONE, scheme)
        home.page.locator("header [for=__drawer]").click()
        found += axe(home.page, f"the open drawer, {scheme}")
        home.page.locator(".md-overlay").click(position={"x": 350, "y": 400})
    assert not found, "\n" + "\n".join(found)


def test_the_scheme_is_chosen_by_keyboard(home: Visit) -> None:
    scheme = "document.body.dataset.mdColorScheme"
    home.look(DESK, "dark")
    assert home.page.evaluate(scheme) == "slate", "that of the system, at first"
    for _ in range(12):
        home.page.keyboard.press("Tab")
        if home.page.evaluate("document.activeElement.name") == "__palette":
            break
    seen = []
    for _ in range(4):
        home.page.keyboard.press("ArrowRight")
        seen.append(home.page.evaluate(scheme))
    home.page.reload()
    assert seen == ["default", "slate", "slate", "default"]
    assert home.page.evaluate(scheme) == "default", "the choice is remembered"


def contrast(one: str, other: str) -> float:
    """The contrast of two colours `#rrggbb`, as WCAG defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize(("scheme", "media"), [("light", "screen"), ("dark", "screen"), ("dark", "print")])
def test_series_stand_out_from_their_ground(home: Visit, scheme: str, media: str) -> None:
    home.look(DESK, scheme)
    home.page.emulate_media(media=media)
    names = ["--md-default-bg-color", "--md-default-fg-color", *(f"--g-c{k}" for k in range(6))]
    read = "names => names.map(name => getComputedStyle(document.body).getPropertyValue(name).trim())"
    ground, *inks = ("#ffffff" if colour == "#fff" else colour for colour in home.page.evaluate(read, names))
    home.page.emulate_media(media="screen")
    assert luminance(ground) < 0.05 if (scheme, media) == ("dark", "screen") else luminance(ground) == 1
    assert len(set(inks)) == len(inks)
    assert not {ink: round(contrast(ink, ground), 2) for ink in inks if contrast(ink, ground) < 3}


def heaviest() -> str:
    """The page with most HTML."""
    files = {path: SITE / path.removeprefix(HOME) / "index.html" for path in PAGES}
    return max(PAGES, key=lambda path: files[path].stat().st_size if files[path].is_file() else 0)


@pytest.mark.parametrize("path", dict.fromkeys([HOME, heaviest()]))
def test_the_page_is_painted_soon(
    path: str, browser: Browser, server: Server, numbers: dict[str, dict[str, float]]
) -> None:
    """The largest paint under slow 4G and a processor slowed four times: median of five, cold cache."""
    slow = {"offline": False, "latency": 150, "downloadThroughput": 1.6e6 / 8, "uploadThroughput": 750e3 / 8}
    paints, shifts = [], []
    for _ in range(5):
        fresh = browser.new_context(viewport=PHONE, base_url=server.base)
        page = fresh.new_page()
        session = fresh.new_cdp_session(page)
        session.send("Network.enable")
        session.send("Network.emulateNetworkConditions", slow)
        session.send("Emulation.setCPUThrottlingRate", {"rate": 4})
        page.add_init_script(OBSERVE)
        page.goto(path, wait_until="networkidle")
        page.wait_for_function("paint > 0")
        paints.append(page.evaluate("paint") / 1000)
        shifts.append(page.evaluate("shift"))
        fresh.close()
    numbers.setdefault(path, {})["paint"] = round(median(paints), 2)
    assert median(paints) <= PAINT
    assert max(shifts) <= SHIFT


@pytest.mark.parametrize("ratio", [1.5, 2.0])
def test_no_hairline_stands_beside_a_formula_on_fine_screens(ratio: float, browser: Browser, server: Server) -> None:
    """The shade that says "there is more" is covered to the last pixel where there is no more."""
    context = browser.new_context(
        viewport=PHONE | {"height": 3000}, base_url=server.base, color_scheme="light", device_scale_factor=ratio
    )
    page = context.new_page()
    page.goto(f"{HOME}masks/causal/", wait_until="networkidle")
    boxes = page.evaluate(
        """() => [...document.querySelectorAll("article :is(p, ul, ol):has(math), article .formula")]
        .filter(node => node.scrollWidth <= node.clientWidth).map(node => node.getBoundingClientRect())
        .filter(box => box.height > 20 && box.bottom < 2990).map(box => [box.left, box.top, box.right, box.bottom])"""
    )
    shot = Image.open(io.BytesIO(page.screenshot())).convert("L")
    context.close()
    assert boxes
    for left, top, right, bottom in boxes:
        rows = range(int(top * ratio) + 3, int(bottom * ratio) - 3)
        for x in (int(side * ratio) + step for side in (left, right) for step in range(-3, 4)):
            inked = sum(shot.getpixel((x, y)) < 253 for y in rows)
            assert inked <= 0.85 * len(rows), f"a line at x = {x} from y = {rows[0]} to {rows[-1]}"
