"""Real pairs: find the two doses of one scan in a folder of DICOM, whatever its layout."""

from pipeline.data.archives.checking import Remark, check_manifest
from pipeline.data.archives.layouts import Layout
from pipeline.data.archives.scanning import Pair, Pseudonym, Scan, manifest_case, scan_archive
from pipeline.data.archives.series import ArchivedSeries, Refusal
from pipeline.data.archives.splits import make_splits, patients_in_both

__all__ = [
    "ArchivedSeries",
    "Layout",
    "Pair",
    "Pseudonym",
    "Refusal",
    "Remark",
    "Scan",
    "check_manifest",
    "make_splits",
    "manifest_case",
    "patients_in_both",
    "scan_archive",
]
