"""The storm itself, small: kinds of disturbance that must never cost a request."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HARMLESS = ("429", "overload", "slow", "unhealthy", "lie: zero", "lie: NaN", "lie: missing", "lie: garbage")
PATIENT = ("--timeouts", "10", "60", "60")  # a machine that is busy is no engine that hangs
SMALL = ("--seed", "5", "--rate", "8", "--corpus", "40", "--lasts", "0.3", "0.6", "--every", "0.3")


def storm(*arguments: str) -> tuple[int, dict]:
    paths = os.pathsep.join([str(ROOT / "tests/support"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("chaos.py")), *SMALL, *PATIENT, "--json", *arguments],
        capture_output=True, text=True, timeout=150, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_what_must_cost_no_request_costs_none() -> None:
    only = [word for kind in (*HARMLESS, "redis") for word in ("--only", kind)]
    status, shown = storm("--seconds", "8", *only)
    assert shown["wrong"] == []
    assert status == 0
    assert shown["sent"] == sum(shown[end] for end in ("completed", "refused", "left", "cut", "failed")) > 20
    assert shown["failed"] == 0
    assert sum(row["times"] for row in shown["kinds"]) >= 2
    assert set(shown["skipped"]) <= {"redis"}
