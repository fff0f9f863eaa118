"""The kernel's accounts of a process and its children (Linux): CPU in µs, resident memory in bytes."""

import os
from pathlib import Path


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu_us(pid: int) -> float:
    """CPU that all threads of the family have used."""
    return sum(map(own_cpu_us, family(pid)))


def own_cpu_us(pid: int) -> float:
    """CPU that all threads of the process have used (first figure of `schedstat`, in ns: proc(5))."""
    spent = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            spent += int(task.read_text().split()[0])
        except OSError:
            continue
    return spent / 1000


def machine_cpu_us() -> float:
    """CPU that the whole machine has used: user, nice, system, interrupts (proc(5))."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return 1_000_000 * (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """`VmRSS` of the family."""
    total = 0
    for one in family(pid):
        try:
            lines = Path(f"/proc/{one}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
    return total
