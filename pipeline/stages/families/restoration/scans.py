"""What is said at the start of a training of the scans that its low doses are made from."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from pipeline.config.restoration import LowDoseSettings
from pipeline.data import Case
from pipeline.data.fingerprint import read_statistics
from pipeline.dicom.reconstruction import reduced_noise


def say_scans(cases: Sequence[Case], assumed: Sequence[Case], settings: LowDoseSettings) -> None:
    """Name on standard error the cases whose scan is assumed in part, and those whose photons are overstated.

    Args:
        cases: all that low doses are made for, to train and to validate.
        assumed: those among them whose own noise cannot be read.
        settings: of the low dose.

    Raises:
        DataError: a case's `statistics.json` is missing or damaged.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if assumed:
        names = ", ".join(case.case_id for case in assumed)
        console.print(
            f"low_dose: the own noise of {len(assumed)} of {len(cases)} cases cannot be read, so a kernel is "
            f"assumed where none is given, and photons follow from the noise level: {names}",
            markup=False,
        )
    if settings.photons_per_ray is not None:
        return
    for case in cases:
        family = reduced_noise(read_statistics(case).kernels, None)
        if family is not None:
            console.print(
                f"low_dose: {case.case_id} was reconstructed with less noise ({family}), so its photons are "
                "overstated and its low dose holds too little noise; set low_dose.photons_per_ray, or leave "
                "it out",
                style="yellow",
                markup=False,
            )
