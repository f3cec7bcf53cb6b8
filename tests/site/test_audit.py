"""The audit of a built site: each kind of fault is found and given the line of the source that says it."""

from random import Random

import pytest

from genref._site.audit import audit

HEAD = '<link rel="stylesheet" href="/style.css"><h1 id="top">One</h1>'


@pytest.fixture
def audited(tmp_path):
    """Audits a site of two pages, the first with a body of its own; returns its weights and its faults."""

    def run(body, source="", **files):
        texts = {"docs/index.md": source, "docs/two/index.md": "", "mkdocs.yml": "site_name: x\nnav: [gone.md]\n"}
        texts |= {"site/index.html": HEAD + body, "site/two/index.html": HEAD + '<a name="named"></a>'}
        texts |= {"site/style.css": "", "site/404.html": '<a href="/nowhere">', "site/picture.svg": "<svg/>"}
        for place, text in (texts | files).items():
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place).write_text(text)
        weights, faults = audit(tmp_path, tmp_path / "site")
        return weights, [str(fault) for fault in faults]

    return run


SOUND = """
<a href="two/">two</a> <a href="two/index.html#top">two</a> <a href="/two/#named">two</a> <a href="#top">up</a>
<a href="https://example.org">out</a> <a href="">here</a> <img src="picture.svg" alt=""> <img src="data:x" alt="x">
<pre><code>$x$ \\frac</code></pre> <math><mi>\\alpha</mi></math> <script>"$x$"</script> <style>a { --x: "$x$" }</style>
<svg class="figure" aria-label="A line that climbs from the lower left to the upper right."><a href="nowhere"/></svg>
<p>It cost $3, and then $4; <code>$x$</code>.</p>
"""


def test_a_sound_site_has_no_fault_and_its_weight_is_taken(audited):
    weights, faults = audited(SOUND)
    assert faults == []
    assert [(page["path"], page["requests"]) for page in weights] == [
        ("404.html", 1),
        ("index.html", 3),
        ("two/index.html", 2),
    ]
    assert all(page["wire_bytes"] > 0 for page in weights)
    assert weights[1]["html_bytes"] == len((HEAD + SOUND).encode())


@pytest.mark.parametrize(
    ("body", "source", "fault"),
    [
        ('<a href="three/">', "x\n[three](three/)", "docs/index.md:2: dead link three/; name a page that exists"),
        (
            '<a href="two/#none">',
            "x\n\n[two](two/#none)",
            "docs/index.md:3: dead anchor two/#none: two/index.html has no #none; name one that it has",
        ),
        (
            '<a href="#none">',
            "[here](#none)",
            "docs/index.md:1: dead anchor #none: index.html has no #none; name one that it has",
        ),
        ('<a href="gone.md">', "", "mkdocs.yml:2: dead link to gone.md; write that page, or take it out"),
        (
            '<img src="picture.svg">',
            "x\n![](picture.svg)",
            "docs/index.md:2: image picture.svg without alt text; write ![what is to be seen](picture.svg)",
        ),
        (
            '<svg class="figure" aria-label="Short."></svg>',
            "",
            "docs/index.md:1: figure without alt text; say in the docstring of `figure` what is to be seen",
        ),
        (
            "<p>Take $x^2$ here.</p>",
            "x\nTake $x^2$ here.",
            "docs/index.md:2: formula left raw: '$x^2$'; write it as $...$ that math-core reads",
        ),
        (
            "<p>\\frac 1 2</p>",
            "\\frac 1 2",
            "docs/index.md:1: formula left raw: '\\\\frac'; write it as $...$ that math-core reads",
        ),
        (
            '<script src="https://cdn.example/x.js"></script>',
            "",
            "docs/index.md:1: asks another host for https://cdn.example/x.js; put the file into docs/assets",
        ),
        (
            '<img src="none.png" alt="x">',
            "x\n![x](none.png)",
            "docs/index.md:2: asks for none.png, which is not there",
        ),
    ],
)
def test_each_fault_is_named_with_its_line(audited, body, source, fault):
    assert audited(body, source)[1] == [fault]


def test_a_sheet_that_asks_another_host_is_named(audited):
    sheet = "@import 'https://fonts.example/a.css'; a { background: url(\"picture.svg\") url(//b.example/c.png) }"
    _, faults = audited("", **{"site/style.css": sheet})
    assert faults == [
        f"docs/{page}: style.css asks another host for {place}; put the file into docs/assets"
        for page in ("index.md:1", "two/index.md:1")
        for place in ("https://fonts.example/a.css", "//b.example/c.png")
    ]


def test_pages_over_their_budget_are_named(audited):
    noise = Random(1).randbytes(160_000).hex()
    _, faults = audited(f"<p>{noise}</p>")
    assert [fault.split(" bytes")[0].rstrip("0123456789,") for fault in faults] == ["docs/index.md:1: first view of "]
    assert faults[0].endswith("in 2 requests, over 150,000 in 12: split the page")
    _, faults = audited("".join(f'<img src="picture.svg?{k}" alt=""><img src="p{k}.svg" alt="">' for k in range(12)))
    assert any(fault.endswith("bytes in 15 requests, over 150,000 in 12: split the page") for fault in faults)
    _, faults = audited("", **{"site/search/search_index.json": Random(2).randbytes(250_000).hex()})
    assert len(faults) == 3
    assert all(fault.endswith("; the budget is 250,000: split the page") for fault in faults)
