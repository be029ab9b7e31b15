"""What each reason code means, in one line for people who read a journal."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # What headers and pixels tell (pipeline/dicom/verdicts.py)
        "NOT_DICOM": "no DICOM file",
        "NOT_AN_IMAGE": "DICOM without an image, such as a report or a plan",
        "UNREADABLE": "empty, cut short, gone or not allowed to be read; it may be one of the missing slices",
        "LINKED_FOLDER": "a link to a folder, which is not followed",
        "NOT_CT": "no CT image",
        "LOCALIZER": "a localizer",
        "MISSING_UID": "the identifiers that every image must have are missing",
        "DUPLICATE_UID": "slices that share an identifier: no segmentation could refer to them",
        "MULTI_FRAME": "enhanced CT whose frames cannot be told as single images",
        "ENHANCED": "enhanced CT; convert it to single-frame CT for this",
        "NOT_HU": "the stored values have no known relation to HU",
        "INEXACT_HU": "more bits or a finer slope than float32 HU can hold",
        "UNUSUAL_BITS": "the stored bits lie elsewhere than the standard has them",
        "TOO_LARGE": "more pixels than any CT image has",
        "UNSUPPORTED_TRANSFER_SYNTAX": "compressed in a way that nothing here decodes",
        "CORRUPT_PIXEL_DATA": "pixels missing, cut short, unlike their header, or too much for their decoder",
        "DUPLICATE_POSITION": "two slices at one position, and nothing tells them apart",
        "NO_GEOMETRY": "position, orientation or pixel spacing is missing or invalid",
        "IMAGE_ORIENTATION_INCONSISTENT": "the slices share no orientation",
        "GANTRY_TILT": "slices stacked askew: no regular volume",
        "MISSING_SLICE": "a slice is missing: no regular volume",
        "SLICE_INCREMENT_INCONSISTENT": "slices at irregular distances: no regular volume",
        "TOO_FEW_SLICES": "a single slice: no volume",
        "DENOISED": "denoised by this product: use the series it was made from",
        "PROCESSED": "simulated or projected images: their noise is not that of a scan",
        "LOSSY": "lossy compression or too few bits: the noise is not that of a scan",
        "NOT_AXIAL": "reformatted to another plane: the noise is not that of a scan",
        "NON_SQUARE_PIXELS": "row and column spacing differ: the noise is not that of a scan",
        # What happened in the run
        "DISK_FULL": "no space left for the results; free some and run again",
        "NOT_WRITABLE": "the folder of the results was read-only or gone",
        "SOURCE_VANISHED": "a source file disappeared during the run",
        "SOURCE_CHANGED": "a source file changed during the run; run again",
        "OUTPUT_MISSING": "files of the result are gone or of another size; run again",
        "EARLIER_RESULT": "the result of an earlier run is kept; look at why this run has none",
        "VIEWS_NOT_WRITTEN": "the journal could not be brought up to date; run again",
        "UNEXPECTED_ERROR": "failed for a reason that no other code names",
        # Denoising and segmenting
        "NOTHING_SEGMENTED": "the segmenter saw background only: there is no segmentation",
        "OTHER_TRAINING": "the denoiser was not trained on low dose",
        "UNFAMILIAR": "unlike what the network was trained on",
        "UNFAMILIAR_PASSED": "passed through as it was, for it is unlike what the network was trained on",
        "UNFAMILIAR_ANATOMY": "another part of the body than the network was trained on",
        "UNFAMILIAR_HU": "CT numbers on another scale, or of another kind of object",
        "METAL": "metal, and with it streaks that the network was not trained on",
        "ALREADY_DENOISED": "an iterative or learned reconstruction, whose noise is lowered already",
        "UNFAMILIAR_NOISE": "more or less noise than the network was trained on",
        "UNFAMILIAR_SPACING": "larger or smaller pixels than the network was trained on",
        "UNFAMILIAR_THICKNESS": "thicker or thinner slices than the network was trained on",
        "UNFAMILIAR_KERNEL": "another reconstruction kernel than the network was trained on",
        "TOO_SMALL": "slices smaller than the network takes",
        "NEIGHBOURS_UNKNOWN": "no regular grid, so the neighbours that the denoiser sees are not known",
        "NOISE_UNKNOWN": "too little soft tissue to measure the noise that the denoiser has to be told",
        "NOT_FINITE": "the network gave values that are no numbers",
        "NIFTI_TOO_LONG": "more slices, rows or columns than a NIfTI file can count",
        # Simulated doses
        "MISSING_DOSE_TAGS": "no kVp, exposure or thickness to take the photons from",
        "NO_NOISE": "less noise than rounding makes: nothing to take the photons from",
        "FIELD_TOO_WIDE": "the field of view reaches beyond the fan",
        "NOTHING_SHOWN": "all pixels are padding",
        "FLUX_DISAGREES": "photons from the image and from the tags differ",
        "FLUX_FROM_TAGS": "the photons come from the tags",
        "IMPLAUSIBLE_TAGS": "exposure or thickness not believed",
        "ITERATIVE_KERNEL": "an iterative or learned reconstruction, whose noise follows other laws",
        "FEW_UNIFORM_REGIONS": "too little uniform tissue to measure the noise in",
        "MORE_ANATOMY_THAN_NOISE": "more anatomy than noise in uniform tissue",
        "POOR_TEXTURE_FIT": "a noise texture that filtered back-projection does not have",
        "PATIENT_BY_STUDY": "no patient ID: the study stands for the patient",
    }
)
