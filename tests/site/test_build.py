"""The build front, on a small checkout: what it writes, what it runs again, and its other commands."""

import json
import re
import shutil
import sys

import pytest

from genref._site import build as front
from genref._site import runner
from genref._site.store import Store

TICKS = "`" * 3
SUMMARY = (
    r"(\d+) programs \((\d+) run, (\d+) cached\) · 1 claims hold, 1 mutants rejected · 7 pages · 0 warnings"
    r" · \d+ s · site/index.html"
)


def test_a_good_build_ends_with_its_summary_and_writes_its_report(good):
    assert re.fullmatch(SUMMARY, (good / "said.txt").read_text().splitlines()[-1]).groups() == ("8", "7", "0")
    made = good.report()
    count = made["programs"]
    assert count == {"total": 8, "run": 7, "cached": 0, "excused": 1, "failed": 0}
    assert made["claims"] == {
        "stated": 1,
        "held": 1,
        "failed": 0,
        "run": 1,
        "cached": 0,
        "mutants": 1,
        "mutants_rejected": 1,
    }
    assert [page["path"] for page in made["pages"]] == [
        "404.html",
        *(f"{name}index.html" for name in ("claims/", "", "questions/", "report/", "tours/walk/", "toy/line/")),
    ]
    for page in made["pages"]:
        assert set(page) == {"path", "html_bytes", "wire_bytes", "requests"}
        assert (
            page["html_bytes"] == (good / "site" / page["path"]).stat().st_size or page["path"] == "report/index.html"
        )
        assert 0 < page["wire_bytes"] < 150_000
        assert 0 < page["requests"] <= 12
    assert set(made["seconds"]) == {"programs", "claims", "render", "audit", "total"}
    assert all(isinstance(value, float) for value in made["seconds"].values())
    assert made["versions"] == runner.libraries()
    assert made["revision"] == ""  # no repository here
    for row in made["per_program"]:
        assert set(row) >= {"path", "line", "kind", "seconds", "cached", "why", "reads", "made_from"}
        assert isinstance(row["seconds"], float)
        assert (row["cached"], row["why"]) == (False, "its code, its seed or its libraries are new to the store")
    assert [(row["path"], row["line"], row["kind"], row["made_from"]) for row in made["per_program"]] == [
        ("snippets/toy/line.py", 1, "snippet", None),
        ("snippets/toy/line.py", 1, "standalone", "snippets/toy/line.py"),
        ("docs/index.md", 6, "fence", None),
        ("docs/toy/line.md", 8, "fence", None),
        ("README.md", 4, "readme", None),
        ("genref/toy/line.py", 16, "docstring", None),
        ("docs/tours/walk.py", 1, "tour", None),
    ]
    loaded = [row["line"] for row in made["per_program"] if "genref/toy/line.py" in row["reads"]]
    assert loaded == [1, 8, 16]
    (claim,) = json.loads((good / "site/claims.json").read_text())
    assert claim == {
        "id": "toy-line",
        "stem": "toy/line",
        "statement": "For all $x$ and $y$, $f(x + y) = f(x) + f(y)$.",
        "kind": "numeric",
        "oracle": "the slope times each, added",
        "verdict": "held",
        "measured": 0.0,
        "bound": 1e-12,
        "mutants": [{"name": "an offset", "measured": 1.0, "rejected": True}],
        "answers": ["Q1"],
        "test": "tests/toy/test_line.py:8",
    }


def test_the_pages_show_what_ran(good):
    """Output, verdict, figure, formulas, tour and report stand on the pages; times on no page but the report."""
    site = good / "site"
    page = (site / "toy/line/index.html").read_text()
    for shown in (
        "tensor([2., 2.])",
        "twice as high at 2 as at 1",
        "Holds: numeric, error 0 where 1.0e-12 is allowed; 1 of 1 wrong versions rejected",
        "The line goes through the origin.</figcaption>",
        '<svg class="figure" role="img" aria-label="A straight line through the origin climbs',
        "Standalone copy",
        "<math",
    ):
        assert shown in re.sub(r"</?span[^>]*>|</?p>\n?", "", page), shown
    tour = (site / "tours/walk/index.html").read_text()
    assert "one step" in tour
    assert 'aria-label="A straight line climbs from nought to one' in tour
    assert "<style" not in tour.partition("<article")[2]
    assert "new to the store" in (site / "report/index.html").read_text()
    assert "The runner itself costs" in (site / "report/index.html").read_text()


def test_builds_in_two_folders_and_time_zones_cached_or_not_are_the_same(good, tmp_path):
    """The second runs from a copy of the machinery too: everything is imported from the checkout of the folder."""
    other = shutil.copytree(good, good.with_name("far") / "away", ignore=shutil.ignore_patterns("site", "__pycache__"))
    other.edit("genref/_site/build.py", "0 warnings", "no warnings")
    status, said = other.build("--no-cache", TZ="Asia/Tokyo")
    assert status == 0, said
    assert "7 run, 0 cached" in said
    assert "no warnings" in said
    assert {row["why"] for row in other.report()["per_program"]} == {"the store was set aside (--no-cache)"}
    status, said = good.build(TZ="UTC")
    assert status == 0, said
    assert "0 run, 7 cached" in said
    assert good.report()["claims"]["run"] == 0
    assert other.pages() == good.pages()


def test_editing_prose_runs_nothing(copy):
    copy.edit("docs/index.md", "# Small", "# Small\n\nA line of prose moves the program.")
    assert copy.rerun() == ({}, 0)
    assert "moves the program" in (copy / "site/index.html").read_text()


def test_editing_one_fence_runs_that_one_and_a_flipped_byte_another(copy):
    copy.edit("docs/index.md", "x = 1", "x = 3 - 2")
    copy.edit("README.md", "# Small", "# Smaller")
    done = [p for p in front.programs.collect(copy).programs if p.path == "README.md"]
    entry = Store(copy).file(runner.key(done[0]))
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 1
    entry.write_bytes(data)
    assert copy.rerun() == (
        {
            "docs/index.md:6": "its code, its seed or its libraries are new to the store",
            "README.md:4": "its entry in the store was damaged",
        },
        0,
    )


def test_editing_a_module_runs_exactly_what_loads_it(copy):
    copy.edit("genref/toy/line.py", "", "\n\nOTHER = 1\n")
    places = ["snippets/toy/line.py:1", "docs/toy/line.md:8", "genref/toy/line.py:16"]
    assert copy.rerun() == (dict.fromkeys(places, "genref/toy/line.py changed"), 1)


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("A link in toy/line.md leads\n  nowhere", "docs/toy/line.md:1"),
        ("see genref/toy/line.py:12 for more", "genref/toy/line.py:12"),
        ("no page toy/none.md", "mkdocs.yml:1"),
        ("something else", "mkdocs.yml:1"),
    ],
)
def test_a_warning_of_mkdocs_is_given_its_place(good, message, place):
    assert str(front.located(good, message)) == f"{place}: {' '.join(message.split())}"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (runner.BuildError("the fork server ended"), 1, "genref/_site/runner.py:1: the fork server ended\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_a_build_that_is_stopped_says_so(good, monkeypatch, capsys, error, status, said):
    def stopped(*_, **__):
        raise error

    monkeypatch.chdir(good)
    monkeypatch.setattr(sys, "argv", ["genref", "build"])
    monkeypatch.setattr(front, "build", stopped)
    assert front.main() == status
    assert capsys.readouterr().out == said


def test_nothing_is_rewritten_while_a_claim_fails(copy):
    before = (copy / "docs/toy/line.md").read_text()
    copy.edit("genref/toy/line.py", "return torch.mul(x, slope)", "return torch.mul(x, slope) + 1")
    status, said = copy.run("genref._site", "update")
    assert status == 1
    assert "claim toy-line: numeric: measured 1" in said
    assert "nothing rewritten: while claims fail" in said
    assert (copy / "docs/toy/line.md").read_text() == before


def test_a_number_that_a_claim_states_is_named_in_its_test(copy):
    copy.edit("genref/toy/line.py", "For all $x$", "With 2.7183, for all $x$")
    status, said = copy.build()
    assert status == 1
    assert "claim toy-line states 2.7183, which tests/toy/test_line.py does not check" in said


def test_update_rewrites_expected_output_and_leaves_that_of_a_failing_program(copy):
    good = (copy / "docs/toy/line.md").read_text()
    copy.edit("docs/toy/line.md", "tensor([2., 2.])", "tensor([3., 3.])\nand more")
    copy.edit("docs/toy/line.md", f"{TICKS}\ntwice as high at 2 as at 1\n{TICKS}", f"{TICKS}\n{TICKS}")
    inner = f"\n    {TICKS}python\n    print('a')\n\n    print('\\nb')\n    {TICKS}\n"
    inner += f"    <!--pytest-codeblocks:expected-output-->\n    {TICKS}\n    c\n    {TICKS}\n"
    failing = inner.replace("print('a')", "raise ValueError")
    copy.edit("docs/index.md", "", f"\n!!! note\n{inner}")
    status, said = copy.run("genref._site", "update")
    assert status == 0, said
    assert (copy / "docs/toy/line.md").read_text() == good
    assert (copy / "docs/index.md").read_text().endswith(inner.replace("    c\n", "    a\n\n    b\n"))
    assert said.count("rewrote the expected output") == 3
    assert copy.run("genref._site", "update") == (0, "every expected output is as printed\n")
    copy.edit("docs/index.md", "", f"\n!!! note\n{failing}")
    status, said = copy.run("genref._site", "update")
    assert status == 1
    assert "ValueError" in said
    assert (copy / "docs/index.md").read_text().endswith(failing)


@pytest.mark.parametrize(
    ("main", "words", "said"),
    [
        ("build", ["build", "--fast"], "unrecognized arguments: --fast"),
        ("build", [], "the following arguments are required: command"),
        ("build", ["bild"], "invalid choice: 'bild'"),
        ("verify", ["verify", "a", "b"], "unrecognized arguments: b"),
        ("verify", ["verify", "toy/lime"], "no claim or stem matches 'toy/lime'; did you mean toy/line?"),
    ],
)
def test_a_wrong_command_exits_with_2(copy, monkeypatch, capsys, main, words, said):
    from genref._site import verify

    monkeypatch.chdir(copy)
    monkeypatch.setattr(sys, "argv", ["genref", *words])
    with pytest.raises(SystemExit) as end:
        {"build": front.main, "verify": verify.main}[main]()
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_outside_a_checkout_both_commands_say_so(tmp_path, monkeypatch, capsys):
    from genref._site import verify

    monkeypatch.chdir(tmp_path)
    for main, word in ((front.main, "build"), (verify.main, "verify")):
        monkeypatch.setattr(sys, "argv", ["genref", word])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        assert "no mkdocs.yml here; run this in a checkout of genref" in capsys.readouterr().err


def test_verify_prints_the_table_of_the_claims_chosen(copy):
    status, said = copy.run("genref", "verify", "*-line")
    assert status == 0, said
    assert re.search(r"toy-line +held +numeric: error 0 where 1.0e-12 is allowed +1 of 1", said)
    assert said.splitlines()[-1] == "1 of 1 claims hold"


def test_verify_fails_and_says_why_where_a_claim_does_not_hold(copy):
    copy.edit("genref/toy/line.py", "torch.mul(x, slope)", "torch.mul(x, slope) + 1e-6")
    status, said = copy.run("genref", "verify")
    assert status == 1
    assert re.search(r"toy-line +failed +numeric: error \S+ where 1.0e-12 is allowed +1 of 1", said)
    assert "0 of 1 claims hold" in said
    assert "tests/toy/test_line.py:11: claim toy-line: numeric: measured 1e-06, allowed 1e-12" in said
