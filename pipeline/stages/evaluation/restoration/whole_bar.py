"""One progress bar over an evaluation that walks through one list after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import Progress

Item = TypeVar("Item")


class Bar(Protocol):
    """Goes through a list and shows how far it is; `stages.bars.progress` is one."""

    def __call__(self, items: Sequence[Item], what: str, /) -> Iterable[Item]:
        """The items.

        Args:
            items: to go through.
            what: is said beside the bar.
        """


@contextmanager
def whole_bar(seconds: Mapping[str, float]) -> Iterator[Bar]:
    """A bar on standard error, where that is a terminal, over all lists that will be gone through.

    Args:
        seconds: about how long each takes, by what is said of it; a list stopped early counts as done.
    """
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=sum(seconds.values()))

        def bar(items: Sequence[Item], what: str, /) -> Iterable[Item]:
            shown.update(task, description=what)
            done, step = 0, seconds[what] / max(len(items), 1)
            try:
                for item in items:
                    yield item
                    done += 1
                    shown.advance(task, step)
            finally:
                shown.advance(task, seconds[what] - done * step)

        yield bar
