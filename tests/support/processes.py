"""Our own commands as processes, for tests of the command line."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def prefixgate(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Start a command that announces its URLs on one line; the process and the URLs. It is ended with SIGTERM."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        urls = re.findall(r"http://[\d.]+:\d+", line)
        if not urls:
            process.kill()
            raise AssertionError(f"{arguments} announced no URL: {line!r} {process.communicate()[1]}")
        yield process, urls
    finally:
        process.terminate()
        process.communicate(timeout=20)
