"""What a run over a folder shows on the terminal."""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipeline.dicom import Verdict, printable
from pipeline.inference.outcomes import FINISHED, Outcome

_MOST_LINES: Final = 20
"""More stray files with the same reason codes share one line."""
_NAMED: Final = 3
_SAID: Final = frozenset({"LINKED_FOLDER"})
"""Codes of what is passed over and may still hold images."""


class _Screen(Console):
    """Standard output; where nobody takes it any more, the run goes on in silence."""

    def on_broken_pipe(self) -> None:
        """Instead of ending the process."""
        raise OSError("nobody reads it")


class Terminal:
    """A line per series, and below them a bar of all slices where the output is a terminal.

    Args:
        command: named before the totals.
        about: lines on what does the work, said when there is some.
    """

    def __init__(self, command: str, about: Sequence[str] = ()) -> None:
        self._command = command
        self._about = about
        self._console = _Screen(highlight=False, soft_wrap=True)
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
        self._series: int | None = None
        self._strays: defaultdict[tuple[str, tuple[str, ...]], list[Outcome]] = defaultdict(list)
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._progress.start()
        self._task = self._progress.add_task("files", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._print_strays()
        with suppress(OSError):
            self._progress.stop()
        if self._counts:
            total = ", ".join(f"{count} {verdict}" for verdict, count in sorted(self._counts.items()))
            self.say(f"{self._command}: {total}")
        if self._series is not None and kind is not None and issubclass(kind, KeyboardInterrupt | SystemExit):
            done = sum(self._counts[str(verdict)] for verdict in FINISHED)
            self.say(f"{done} of {self._series} series done; run the same command again to go on")

    def say(self, line: str) -> None:
        """Print a line; where that fails (a closed pipe, a full disk) it is said once, and ends nothing."""
        try:
            self._console.print(line, markup=False)
        except OSError as error:
            self._console.quiet = True
            _discard_output()
            with suppress(OSError):
                sys.stderr.write(f"ldct: no more is shown ({error.strerror or error}); the run goes on\n")
                sys.stderr.flush()

    def looked_at(self, files: int) -> None:
        """Headers are being read."""
        self._show(completed=files)

    def planned(self, slices: int, series: int) -> None:
        """Work begins: the bar counts slices from here on."""
        for line in self._about:
            self.say(line)
        self._print_strays()
        self._series = series
        self._show(description="slices", completed=0, total=slices)

    def advanced(self, slices: int) -> None:
        """Move the bar."""
        self._show(advance=slices)

    def waiting(self, series: int) -> None:
        """Say why nothing happens: the rest of the series are in the hands of other runs."""
        self.say(f"waiting for another run, which works on {series} of the series")

    def settled(self, outcome: Outcome) -> None:
        """Print the line of a series: verdict, where it lies, why it is not `done`, result and its warnings.

        Stray files that are no DICOM only count; those with the same defect share a line where they are many.
        """
        self._counts[str(outcome.verdict)] += 1
        if outcome.series is not None or not outcome.files:
            self._print_line(outcome)
        elif outcome.verdict != Verdict.SKIPPED or not _SAID.isdisjoint(outcome.reason_codes):
            self._strays[str(outcome.verdict), outcome.reason_codes].append(outcome)

    def _print_line(self, outcome: Outcome) -> None:
        where = outcome.series or ("file" if outcome.files else "journal")
        codes = [code for code in outcome.reason_codes if code not in outcome.remark]
        reason = " ".join([*codes, printable(outcome.message)]).strip()
        files = f"  files: {outcome.files}" if outcome.files else ""
        again = " (already done)" if outcome.reused else ""
        line = f"{outcome.verdict:9} {where}{files}{again}"
        self.say("  ".join(filter(None, [line, printable(outcome.place), reason, outcome.remark])))

    def _print_strays(self) -> None:
        for (verdict, codes), strays in self._strays.items():
            if len(strays) <= _MOST_LINES:
                for stray in strays:
                    self._print_line(stray)
                continue
            names = ", ".join(printable(stray.place) for stray in strays[:_NAMED])
            files = sum(stray.files for stray in strays)
            rest = f"{names} and {len(strays) - _NAMED} more"
            self.say(f"{verdict:9} file  files: {files}  {' '.join(codes)} {rest}")
        self._strays.clear()

    def _show(self, **changes: Any) -> None:
        if self._task is not None:
            self._progress.update(self._task, **changes)


def _discard_output() -> None:
    """What is still buffered would fail again as the process ends, and change its exit code."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
