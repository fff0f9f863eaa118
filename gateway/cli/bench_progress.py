"""How far a benchmark is, and what it does just now; does I/O: prints on stderr."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gateway.bench.plan import Step, cost_of, written


class Bar:
    """A bar on a terminal, counted in tokens to prefill; elsewhere only what is said."""

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        columns = (BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), TextColumn("{task.description}"))  # fmt: skip
        self._progress = Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        )
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, step: Step, target: str) -> None:
        """One step further."""
        what = "warm-up" if step.round < 0 else f"round {step.round + 1}"
        shown = ", ".join(word for word in (what, written(step.rung.isl), target) if word)
        self._progress.update(self._task, advance=cost_of(step), description=shown)

    def say(self, sentence: str) -> None:
        """A line that stays."""
        self._console.print(sentence, soft_wrap=True)
