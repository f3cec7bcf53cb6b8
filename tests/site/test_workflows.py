"""The workflows are valid, safe, and hold no logic of their own."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def ran(*words):
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)


def test_valid_against_the_schema_of_workflows():
    done = ran("-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS))
    assert WORKFLOWS
    assert done.returncode == 0, done.stdout


def test_clean_under_zizmor():
    zizmor = Path(sys.executable).with_name("zizmor")
    done = subprocess.run([zizmor, "--offline", "--no-progress", *WORKFLOWS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_action_is_pinned_by_a_full_commit():
    for path in WORKFLOWS:
        uses = re.findall(r"uses: (\S+)(.*)", path.read_text())
        assert uses
        for action, comment in uses:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), comment


def test_runs_the_commands_of_the_readme_and_nothing_else():
    jobs = yaml.safe_load(WORKFLOWS[0].read_text())["jobs"]
    steps = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert steps == [".ci/run"]
    script = (ROOT / ".ci/run").read_text().splitlines()
    assert script[-2:] == ["make test", "make site"]


def test_no_job_holds_a_permission_that_it_does_not_need():
    flow = yaml.safe_load(WORKFLOWS[0].read_text())
    assert flow["permissions"] == {}
    assert flow["jobs"]["build"]["permissions"] == {"contents": "read"}
    assert flow["jobs"]["deploy"]["permissions"] == {"pages": "write", "id-token": "write"}
