"""DICOM in and out: find and read CT series, write phantom, derived and segmentation series."""

from pipeline.dicom.derived import Derivation, write_derived_series
from pipeline.dicom.discovery import Discovery, SeriesEntry, discover
from pipeline.dicom.geometry import Geometry
from pipeline.dicom.phantom import write_ct_series
from pipeline.dicom.reading import CTSeries, read_series
from pipeline.dicom.segmentation import SegmentLabel, write_segmentation
from pipeline.dicom.uids import deterministic_uid
from pipeline.dicom.verdicts import VERDICTS, Code, Finding, Observation, SeriesError, Task, Verdict

__all__ = [
    "VERDICTS",
    "CTSeries",
    "Code",
    "Derivation",
    "Discovery",
    "Finding",
    "Geometry",
    "Observation",
    "SegmentLabel",
    "SeriesEntry",
    "SeriesError",
    "Task",
    "Verdict",
    "deterministic_uid",
    "discover",
    "read_series",
    "write_ct_series",
    "write_derived_series",
    "write_segmentation",
]
