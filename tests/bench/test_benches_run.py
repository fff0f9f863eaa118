"""Benchmarks run, small; what they measure is nobody's business here."""

import subprocess
import sys
from pathlib import Path


def test_the_index_benchmark_prints_its_figures() -> None:
    command = [sys.executable, str(Path(__file__).with_name("bench_index.py")), "--blocks", "16000"]
    root = Path(__file__).parents[2]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=root).stdout
    for figure in ("guessed block", "stated block", "100k tokens, blocks of  16", "64 blocks of 256"):
        assert figure in shown
