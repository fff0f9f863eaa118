"""The form of the gateway's own messages on stderr: text for people, or one JSON object per line; does I/O."""

import logging
from datetime import UTC, datetime
from typing import Final

import msgspec

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"


class _JsonLines(logging.Formatter):
    """As the lines about requests are."""

    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = {"worker": worker} if worker else {}

    def format(self, record: logging.LogRecord) -> str:
        """One message as an object on one line; a traceback is part of it."""
        said: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._worker,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(said).decode()


def say_on_stderr(form: str, worker: str = "") -> None:
    """From now on, in the form that `[log] format` asks for; `worker` is this process's name among several."""
    handler = logging.StreamHandler()
    text = f"%(asctime)s %(levelname)s %(name)s {worker} %(message)s" if worker else _TEXT
    handler.setFormatter(_JsonLines(worker) if form == "json" else logging.Formatter(text))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
