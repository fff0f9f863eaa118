"""Whether this host is a confidential-computing guest, where custom all-reduce hangs at start; does I/O."""

from pathlib import Path
from typing import Final

_DEVICES: Final = ("dev/tdx_guest", "dev/tdx-guest", "dev/sev-guest", "sys/devices/virtual/misc/tdx_guest")
_CPU_FLAGS: Final = frozenset({"tdx_guest"})
"""AMD's flags say only what the processor could do."""
_SECRETS: Final = "sys/kernel/security/secrets/coco"
"""Where firmware leaves the secrets that an SEV guest was given."""


def guest_evidence(root: Path = Path("/")) -> str | None:
    """What shows that it is a TDX or SEV guest: a path, or a flag of the processor; None where nothing does."""
    for place in (*_DEVICES, _SECRETS):
        if (root / place).exists():
            return f"/{place}"
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    found = _CPU_FLAGS.intersection(flags)
    return f"processor flag {min(found)}" if found else None
