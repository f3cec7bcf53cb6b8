"""What a build did, for machines and for people: claims.json, report.json and the report page."""

import html
import json
import re
import sys
from pathlib import Path
from statistics import median
from typing import Any

from genref._site import runner
from genref._site.programs import Site
from genref._site.runner import Outcome


def write(
    root: Path,
    new: Path,
    site: Site,
    found: list[Outcome],
    tested: list[Outcome],
    claims: list[dict[str, Any]],
    pages: list[dict[str, Any]],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Writes claims.json, report.json and the report page into the new site; returns the report."""
    fresh = [o for o in found if not o.cached]
    mutants = [m for claim in claims for m in claim["mutants"]]
    recent = {v["id"] for o in tested if not o.cached for v in o.verdicts}
    report: dict[str, Any] = {
        "programs": {
            "total": len(found) + len(site.excused),
            "run": len(fresh),
            "cached": len(found) - len(fresh),
            "excused": len(site.excused),
            "failed": 0,
        },
        "claims": {
            "stated": len(claims),
            "held": sum(c["verdict"] == "held" for c in claims),
            "failed": sum(c["verdict"] == "failed" for c in claims),
            "run": len(recent),
            "cached": len(claims) - len(recent),
            "mutants": len(mutants),
            "mutants_rejected": sum(m["rejected"] for m in mutants),
        },
        "pages": pages,
        "seconds": seconds,
        "versions": runner.libraries(),
        "revision": runner.git(root, "rev-parse", "HEAD"),
        "per_program": per_program(found),
        "runner_seconds_per_program": round(median(o.overhead for o in found), 4) if found else 0.0,
    }
    (new / "claims.json").write_text(json.dumps(claims, indent=1, ensure_ascii=False) + "\n")
    (new / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    page, measured = new / "report" / "index.html", root / ".cache" / "browser.json"
    if page.is_file():
        names = ("bytes", "with search", "requests", "shift", "paint")
        rows = json.loads(measured.read_text()) if measured.is_file() else {}
        browser: list[list[object]] = [[path, *(row.get(name, "") for name in names)] for path, row in rows.items()]
        mark = r'<div id="build-report">.*?</div>'
        page.write_text(re.sub(mark, lambda _: people(report, browser), page.read_text(), count=1, flags=re.S))
    return report


def per_program(found: list[Outcome]) -> list[dict[str, Any]]:
    rows = []
    for o in found:
        rows.append(
            {"path": o.program.path, "line": o.program.line, "kind": o.program.kind, "seconds": round(o.seconds, 4)}
            | {
                "cached": o.cached,
                "why": o.why,
                "reads": sorted({path for kind, path, _ in o.reads if kind != "absent"}),
            }
            | {
                "made_from": o.program.made_from,
                "figures": {name: figure["data"] for name, figure in o.figures.items()},
            }
        )
    return rows


BROWSER = ["Page", "Bytes", "With search", "Requests", "Layout shift", "Largest paint, s"]


def people(report: dict[str, Any], browser: list[list[object]]) -> str:
    """The report as a page."""

    def table(head: list[str], rows: list[list[object]]) -> str:
        top = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
        rows_and_head = f'<table class="data"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
        return f'<div class="table">{rows_and_head}</div>'

    count, seconds = report["programs"], report["seconds"]
    slow = sorted(report["per_program"], key=lambda row: -row["seconds"])[:12]
    ran = [row for row in report["per_program"] if not row["cached"]]
    reasons: dict[str, list[str]] = {}
    for row in ran:
        reasons.setdefault(row["why"], []).append(f"{row['path']}:{row['line']}")
    memory = "" if sys.platform == "linux" else "<p>This system sets no memory limit on programs.</p>"
    parts = [
        f"<p>{count['total']} programs: {count['run']} run, {count['cached']} cached, {count['excused']} excused.</p>",
        memory + f"<p>The runner itself costs {report['runner_seconds_per_program']:.3f} s a program.</p>",
        "<h2>Stages</h2>" + table(["Stage", "Seconds"], [[name, f"{value:.2f}"] for name, value in seconds.items()]),
        "<h2>Slowest programs</h2>"
        + table(
            ["Program", "Kind", "Seconds"],
            [[f"{r['path']}:{r['line']}", r["kind"], f"{r['seconds']:.3f}"] for r in slow],
        ),
        "<h2>Why each miss missed</h2>"
        + (
            table(["Why", "Programs"], [[why, ", ".join(at)] for why, at in reasons.items()])
            if ran
            else "<p>Nothing missed.</p>"
        ),
        "<h2>Pages</h2>"
        + table(
            ["Page", "First view, bytes", "Requests"],
            [[p["path"], f"{p['wire_bytes']:,}", p["requests"]] for p in report["pages"]],
        ),
        *(["<h2>In the browser, when last tested</h2>" + table(BROWSER, browser)] if browser else []),
        "<h2>Versions</h2>" + table(["Library", "Version"], [list(pair) for pair in report["versions"].items()]),
    ]
    return "\n".join(parts)
