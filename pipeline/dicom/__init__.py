"""DICOM in and out: find and read CT series, write phantom, derived and segmentation series."""

from pipeline.dicom.derivation import DENOISED, Derivation, Purpose, simulated_dose
from pipeline.dicom.derived import DerivedSeriesWriter, reads_back, write_derived_series
from pipeline.dicom.discovery import Discovery, SeriesEntry, check_is_folder, discover
from pipeline.dicom.elements import printable
from pipeline.dicom.encoding import transfer_syntax_name
from pipeline.dicom.geometry import Geometry
from pipeline.dicom.phantom import write_ct_series
from pipeline.dicom.reading import CTSeries, CTSlice, read_series, read_slices
from pipeline.dicom.segmentation import SegmentLabel, write_segmentation
from pipeline.dicom.uids import deterministic_uid
from pipeline.dicom.verdicts import VERDICTS, Code, Finding, Observation, SeriesError, Task, Verdict

__all__ = [
    "DENOISED",
    "VERDICTS",
    "CTSeries",
    "CTSlice",
    "Code",
    "Derivation",
    "DerivedSeriesWriter",
    "Discovery",
    "Finding",
    "Geometry",
    "Observation",
    "Purpose",
    "SegmentLabel",
    "SeriesEntry",
    "SeriesError",
    "Task",
    "Verdict",
    "check_is_folder",
    "deterministic_uid",
    "discover",
    "printable",
    "read_series",
    "read_slices",
    "reads_back",
    "simulated_dose",
    "transfer_syntax_name",
    "write_ct_series",
    "write_derived_series",
    "write_segmentation",
]
