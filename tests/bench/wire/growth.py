"""Whether something grows: samples of a process over its requests, their slope, and a picture; reads /proc."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wire.accounts import family, resident_bytes

MIB = 2**20
_ESTABLISHED = "01"
_METRIC = re.compile(r"^prefixgate_(\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sample:
    """The gateway at one moment. `requests` that its clients have had ended; `waiting_lines` of the journal."""

    requests: int
    memory_mib: float
    files: int
    clients: int
    engine_connections: int
    index_blocks: int
    index_mib: float
    waiting_lines: int
    inflight: int


def sample(pid: int, port: int, engines: Sequence[int], metrics: str, requests: int) -> Sample:
    """Look at the process, its connections and its metrics page."""
    sums: dict[str, float] = {}
    for name, value in _METRIC.findall(metrics):
        sums[name] = sums.get(name, 0.0) + float(value)
    pairs = _connections()
    return Sample(
        requests,
        resident_bytes(pid) / MIB,
        sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in family(pid)),
        sum(local == port for local, _ in pairs),
        sum(remote in engines for _, remote in pairs),
        round(sums.get("index_blocks", 0)),
        sums.get("index_bytes", 0) / MIB,
        max(round(sums.get("requests_total", 0) - sums.get("journal_lines_total", 0)), 0),
        round(sums.get("replica_inflight", 0)),
    )


def _connections() -> list[tuple[int, int]]:
    """The ports, own and other, of all established connections of the machine."""
    fields = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [(_port(one[1]), _port(one[2])) for one in fields if one[3] == _ESTABLISHED]


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def slope(samples: Sequence[Sample]) -> float:
    """MiB of memory for each 100,000 requests, by least squares."""
    xs, ys = [one.requests / 100_000 for one in samples], [one.memory_mib for one in samples]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0


def chart(samples: Sequence[Sample], width: int = 72, height: int = 10) -> str:
    """Memory over requests."""
    top, last = max(one.memory_mib for one in samples) * 1.05, max(samples[-1].requests, 1)
    columns: list[float] = [0.0] * width
    for one in samples:
        at = min(one.requests * width // last, width - 1)
        columns[at] = max(columns[at], one.memory_mib)
    for at in range(1, width):
        columns[at] = columns[at] or columns[at - 1]
    rows = [
        f"{top * (row + 1) / height:7.0f} MiB │" + "".join("█" if one > top * row / height else " " for one in columns)
        for row in reversed(range(height))
    ]
    return "\n".join([*rows, " " * 11 + f" └{'─' * width}", " " * 13 + f"0{last:>{width - 1},} requests"])
