"""Thousands of damaged files through a whole run: none crashes it, none hangs it, none gets lost."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pydicom
import pytest
from pydicom.config import disable_value_validation

from pipeline.dicom import (
    Code,
    Derivation,
    DerivedSeriesWriter,
    Task,
    discover,
    read_series,
    read_slices,
    reads_back,
)
from pipeline.inference.folder import run_folder
from pipeline.inference.output.pseudonyms import Pseudonyms
from pipeline.inference.treatment import Measured
from tests.dicom_factory import make_slice, save
from tests.fuzz_cases import MUTATIONS, bases, damaged
from tests.predict_cases import NOW, Silent

FILES = 5000
IN_A_SERIES = 0.9
"""So many files have a series of their own; the others share theirs with up to three."""

DERIVATION = Derivation("copy", "1", "0" * 64, {"strength": 0.0}, "1.0")


@dataclass(frozen=True)
class Rewriting:
    """Reads every slice and writes it again, as cheap as a treatment can be."""

    command = "fuzz"
    tasks = (Task.DENOISE,)
    recipe = {"fuzz": 1}  # noqa: RUF012  never changed

    def passes(self, slices, **_):
        return 2 * slices

    def treat(self, entry, folder, *, clock, on_slices, **_):
        digests = [one.content_digest for one in read_slices(entry)]
        on_slices(len(digests))
        writer = DerivedSeriesWriter(entry, digests, folder / "copy", derivation=DERIVATION, now=clock)
        for index, one in enumerate(read_slices(entry)):
            assert np.isfinite(one.hu).all()
            assert reads_back(writer.write(index, one, one.hu), one, one.hu)
            on_slices(1)
        return Measured(noise_sd_hu={})

    def remark(self, _record):
        return ""

    def write_views(self, *_):
        pass


def run(source, target):
    return run_folder(
        source,
        target,
        Rewriting(),
        pseudonyms=Pseudonyms(b"0" * 32),
        now=NOW,
        fixed_clock=None,
        observer=Silent(),
    )


def journal(target):
    _, *lines = [json.loads(line) for line in (target / "journal.jsonl").read_text().splitlines()]
    return lines


def test_the_files_to_be_damaged_are_sound(tmp_path):
    for base in bases(tmp_path):
        folder = tmp_path / "in" / base.name
        folder.mkdir(parents=True)
        (folder / "a").write_bytes(damaged(random.Random(0), base, 1, series=1, kinds=()))  # noqa: S311
        found = discover(folder)
        if base.name == "report":
            assert [finding.code for finding in found.findings] == [Code.NOT_AN_IMAGE]
            continue
        (entry,) = found.series
        decoded = pydicom.dcmread(folder / "a").pixel_array.reshape(-1, entry.rows, entry.columns)
        series = read_series(entry)
        for index, frame in enumerate(entry.frames):
            wanted = entry.rescales[index].to_hu(decoded[frame or 0])
            shown = ~series.padding[index]
            np.testing.assert_array_equal(series.hu[index][shown], wanted[shown])


@pytest.mark.slow
def test_damaged_files_neither_crash_nor_hang_nor_get_lost(tmp_path):
    rng = random.Random(20260504)  # noqa: S311  damage, no secrets
    intact = bases(tmp_path)
    shared = 0
    for number in range(FILES):
        if rng.random() < IN_A_SERIES:
            series = FILES + number
        else:
            series, shared = shared // 4, shared + 1
        base = intact[series % len(intact)] if series < FILES else rng.choice(intact)
        path = tmp_path / "in" / f"{number % 50:02d}" / f"{number:05d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        kinds = rng.sample(MUTATIONS, rng.choice((1, 1, 2)))
        path.write_bytes(damaged(rng, base, number, series=series, kinds=kinds))
    started = time.monotonic()
    outcomes = run(tmp_path / "in", tmp_path / "out")
    seconds = time.monotonic() - started
    lines = journal(tmp_path / "out")
    verdicts = Counter(line["verdict"] for line in lines)
    codes = Counter(code for line in lines for code in line["reason_codes"])
    print(f"{seconds:.0f} s, {dict(verdicts)}, {dict(codes)}")  # noqa: T201
    assert sum(line["files"] for line in lines) == FILES
    assert sum(outcome.files for outcome in outcomes) == FILES
    assert codes["UNEXPECTED_ERROR"] == 0, [
        one.message for one in outcomes if "UNEXPECTED_ERROR" in one.reason_codes
    ]
    assert all("\n" not in outcome.message for outcome in outcomes)
    assert min(verdicts[verdict] for verdict in ("done", "slicewise", "refused", "failed", "skipped")) > 0
    again = run(tmp_path / "in", tmp_path / "out")
    assert Counter(one.verdict for one in again) == Counter(one.verdict for one in outcomes)


HOSTILE_UIDS = {
    "parent": "../../../../../../../../../../../..{outside}",
    "absolute": "{outside}",
    "root": "/",
    "dot": ".",
    "null": "1.2\0/../3",
    "line": "1.2\n.3",
    "long": "1." * 5000,
    "home": "~/x",
    "wildcard": "*",
    "terminal": "\x1b[2J",
}


@pytest.mark.parametrize("name", HOSTILE_UIDS)
def test_uids_that_look_like_paths_never_reach_one(tmp_path, name):
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
    outside = tmp_path / "escaped"
    uid = HOSTILE_UIDS[name].format(outside=outside)
    with disable_value_validation():
        save(make_slice(**dict.fromkeys(uids, uid)), tmp_path / "in" / "a")
    save(make_slice(), tmp_path / "in" / "b")
    before = set(tmp_path.rglob("*"))
    outcomes = run(tmp_path / "in", tmp_path / "out")
    assert sum(outcome.files for outcome in outcomes) == 2
    assert not list(tmp_path.glob("escaped*"))
    written = {path.relative_to(tmp_path / "out") for path in set(tmp_path.rglob("*")) - before}
    names = {part for path in written for part in path.parts}
    assert all(re.fullmatch(r"[.\w-]+", name, re.ASCII) for name in names)
    series = [path.parent for path in written if path.name == "series.json"]
    assert series
    assert all(re.fullmatch(r"study-[0-9a-f]{12}/series-[0-9a-f]{12}", path.as_posix()) for path in series)
