"""Source files handed on byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.dicom.writing import slice_file_name


def link_files(files: Iterable[Path], folder: Path) -> None:
    """Put source files into a new `folder` under neutral names, in their order; a file named twice goes once.

    They are hard links, and copies where the file system has no links.
    """
    folder.mkdir()
    for index, path in enumerate(dict.fromkeys(files)):
        source, target = path.resolve(), folder / slice_file_name(index)
        try:
            target.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, target)
