"""Replicas by a file of targets, as Prometheus' file_sd has it, or of JSON lines; does I/O."""

import asyncio
from pathlib import Path

import msgspec

from gateway.serving.discovery.source import DiscoveryError


class Group(msgspec.Struct):
    """One group of targets; labels are not used."""

    targets: list[str]


_WHOLE = msgspec.json.Decoder(list[Group])
_LINE = msgspec.json.Decoder(Group | str)


class FileSource:
    """Reads the file when it has changed."""

    def __init__(self, path: Path, scheme: str) -> None:
        self._path = path
        self._scheme = scheme
        self._seen: tuple[int, int, int] | None = None
        self._targets: set[str] = set()

    async def targets(self) -> set[str]:
        """As of now."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> set[str]:
        try:
            status = self._path.stat()
            seen = status.st_mtime_ns, status.st_size, status.st_ino
            if seen != self._seen:
                self._targets = {self._url(target) for target in targets_in(self._path.read_bytes())}
                self._seen = seen
        except OSError as error:
            raise DiscoveryError(f"{self._path} cannot be read: {error.strerror or error}") from error
        except msgspec.DecodeError as error:
            raise DiscoveryError(f"{self._path} is not a list of targets: {error}") from error
        return set(self._targets)

    def _url(self, target: str) -> str:
        return (target if "://" in target else f"{self._scheme}://{target}").rstrip("/")

    async def close(self) -> None:
        """Nothing is open."""


def targets_in(text: bytes) -> list[str]:
    """The targets of `[{"targets": ["HOST:PORT", …]}, …]`, or of lines that are such groups or targets.

    Raises msgspec.DecodeError.
    """
    if text.lstrip().startswith(b"["):
        return [target for group in _WHOLE.decode(text) for target in group.targets]
    found: list[str] = []
    for line in text.splitlines():
        if line.strip():
            said = _LINE.decode(line)
            found += [said] if isinstance(said, str) else said.targets
    return found
