"""A command line that starts an engine: how its words are put together, and how it is shown; pure."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from engines.launch.launcher import LaunchSpec


@dataclass(frozen=True, slots=True)
class LaunchCommand:
    """`program` is what is run, `arguments` all that follows it, `env` what is set beside the launcher's own."""

    program: tuple[str, ...]
    arguments: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> tuple[str, ...]:
        """The whole command."""
        return self.program + self.arguments

    def shell(self) -> str:
        """One line for a shell."""
        return " ".join(self._parts())

    def shell_lines(self) -> str:
        """The same with a line for each flag."""
        return " \\\n  ".join(self._parts())

    def _parts(self) -> Iterator[str]:
        words = [*(f"{name}={shlex.quote(value)}" for name, value in self.env.items()), shlex.join(self.program)]
        groups = grouped(self.arguments)
        if groups and not groups[0][0].startswith("-"):
            words.append(shlex.join(groups.pop(0)))
        yield " ".join(words)
        yield from (shlex.join(group) for group in groups)


def written(
    spec: LaunchSpec, program: tuple[str, ...], model: tuple[str, ...], flags: Sequence[str], env: Mapping[str, str]
) -> LaunchCommand:
    """The command of a replica: the dialect's program, model and flags, unless the spec has its own.

    A flag that the spec's own flags name is theirs alone, so that no command says two things.
    """
    own = {*spec.without, *(word.partition("=")[0] for word in spec.flags if word.startswith("--"))}
    kept = [word for flag in grouped(flags) if flag[0] not in own for word in flag]
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.gpus))} if spec.gpus else {}
    return LaunchCommand(spec.program or program, (*model, *kept, *spec.flags), {**devices, **env, **spec.env})


def grouped(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Each flag with its values; what stands before the first flag is a group of its own."""
    groups: list[tuple[str, ...]] = []
    for word in words:
        if word.startswith("-") or not groups:
            groups.append((word,))
        else:
            groups[-1] = (*groups[-1], word)
    return groups


def flag_words(flags: Mapping[str, object]) -> tuple[str, ...]:
    """`--flag value` for each flag whose value is not None or False, `--flag` alone where it is True."""
    words: list[str] = []
    for flag, value in flags.items():
        if value is not None and value is not False:
            words += [flag] if value is True else [flag, str(value)]
    return tuple(words)
