"""A tiny source series, segment labels, an observer and a treatment for the tests of prediction."""

import os
import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pipeline.dicom import Geometry, SegmentLabel, Task, write_ct_series
from pipeline.hu import AIR_HU
from pipeline.inference.treatment import Measured

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
PATIENT = "DOE^JANE"
LABELS = (
    SegmentLabel(
        "body", 1, ("123037004", "SCT", "Anatomical Structure"), ("38266002", "SCT", "Body"), (1, 2, 3)
    ),
    SegmentLabel(
        "bone", 2, ("123037004", "SCT", "Anatomical Structure"), ("272673000", "SCT", "Bone"), (9, 9, 0)
    ),
)


def write_source(folder, uid_seed="a", slices=3):
    """Write a bright block in air; returns the files."""
    hu = np.full((slices, 32, 40), AIR_HU, np.float32)
    hu[:, 8:24, 8:32] = 40
    hu[:, 12:16, 12:16] = 900
    geometry = Geometry((0, 0, 0), (1, 0, 0), (0, 1, 0), (2.0, 0.8, 0.7), hu.shape)
    return write_ct_series(
        hu,
        geometry,
        folder,
        patient_id=PATIENT,
        study_uid="1.2.3",
        series_uid=f"1.2.3.{ord(uid_seed)}",
        frame_of_reference_uid="1.2.4",
        uid_seed=uid_seed,
        series_number=1,
        series_description="test",
        study_datetime=NOW,
        body_part="ABDOMEN",
        kernel="B30",
        kvp=120.0,
        tube_current_ma=100.0,
        exposure_mas=100.0,
        slice_thickness_mm=2.0,
        comment="",
    )


def write_sources(folder, seeds, **options):
    """One series per letter, each in a folder of that name."""
    for seed in seeds:
        write_source(folder / seed, seed, **options)
    return folder


class Silent:
    """Counts what an observer is told."""

    def __init__(self):
        self.total = self.seen = 0
        self.waited_for = []

    def looked_at(self, files):
        pass

    def planned(self, slices, _):
        self.total = slices

    def advanced(self, slices):
        self.seen += slices

    def waiting(self, series):
        self.waited_for.append(series)

    def settled(self, outcome):
        pass


@dataclass(frozen=True, kw_only=True)
class Copying:
    """A treatment that only copies the files of a series, for tests of all that lies around a treatment.

    `log` gets a line per series treated, which tells how often each was. `pause_s` is taken per slice.
    The process of a series whose files hold `deadly` ends, as often as there are files in `lives`.
    """

    log: Path | None = None
    setting: int = 0
    pause_s: float = 0.0
    deadly: bytes = b"\0no file holds this"
    lives: Path | None = None

    command = "predict"
    tasks = (Task.DENOISE,)

    @property
    def recipe(self):
        return {"copying": self.setting}

    def passes(self, slices, **_):
        return slices

    def treat(self, entry, folder, *, on_slices, **_):
        (folder / "copies").mkdir()
        for number, path in enumerate(entry.files, start=1):
            content = path.read_bytes()
            if self.deadly in content:
                self._die_if_alive()
            (folder / "copies" / f"{number:04}.bin").write_bytes(content)
            time.sleep(self.pause_s)
            on_slices(1)
        if self.log is not None:
            with self.log.open("a") as log:
                log.write(f"{folder.name}\n")
        return Measured(noise_sd_hu={"before": 2.0, "after": None}, timings_s={})

    def _die_if_alive(self):
        for life in self.lives.iterdir():
            life.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def remark(self, _):
        return ""

    def write_views(self, target, finished):
        pass
