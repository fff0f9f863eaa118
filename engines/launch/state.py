"""What a supervisor remembers of a replica beyond its own life: one small file each; does I/O."""

import os
from pathlib import Path

import msgspec

from engines.launch.launcher import LaunchSpec


class Remembered(msgspec.Struct, frozen=True):
    """`declared` is what the configuration said when `applied` was; `stopped`: it is to stay so."""

    declared: LaunchSpec
    applied: LaunchSpec
    stopped: bool = False


class Memory:
    """The files of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(self, declared: LaunchSpec) -> Remembered:
        """What was applied, unless the configuration has changed since: then its word counts.

        A file that cannot be read is none.
        """
        try:
            found = msgspec.json.decode(self._path(declared.name).read_bytes(), type=Remembered)
        except (OSError, msgspec.MsgspecError):
            return Remembered(declared, declared)
        return found if found.declared == declared else Remembered(declared, declared, found.stopped)

    def keep(self, remembered: Remembered) -> None:
        """Write it whole or not at all. Raises OSError."""
        path = self._path(remembered.declared.name)
        draft = path.with_suffix(".new")
        with draft.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(remembered), indent=1))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"
