"""The progress of a job, of a sweep, or of a batch, on a terminal."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from service.client import TERMINAL, Batch, Client, Event, Job, Sweep

ENDED = (*TERMINAL, "deleted")


def follow(client: Client, job_id: str, console: Console) -> Job:
    """Show a bar (step, epoch, loss, accuracy, images a second, time left) until the job has ended;
    without a terminal, a line at each tenth of the way. Returns the job."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),  # all of it fits into 80 columns
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        shown = _Shown(bar, bar.add_task("queued", total=1, figures=""), console)
        for event in client.jobs.events(job_id):
            shown.take(event)
    return client.jobs.get(job_id)


def follow_sweep(client: Client, sweep_id: str, console: Console, *, sort: str | None = None) -> Sweep:
    """Show a bar (members that have ended, how many are in which state, the best so far) until the sweep has
    ended; without a terminal, a line whenever one more has ended. Returns the sweep."""
    with _Counted(console, "members") as counted:
        for sweep in client.sweeps.follow(sweep_id, sort=sort):
            ended = sum(sweep.counts.get(state, 0) for state in ENDED)
            counted.show(sweep.state, ended, sweep.size, _standing(sweep))
    return sweep


def follow_batch(client: Client, batch_id: str, console: Console) -> Batch:
    """Show a bar (images that are answered, and how many of them could not be read) until the batch has ended; without
    a terminal, a line whenever there are more. Returns the batch."""
    with _Counted(console, "images") as counted:
        for batch in client.batches.follow(batch_id):
            errors = batch.counts["errors"]
            figures = f"{errors:,} errors" if errors else ""
            counted.show(batch.state, batch.counts["done"], batch.counts["total"], figures)
    return batch


class _Counted:
    """A bar of things that are done one by one."""

    def __init__(self, console: Console, noun: str) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[figures]}"),
        )
        self._console, self._noun = console, noun
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("queued", total=1, figures="")
        self._done = -1

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, state: str, done: int, total: int, figures: str) -> None:
        self._bar.update(self._task, description=state, completed=done, total=total, figures=figures)
        if self._bar.disable and done != self._done:
            line = f"{state}: {done:,}/{total:,} {self._noun}  {figures}"
            self._console.print(line, highlight=False, markup=False)
        self._done = done


def _standing(sweep: Sweep) -> str:
    """How many members run or went wrong, and the best."""
    told = [
        f"{sweep.counts[state]:,} {state}"
        for state in ("running", "paused", "failed", "cancelled")
        if state in sweep.counts
    ]
    best = next((member for member in sweep.members if member.rank == 1), None)
    if best is not None and sweep.metric is not None:
        value = best.metrics[sweep.metric]
        shown = f"{value:.2%}" if sweep.metric.endswith("accuracy") else f"{value:.4g}"
        told.append(f"best {sweep.metric} {shown}")
    return "  ".join(told)


class _Shown:
    """The line on the screen, and what it says."""

    def __init__(self, bar: Progress, task: TaskID, console: Console) -> None:
        self._bar, self._task, self._console = bar, task, console
        self._accuracy = ""
        self._tenth = 0

    def take(self, event: Event) -> None:
        data = event.data
        if event.type == "status":
            self._bar.update(self._task, description=str(data["state"]))
            self._line(str(data["state"]))
        elif event.type == "metric" and "test_accuracy" in data["metrics"]:
            self._accuracy = f"test {data['metrics']['test_accuracy']:.2%}"
        elif event.type == "progress":
            figures = self._figures(event)
            self._bar.update(self._task, completed=data["step"], total=data["steps"], figures=figures)
            tenth = 10 * data["step"] // max(1, data["steps"])
            if tenth > self._tenth:
                self._tenth = tenth
                self._line(f"step {data['step']:,}/{data['steps']:,}  {figures}")
        elif event.type == "log" and "message" in data:
            self._line(str(data["message"]))
        elif event.type == "warning":
            self._print(f"warning: {data.get('message') or data.get('detail') or data.get('code')}")

    def _figures(self, event: Event) -> str:
        data = event.data
        parts = [f"epoch {data['epoch']:.4g}", f"loss {data['loss']:.4f}", self._accuracy]
        if data.get("images_per_second"):
            parts.append(f"{data['images_per_second'] / 1000:,.0f}k images/s")
        if data.get("eta_seconds"):
            parts.append(f"{data['eta_seconds']:.0f} s left")
        return "  ".join(part for part in parts if part)

    def _line(self, text: str) -> None:
        if self._bar.disable:
            self._print(text)

    def _print(self, text: str) -> None:
        """A line that stays: above the bar, where there is one."""
        self._console.print(text, highlight=False, markup=False)
