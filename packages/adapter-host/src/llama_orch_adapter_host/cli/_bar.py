"""A bar on stderr, drawn with rich; imported when there is one to draw."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn


class Bar:
    """One line on stderr that shows a stage and how much of it is done; gone when it stops."""

    def __init__(self) -> None:
        self._task: TaskID | None = None
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[size]}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._bars.start()

    def draw(self, what: str, done: int | None, total: int | None, *, begins: bool) -> None:
        """Show `done` of `total` bytes of `what`; a stage that begins takes the place of the one before."""
        if self._task is not None and begins:
            self._bars.remove_task(self._task)
        if self._task is None or begins:
            self._task = self._bars.add_task(what, total=total, size="")
        self._bars.update(self._task, description=what, completed=done or 0, size=_size(done, total))

    def stop(self) -> None:
        """Clear the line."""
        self._bars.stop()


def _size(done: int | None, total: int | None) -> str:
    return "" if done is None or total is None else f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
