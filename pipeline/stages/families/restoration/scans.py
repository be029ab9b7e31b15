"""What a training has to say of the scans that its low doses are made from."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config.restoration import LowDoseSettings
from pipeline.data import Case
from pipeline.data.fingerprint import read_statistics
from pipeline.dicom.reconstruction import reduced_noise


def scan_remarks(
    cases: Sequence[Case], assumed: Sequence[Case], settings: LowDoseSettings
) -> tuple[str, ...]:
    """A line on the cases whose scan is assumed in part, and one on each case whose photons are overstated.

    Args:
        cases: all that low doses are made for, to train and to validate.
        assumed: those among them whose own noise cannot be read.
        settings: of the low dose.

    Raises:
        DataError: a case's `statistics.json` is missing or damaged.
    """
    remarks = []
    if assumed:
        names = ", ".join(case.case_id for case in assumed)
        remarks.append(
            f"low_dose: the own noise of {len(assumed)} of {len(cases)} cases cannot be read, so a kernel is "
            f"assumed where none is given, and photons follow from the noise level: {names}"
        )
    if settings.photons_per_ray is not None:
        return tuple(remarks)
    for case in cases:
        family = reduced_noise(read_statistics(case).kernels, None)
        if family is not None:
            remarks.append(
                f"low_dose: {case.case_id} was reconstructed with less noise ({family}), so its photons are "
                "overstated and its low dose holds too little noise; set low_dose.photons_per_ray, or leave "
                "it out"
            )
    return tuple(remarks)
