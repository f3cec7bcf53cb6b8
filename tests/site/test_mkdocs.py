"""`mkdocs build` and `mkdocs serve` work by themselves, from the same sources and the same store."""

import gzip
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from fontTools.ttLib import TTFont

from genref._site.hooks import font, lean

ROOT = Path(__file__).resolve().parents[2]


def mkdocs(target, *words, settings=None, **environment):
    config = ["-f", str(settings)] if settings else []
    command = [sys.executable, "-m", "mkdocs", "build", "-d", str(target), *config, *words]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"} | environment
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)


@pytest.fixture
def settings():
    """A second mkdocs.yml in the checkout, for the time of a test."""
    place = ROOT / "mkdocs.test.yml"
    yield place
    place.unlink(missing_ok=True)


def epoch():
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "0"


def test_a_plain_strict_build_gives_the_same_pages(tmp_path):
    done = mkdocs(tmp_path / "site", "--strict", SOURCE_DATE_EPOCH=epoch())
    assert done.returncode == 0, done.stderr
    pages = [page for page in (ROOT / "site").rglob("*.html") if page.parent.name != "report"]
    assert len(pages) > 10
    for page in pages:
        assert page.read_text() == (tmp_path / "site" / page.relative_to(ROOT / "site")).read_text()


def test_without_the_notebook_plugin_the_tours_are_pages_all_the_same(tmp_path, settings):
    text = (ROOT / "mkdocs.yml").read_text()
    settings.write_text(re.sub(r"  - mkdocs-jupyter:\n(?:      .*\n)+", "", text))
    assert "mkdocs-jupyter" not in settings.read_text()
    done = mkdocs(tmp_path / "site", "--strict", settings=settings)
    assert done.returncode == 0, done.stderr
    for tour in (ROOT / "docs/tours").glob("*.py"):
        page = (tmp_path / f"site/tours/{tour.stem}/index.html").read_text()
        assert '<svg class="figure"' in page
        assert "<math" in page


def test_without_verdicts_the_claims_say_so_and_strict_fails(tmp_path):
    done = mkdocs(tmp_path / "site", "--strict", GENREF_STORE=str(tmp_path / "store"))
    assert done.returncode == 1
    assert "claim masks-causal was not checked in this build; run make site" in done.stderr
    assert "Aborted with" in done.stdout + done.stderr


def test_without_a_repository_no_source_edit_or_issue_link_is_drawn(tmp_path, settings):
    bare = (ROOT / "mkdocs.yml").read_text()
    assert not re.search(r"^repo_url:", bare, re.M)
    page = (ROOT / "site/masks/causal/index.html").read_text()
    assert "/blob/" not in page
    assert "md-source" not in page
    assert "/edit/" not in page
    address = "https://code.example/genref"
    settings.write_text(bare + f"\nrepo_url: {address}\n")
    done = mkdocs(tmp_path / "site", settings=settings)
    assert done.returncode == 0, done.stderr


def test_serve_shows_a_change_of_prose_within_three_seconds(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = ROOT / "docs/notation.md"
    before = page.read_text()
    command = [sys.executable, "-m", "mkdocs", "serve", "--dirty", "-a", f"127.0.0.1:{port}"]
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}/notation/"
    try:
        assert wait_for(address, "Notation", 60), (tmp_path / "log").read_text()
        for attempt in range(3):  # the quickest of three, for another process may hold the machine up
            page.write_text(f"{before}\nLine {attempt} written while the server runs.\n")
            if wait_for(address, f"Line {attempt} written while the server runs", 3.0):
                return
            assert wait_for(address, f"Line {attempt} written while the server runs", 30.0)
        pytest.fail("three changes of prose, and each took longer than three seconds")
    finally:
        page.write_text(before)
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        log.close()


def wait_for(address, words, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if words in urllib.request.urlopen(address, timeout=seconds).read().decode():
                return True
        except OSError:
            pass
        time.sleep(0.1)
    return False


def test_a_page_names_what_to_read_first_and_which_questions_it_answers():
    page = (ROOT / "site/flows/planar/index.html").read_text()
    assert 'Read first: <a href="../radial/">Radial flows</a>' in page
    assert re.search(r'Answers <a href="../../questions/">question</a> C3.2', page)
    sections = json.loads((ROOT / "site/search/search_index.json").read_text())["docs"]
    assert any("C3.2" in section["text"] for section in sections if section["location"] == "flows/planar/")


def test_the_index_of_the_search_is_cut_until_it_fits():
    chance = random.Random(3)
    texts = [" ".join(f"word{chance.randrange(10**6)}" for _ in range(900)) for _ in range(3)]
    places = ["p/", "p/#part", "p/#claim-some"]
    sections = [
        {"location": place, "title": "Some", "tags": ["t"], "text": f"<p>{text}</p>"}
        for place, text in zip(places, texts, strict=True)
    ]
    turns = {"location": "p/#wrong-turns", "title": "Wrong turns", "text": "on every page"}
    index = json.dumps({"docs": [*sections, turns]})
    whole, less = json.loads(lean(index, 10**6)), json.loads(lean(index, 3000))
    assert [section.get("tags") for section in whole["docs"]] == [["t"], None, None]
    assert [section.get("boost", 1) for section in whole["docs"]] == [1, 1, 100]
    opening, part, claim = [len(section["text"]) for section in whole["docs"]]
    assert 4980 < part < 5010
    assert (opening, claim) == (len(texts[0]), len(texts[2]))
    assert len(gzip.compress(json.dumps(less, ensure_ascii=False).encode())) < 3100
    opening, part, claim = [len(section["text"]) for section in less["docs"]]
    assert claim > 1.5 * opening > 6 * part
    for section, text in zip(less["docs"], texts, strict=True):
        assert section["text"] != text
        assert section["text"].endswith(" …")
        assert text.startswith(section["text"].removesuffix("…"))


def test_all_sizes_of_the_radical_are_equally_wide():
    made = TTFont(io.BytesIO(font("√n")))
    variants, name = made["MATH"].table.MathVariants, made.getBestCmap()[ord("√")]
    sizes = variants.VertGlyphConstruction[variants.VertGlyphCoverage.glyphs.index(name)]
    parts = [part.glyph for part in sizes.GlyphAssembly.PartRecords]
    names = {*parts, *(one.VariantGlyph for one in sizes.MathGlyphVariantRecord)}
    assert len(names) > 4
    assert {made["hmtx"][one][0] for one in names} == {made["hmtx"][name][0]}
    assert max(made["glyf"][one].xMax for one in names) < 1.1 * made["hmtx"][name][0]


def test_a_font_without_a_radical_is_cut_too():
    assert ord("n") in TTFont(io.BytesIO(font("n"))).getBestCmap()


def test_formulas_with_roots_have_the_radical_in_the_font():
    made = TTFont(ROOT / "site/assets/math.woff2")
    assert any("<msqrt" in page.read_text() for page in (ROOT / "site").rglob("index.html"))
    assert ord("√") in made.getBestCmap()
