"""What a run over a folder shows on the terminal."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipeline.dicom import Verdict, printable
from pipeline.inference.outcomes import Outcome


class Terminal:
    """A line per series, and below them a bar of all slices where the output is a terminal.

    Args:
        command: named before the totals.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._console = Console(highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._progress.start()
        self._task = self._progress.add_task("files", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._counts:
            total = ", ".join(f"{count} {verdict}" for verdict, count in sorted(self._counts.items()))
            self._console.print(f"{self._command}: {total}")

    def looked_at(self, files: int) -> None:
        """Headers are being read."""
        self._show(completed=files)

    def planned(self, slices: int) -> None:
        """Work begins: the bar counts slices from here on."""
        self._show(description="slices", completed=0, total=slices)

    def advanced(self, slices: int) -> None:
        """Move the bar."""
        self._show(advance=slices)

    def waiting(self, series: int) -> None:
        """Say why nothing happens: the rest of the series are in the hands of other runs."""
        self._console.print(f"waiting for another run, which works on {series} of the series")

    def settled(self, outcome: Outcome) -> None:
        """Print the line of a series: verdict, why it is not `done`, result and its warnings.

        Stray files that are no DICOM only count.
        """
        verdict = str(outcome.verdict)
        self._counts[verdict] += 1
        if outcome.series is None and outcome.verdict == Verdict.SKIPPED:
            return
        where = outcome.series or ("file" if outcome.files else "journal")
        codes = [code for code in outcome.reason_codes if code not in outcome.remark]
        reason = " ".join([*codes, printable(outcome.message)]).strip()
        files = f"  files: {outcome.files}" if outcome.files else ""
        again = " (already done)" if outcome.reused else ""
        line = f"{verdict:9} {where}{files}{again}"
        self._console.print("  ".join(filter(None, [line, reason, outcome.remark])), markup=False)

    def _show(self, **changes: Any) -> None:
        if self._task is not None:
            self._progress.update(self._task, **changes)
