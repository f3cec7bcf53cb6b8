"""The plugin of claims: what holds is recorded, and each way in which a check could deceive is caught."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import sympy
import torch

import genref
from genref._site.claims import Evidence, Rejected, double, mutant

HEAD = """
import math

import pytest
import torch

from genref._site.claims import mutant
from genref.toy.line import SLOPE, line
from genref.toy import line as module

X = torch.linspace(-1, 1, 5, dtype=torch.float64)


def doubled(x):
    return x + x


def through(x):
    return line(x)
"""
MUTANT = """

@mutant(test_line, "an offset")
def offset(x):
    return 2 * x + 1
"""
TEST = """

@pytest.mark.claim("toy-line", answers=["Q1"])
def test_line(evidence, f=line):
    evidence.numeric(f(X), doubled(X), bound=1e-12, oracle="by addition")
"""


@pytest.fixture
def claims(pytester, monkeypatch):
    """Runs a claim module of the stem toy/line, and returns its failures in one line each, and its verdicts."""
    stem = pytester.path / "genref/toy"
    stem.mkdir(parents=True)
    (stem / "__init__.py").touch()
    (stem / "line.py").write_text("SLOPE = 2.0\n\n\ndef line(x):\n    return SLOPE * x\n")
    monkeypatch.setattr(genref, "__path__", [*genref.__path__, str(stem.parent)])
    place = pytester.path / "toy/test_line.py"
    place.parent.mkdir()

    def run(text, *flags, head=HEAD):
        place.write_text(head + text)
        result = pytester.runpytest_inprocess("-p", "genref._site.claims", "--claims-json", "claims.json", *flags)
        reports = [r for r in result.reprec.getreports() if r.failed]
        failures = [
            str(r.longrepr.reprcrash.message if hasattr(r.longrepr, "reprcrash") else r.longrepr) for r in reports
        ]
        written = pytester.path / "claims.json"
        return failures, json.loads(written.read_text()) if written.exists() else [], result

    return run


def line_of(text):
    """The line on which a piece of the standard module stands."""
    return (HEAD + TEST + MUTANT).split(text)[0].count("\n") + 1


def test_a_claim_that_holds_leaves_its_verdict(claims):
    failures, (verdict,), result = claims(TEST + MUTANT)
    assert failures == []
    result.assert_outcomes(passed=2)
    assert verdict == {
        "id": "toy-line",
        "answers": ["Q1"],
        "test": f"toy/test_line.py:{line_of('@pytest.mark.claim')}",
        "kind": "numeric",
        "oracle": "by addition",
        "measured": 0.0,
        "bound": 1e-12,
        "note": "",
        "held": True,
        "mutants": [{"name": "an offset", "measured": 1.0, "rejected": True}],
        "problems": [],
    }


def test_a_mutant_that_is_accepted_fails_and_is_named(claims):
    failures, (verdict,), _ = claims(TEST + MUTANT.replace("2 * x + 1", "x * 2"))
    seen = "at worst it measured 0 where 1e-12 is allowed"
    message = f"claim toy-line: the check accepts the mutant 'an offset'; {seen}"
    assert failures == [f"Failed: {message}"] or failures == [message]
    assert verdict["mutants"] == [{"name": "an offset", "measured": 0.0, "rejected": False}]
    assert verdict["problems"] == [[line_of("@pytest.mark.claim"), message]]


def test_a_loosened_bound_does_not_reject(claims):
    """The mutant is off by one; a bound above a tenth calls that too close to the bound."""
    failures, _, _ = claims(TEST.replace("1e-12", "0.2") + MUTANT)
    assert "the check accepts the mutant 'an offset'; at worst it measured 1 where 0.2 is allowed" in failures[0]
    assert len(failures) == 1
    assert claims(TEST.replace("1e-12", "0.09") + MUTANT)[0] == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("return x + 'x'", "TypeError: "),
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("return x[:2]", "ValueError: measured has shape (2,), the oracle (5,); compare like with like"),
        ("assert False, 'bare'", "AssertionError: bare"),
    ],
)
def test_a_crash_of_a_mutant_is_no_rejection(claims, broken, said):
    failures, (verdict,), _ = claims(TEST + MUTANT.replace("return 2 * x + 1", broken))
    assert len(failures) == 1
    assert f"mutant 'an offset' broke the check instead of being rejected by it ({said}" in failures[0]
    assert verdict["mutants"] == [{"name": "an offset", "measured": None, "rejected": False}]
    assert verdict["held"]


def test_a_wrong_object_fails_with_the_line_of_its_comparison(claims):
    failures, (verdict,), _ = claims(TEST.replace("f(X)", "f(X) + 1") + MUTANT)
    said = "numeric: measured 1, allowed 1e-12; oracle: by addition"
    assert said in failures[0]
    assert (verdict["held"], verdict["measured"]) == (False, 1.0)
    assert verdict["problems"] == [[line_of("evidence.numeric"), said]]


def test_a_missing_comparison_fails(claims):
    comparison = 'evidence.numeric(f(X), doubled(X), bound=1e-12, oracle="by addition")'
    failures, (verdict,), _ = claims(TEST.replace(comparison, "assert f(X).sum() == 0") + MUTANT)
    assert "claim toy-line: its test compares nothing; call a method of evidence" in failures[0]
    assert "kind" not in verdict


def test_a_claim_without_a_mutant_fails(claims):
    failures, (verdict,), _ = claims(TEST)
    assert failures == [f for f in failures if "claim toy-line has no mutant; name a wrong version" in f] != []
    assert verdict["held"] is False


@pytest.mark.parametrize(
    ("oracle", "names"),
    [
        ("line(X)", "line"),
        ("module.line(X)", "module"),
        ("SLOPE * X", "SLOPE"),
        ("f(X) + 0", "f"),
        ("through(X)", "through → line"),
        ("(lambda x: through(x))(X)", "through → line"),
        ("[through(x) for x in X]", "through → line"),
    ],
)
def test_an_oracle_that_calls_the_code_under_test_fails(claims, oracle, names):
    failures, (verdict,), _ = claims(TEST.replace("doubled(X)", oracle) + MUTANT)
    assert f"claim toy-line: its oracle uses {names}, the code under test; take another road" in failures[0]
    assert verdict["held"] is False


@pytest.mark.parametrize(
    "lines",
    [
        "want = line(X)",
        "want, other = line(X), 1",
        "first = line(X)\n    want = first + 0",
        "want = 0 * X\n    want += line(X)",
        "want = torch.empty(5)\n    want[:] = line(X)",
        "for want in [line(X)]:\n        pass",
        "(want := line(X))",
        "want: object = line(X)",
        "def inner(x):\n        return line(x)\n    want = inner(X)",
        "with torch.no_grad() as _, __import__('contextlib').nullcontext(line(X)) as want:\n        pass",
        "want = []\n    want.extend(line(X))\n    want = torch.stack(want)",
        "from genref.toy.line import line as other\n    want = other(X)",
        "import genref\n    want = genref.toy.line.line(X)",
        "from genref import toy\n    want = toy.line.line(X)",
    ],
)
def test_an_oracle_that_holds_what_the_code_under_test_gave_fails(claims, lines):
    """By whatever road the value came into the local variable."""
    text = TEST.replace("    evidence", f"    {lines}\n    evidence").replace("doubled(X)", "want")
    failures, _, _ = claims(text + MUTANT)
    assert len(failures) == 1
    assert "its oracle uses" in failures[0]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("measured=f(X), expected=line(X)", "its oracle uses line"),
        ("*(f(X), line(X))", "its oracle uses f, line"),
        ("f(X), **dict(expected=line(X))", "its oracle uses line"),
    ],
)
def test_an_oracle_given_by_keyword_or_star_is_read_too(claims, values, said):
    assert said in claims(TEST.replace("f(X), doubled(X)", values) + MUTANT)[0][0]


@pytest.mark.parametrize("way", ["check = evidence.numeric; check", "helper(evidence).numeric"])
def test_evidence_is_not_handed_on_where_no_one_reads_its_oracle(claims, way):
    helper = "\n\ndef helper(evidence):\n    return evidence\n"
    failures, _, _ = claims(helper + TEST.replace("evidence.numeric", way) + MUTANT)
    said = "claim toy-line: it hands evidence on, so that its oracle cannot be read; compare in the test itself"
    assert said in failures[0]


def test_two_tests_of_one_claim_are_refused(claims):
    _, _, result = claims(TEST + MUTANT + TEST.replace("test_line", "test_again"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*claim toy-line is tested twice: toy/test_line.py::test_line and toy/test_line.py::test_again; keep one"]
    )


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ('claim("a", "b")', 'write claim("some-id", answers=[...])'),
        ("claim(3)", 'write claim("some-id", answers=[...])'),
        ('claim("a", answer=[])', 'write claim("some-id", answers=[...])'),
    ],
)
def test_a_mark_that_cannot_be_read_fails(claims, mark, said):
    failures, _, _ = claims(TEST.replace('claim("toy-line", answers=["Q1"])', mark) + MUTANT)
    assert failures
    assert all(said in failure for failure in failures)


def test_evidence_and_claims_go_together(claims):
    failures, _, _ = claims(TEST.replace("evidence, f=line", "f=line").replace("evidence.", "dict and torch."))
    assert "claim toy-line: its test takes no evidence" in failures[0]
    failures, _, _ = claims("\n\ndef test_plain(evidence):\n    pass\n")
    assert "evidence belongs to claims: mark this test with claim(...)" in failures[0]


def test_a_skipped_claim_is_not_held(claims):
    failures, (verdict,), _ = claims(TEST.replace("    evidence", "    pytest.skip('later')\n    evidence") + MUTANT)
    assert failures == []
    assert not verdict.get("held")
    assert [m["rejected"] for m in verdict["mutants"]] == [False]


def test_a_mutant_names_what_it_replaces():
    def check(evidence, f=1, g=2):
        pass

    mutant(check, "of g", of="g")(3)
    assert check.mutants == [("of g", "g", 3)]
    for of in (None, "h", "evidence"):
        with pytest.raises(ValueError, match="name the one to replace"):
            mutant(check, "of nothing", of=of)


def test_a_mutant_of_a_test_that_takes_nothing_says_what_to_give_it():
    def check(evidence):
        pass

    with pytest.raises(ValueError, match=r"^check has no defaulted parameter; give it what is under test, as in f=f$"):
        mutant(check, "of nothing")


RANDOM = """

@pytest.mark.claim("toy-mean")
def test_mean(evidence, draw=torch.randn):
    x = draw(1000, generator=evidence.generator, dtype=torch.float64)
    print("first", x[0].item())
    evidence.statistical(x, 0.0, oracle="symmetry", detects=0.2)


@mutant(test_mean, "a shifted mean")
def shifted(*size, **how):
    return torch.randn(*size, **how) + 1
"""


def test_a_statistical_claim_states_its_level_and_power_and_moves_with_the_seed(claims):
    seen = []
    for flags in ([], ["--claim-seed", "0"], ["--claim-seed", "1"]):
        failures, (verdict,), result = claims(RANDOM, "-rP", *flags)
        assert failures == []
        assert verdict["note"].startswith("z-score; false alarms 1e-06, power 0.9")
        assert verdict["note"].endswith("against a deviation of 0.2")
        assert verdict["bound"] == pytest.approx(4.8916, abs=1e-4)
        assert verdict["mutants"][0]["measured"] > 2 * verdict["bound"]
        seen.append([line for line in result.outlines if line.startswith("first")])
    assert seen[0] == seen[1] != seen[2]


def evidence(wrong=False):
    return Evidence("some-claim", 0, wrong)


HALF = sympy.Rational(1, 2)
x = sympy.Symbol("x")
NAN, INF = math.nan, math.inf
RIGHT = [
    ("exact", {1, 2}, {2, 1}, {}),
    ("exact", {"a": [1, (2, 3)]}, {"a": [1, (2, 3)]}, {}),
    ("exact", Fraction(1, 3), Fraction(2, 6), {}),
    ("exact", torch.tensor([True, False]), [True, False], {}),
    ("symbolic", (x + 1) ** 2, x**2 + 2 * x + 1, {}),
    ("numeric", torch.tensor([1.0, INF]), [1.0, INF], {"bound": 0}),
    ("numeric", [Fraction(1, 2), 1], torch.tensor([0.5, 1.1]), {"bound": 0.11}),
    ("numeric", 101.0, 100.0, {"bound": 0.011, "relative": True}),
    ("ordered", torch.tensor([1.0, 2.0]), 2.0, {"bound": 0}),
    ("ordered", -INF, 0.0, {"bound": 0}),
    ("statistical", torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.0, {"detects": 1.0}),
]
WRONG = [
    ("exact", {1, 2}, {2, 3}, {}, 2),
    ("exact", {"a": 1, "b": 2}, {"a": 2, "c": 2}, {}, 3),
    ("exact", [1, 2, 3], [1, 3], {}, 2),
    ("exact", torch.zeros(2, 3), torch.zeros(3, 2), {}, 6),
    ("exact", torch.tensor([1.0, NAN]), torch.tensor([1.0, NAN]), {}, 1),
    ("exact", NAN, NAN, {}, 1),
    ("symbolic", x + HALF, x, {}, 1),
    ("numeric", [0.0, NAN], [0.0, NAN], {"bound": 1e9}, INF),
    ("numeric", [0.0, INF], [0.0, 1.0], {"bound": 1e9}, INF),
    ("numeric", INF, -INF, {"bound": 1e9}, INF),
    ("numeric", 1.0, 0.0, {"bound": 1e9, "relative": True}, INF),
    ("ordered", [1.0, 3.0], [2.0, 2.0], {"bound": 0.5}, 1.0),
    ("ordered", NAN, 0.0, {"bound": 1e9}, INF),
    ("statistical", torch.tensor([1.0, 1.1, 0.9, 1.0]), 0.0, {"detects": 1.0}, None),
    ("statistical", torch.tensor([1.0, NAN]), 0.0, {"detects": 1.0}, INF),
    ("statistical", torch.ones(4), 0.0, {"detects": 1.0}, INF),
]


@pytest.mark.parametrize(("kind", "one", "other", "how"), RIGHT)
def test_what_is_right_is_accepted(kind, one, other, how):
    made = evidence()
    getattr(made, kind)(one, other, oracle="words", **how)
    assert made.comparisons[0].holds
    getattr(evidence(wrong=True), kind)(one, other, oracle="words", **how)


def test_samples_that_do_not_vary_are_no_statistics():
    with pytest.raises(ValueError, match="do not vary"):
        Evidence("a", 0, False).statistical(torch.ones(4), 1.0, oracle="a constant", detects=1.0)


@pytest.mark.parametrize(("kind", "one", "other", "how", "measured"), WRONG)
def test_what_is_wrong_is_rejected(kind, one, other, how, measured):
    made = evidence()
    with pytest.raises(Rejected):
        getattr(made, kind)(one, other, oracle="words", **how)
    assert measured in (None, made.comparisons[0].measured)


def test_a_mean_with_its_error_will_do():
    class Estimate:
        mean, standard_error = torch.tensor(1.0), 0.1

    evidence().statistical(Estimate, 1.2, oracle="words", detects=1.0)
    with pytest.raises(Rejected):
        evidence().statistical(Estimate, 2.0, oracle="words", detects=1.0)
    evidence(wrong=True).statistical(Estimate, 1.9, oracle="words", detects=1.0)  # less than twice the critical value


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"oracle": " ", "bound": 1}, "say in words"),
        ({"oracle": "words", "bound": NAN}, "a bound is finite"),
        ({"oracle": "words", "bound": -1}, "a bound is finite"),
        ({"oracle": "words", "bound": INF}, "a bound is finite"),
    ],
)
def test_evidence_needs_an_oracle_in_words_and_a_true_bound(how, said):
    with pytest.raises(ValueError, match=said):
        evidence().numeric(1.0, 1.0, **how)


@pytest.mark.parametrize(
    "value", [0.1, [0.1], Fraction(1, 10), np.float64(0.1), torch.tensor(0.1, dtype=torch.float64)]
)
def test_evidence_loses_no_digit_of_a_number(value):
    assert double(value).reshape(-1).tolist() == [0.1]
