"""The progress of a training run, shown in the terminal."""

import contextlib
from collections.abc import Callable, Iterator

import jax

Progress = Callable[[int, float, float], None]
"""Called with the steps done, the last loss and the steps a second."""


@contextlib.contextmanager
def progress_bar(title: str, steps: int) -> Iterator[Progress]:
    """Show a bar with loss and rate in the terminal; yields the `progress` of `fit`.

    Of several processes the first shows it.

    Args:
      title: text before the bar.
      steps: number the bar ends at.

    Returns:
      A context manager, which yields a function of steps done, last loss and steps a second.
    """
    from rich import progress as bars

    columns = (
        "{task.description}",
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("loss {task.fields[loss]:.4g}  {task.fields[rate]:.3g} steps/s"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, disable=jax.process_index() != 0) as bar:
        task = bar.add_task(title, total=steps, loss=float("nan"), rate=0.0)
        yield lambda step, loss, rate: bar.update(task, completed=step, loss=loss, rate=rate)
