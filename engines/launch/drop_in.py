"""The drop-in file that has a systemd unit run an engine as a spec says; pure.

(Quoting: systemd.service(5) "COMMAND LINES", systemd.exec(5) "Environment=", systemd.unit(5) "SPECIFIERS")
"""

import re
from typing import Final

from engines.launch.launcher import LaunchSpec
from engines.registry import dialect

_HEAD: Final = "# Written by prefixgate, and written anew with each change of the replica's settings.\n"
_WORD: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_EXEC: Final = "ExecStart="


def drop_in(spec: LaunchSpec) -> str:
    """The file. A program without a path is looked up by env, in the unit's own PATH and directory."""
    command = dialect(spec.dialect).launch_command(spec)
    found = () if command.program[0].startswith("/") else ("/usr/bin/env",)
    words = " ".join(_quoted(word).replace("$", "$$") for word in (*found, *command.words))
    directory = f"WorkingDirectory={spec.directory.replace('%', '%%')}\n" if spec.directory else ""
    env = "".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in command.env.items())
    return f"{_HEAD}[Service]\n{directory}{env}{_EXEC}\n{_EXEC}{words}\n"


def command_in(text: str) -> tuple[str, ...]:
    """The command that a drop-in of ours sets, () where there is none."""
    lines = [line.removeprefix(_EXEC) for line in text.splitlines() if line.startswith(_EXEC) and line != _EXEC]
    words = [_unquoted(word) for word in _WORD.findall(lines[-1])] if lines else []
    return tuple(words[1:] if words[:1] == ["/usr/bin/env"] else words)


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    return f'"{escaped}"'


def _unquoted(word: str) -> str:
    plain = re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], word)
    return plain.replace("%%", "%").replace("$$", "$")
