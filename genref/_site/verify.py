"""`python -m genref verify`: runs the claims of a checkout and prints the evidence."""

import argparse
import fnmatch
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from genref._site import extension, runner, scan
from genref._site.build import announce, say, stage
from genref._site.programs import nearest


def main() -> int:
    """0 if every claim chosen holds, 1 if one does not, 2 if none is chosen."""
    parser = argparse.ArgumentParser(
        prog="python -m genref", description="The mathematics of deep generative models, checked."
    )
    choose = parser.add_subparsers(dest="command", required=True)
    verify = choose.add_parser("verify", help="run the claims of this checkout against their oracles and mutants")
    verify.add_argument(
        "pattern", nargs="?", default="", help="a part of a claim's id or of a stem, or a glob: masks, '*-AB'"
    )
    pattern = parser.parse_args().pattern
    root = Path.cwd().resolve()
    if not (root / "mkdocs.yml").is_file():
        parser.error("no mkdocs.yml here; run this in a checkout of genref")
    stated = scan.claims(root)
    names = [name for claim in stated for name in (claim.name, claim.stem, claim.stem.split("/")[-1])]
    chosen = [c for c in stated if any(pattern in n or fnmatch.fnmatch(n, pattern) for n in (c.name, c.stem))]
    if not chosen:
        parser.error(f"no claim or stem matches {pattern!r}{nearest(pattern, names)}")
    modules = runner.claim_programs(root, [claim.stem for claim in chosen])
    with stage("claims", len(modules)) as at:
        found = runner.run(root, modules, cache=False, done=at.done, started=at.started)
    verdicts = {v["id"]: v for outcome in found for v in outcome.verdicts}
    table = Table("Claim", "Verdict", "Evidence", "Wrong versions rejected", box=None, header_style="bold")
    for claim in chosen:
        verdict = verdicts.get(claim.name)
        state = extension.held(verdict)
        wrong = [m["rejected"] for m in verdict["mutants"]] if verdict else []
        said = f"{verdict['kind']}: {extension.measured(verdict)}" if verdict and "kind" in verdict else ""
        table.add_row(
            claim.name, state, said, f"{sum(wrong)} of {len(wrong)}", style=None if state == "held" else "red"
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    held = sum(extension.held(verdicts.get(claim.name)) == "held" for claim in chosen)
    say(f"{held} of {len(chosen)} claims hold")
    faults = [fault for outcome in found for fault in outcome.faults]
    if faults:
        announce(sorted(faults, key=str))
    return 0 if held == len(chosen) and not faults else 1
