"""Tiny ingested cases for the tests of training: a noisy disc with an organ in it."""

import numpy as np

from pipeline.data import Case, write_index, write_volume
from pipeline.data.fingerprint import CaseStatistics, count_hu, write_statistics

ORGAN = 5


def write_cases(
    folder,
    *,
    slices=3,
    side=48,
    roles=("train", "train", "validation", "test"),
    noise_hu=40.0,
    low_dose=True,
    sources=None,
):
    """Write cases and their index; returns the cases. Mask: 2 body, 5 organ, 15 table.

    `low_dose=False`: cases of a normal dose alone. `sources`: one for each case, all `phantoms` by default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:side, :side]
    cases = []
    for number, role in enumerate(roles):
        rng = np.random.default_rng(number)
        truth = np.full((slices, side, side), -1000.0)
        mask = np.zeros((slices, side, side), np.uint8)
        body = (rows - side / 2) ** 2 + (columns - side / 2) ** 2 < (0.4 * side) ** 2
        organ = (rows - side / 2) ** 2 + (columns - side * (0.4 + 0.03 * number)) ** 2 < (0.15 * side) ** 2
        truth[:, body], mask[:, body] = 0, 2
        truth[:, organ], mask[:, organ] = 120, ORGAN
        mask[:, -2:] = 15
        case = Case(
            case_id=f"case{number}",
            patient_id=f"patient{number}",
            role=role,
            anatomy="abdomen",
            dose_fraction=0.25,
            noise="independent",
            spacing_mm=(3.0, 2.0, 2.0),
            shape=(slices, side, side),
            folder=folder / f"case{number}",
            has_mask=True,
            has_truth=True,
            has_low_dose=low_dose,
            source=sources[number] if sources else "phantoms",
        )
        case.folder.mkdir(exist_ok=True)
        for name, sd in (("truth", 0), ("normal_dose", noise_hu / 2), ("low_dose", noise_hu)):
            if name == "low_dose" and not low_dose:
                continue
            volume = np.rint(truth + sd * rng.standard_normal(truth.shape)).clip(-1024)
            write_volume(case.folder / f"{name}.nii", volume, np.eye(4), np.int16)
        write_volume(case.folder / "mask.nii", mask, np.eye(4), np.uint8)
        noise_sd_hu = {"normal_dose": noise_hu / 2, "low_dose": noise_hu if low_dose else None}
        write_statistics(case, CaseStatistics((), None, noise_sd_hu, count_hu(case.normal_dose())))
        cases.append(case)
    write_index(folder, cases)
    return cases
