"""A tiny source series and segment labels for the tests of prediction."""

from datetime import UTC, datetime

import numpy as np

from pipeline.dicom import Geometry, SegmentLabel, write_ct_series
from pipeline.hu import AIR_HU

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
