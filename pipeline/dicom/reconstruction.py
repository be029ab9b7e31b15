"""Reconstructions that are not filtered back-projection, by what headers call them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import Final

_KERNELS: Final = {
    "SAFIRE": r"[IJ]\d{2}[a-z]([\\ ][1-5])?",
    "ADMIRE or QIR": r"[A-Z][a-z]\d{2}[a-z]?[\\ ][1-5]",
    "ASiR": r"AR\d{2,3}",
}
"""Whole ConvolutionKernels, capitals as they stand: a kernel of Siemens ends in the strength, 1 to 5."""

_WORDS: Final = {
    "SAFIRE, ADMIRE or QIR": r"SAFIRE|ADMIRE|\bIRIS\b|\bQIR\b",
    "ASiR or Veo": r"\bASIR(?!(-?V)? ?0+ ?%)|\bVEO\b|\bSS[1-9]\d{1,2}\b",
    "TrueFidelity": r"TRUE ?FIDELITY|\bDLIR|\bDL-?[LMH]\b",
    "AIDR or FIRST": r"\bE?AIDR|\bFIRST (BODY|BONE|BRAIN|CARDIAC|LUNG)"
    r"(?= *($|[\d(,;/]|(MILD|ST(AN)?D|STRONG|SHARP)))",
    "AiCE or PIQE": r"\bAICE|\bPIQE",
    "iDose or IMR": r"\bI-?DOSE|\bIMR\d?\b",
    "Precise Image": r"\bPRECISE ?IMAGE",
    "ClariCT, PixelShine, SafeCT or SubtleCT": r"CLARI ?CT|PIXEL ?SHINE|\bSAFE ?CT|SUBTLE ?CT",
    "iterative or learned": r"(?<!NON[- ])\bITERATIVE|DEEP ?(LEARNING|RECON)"
    r"|\bMBIR\b|CLEARVIEW|\bKARL ?3D|INTELLI ?IP",
    "noise-reducing": r"(?<!UN)(?<!UN-)(?<!NON)(?<!NON[- ])(?<!NOT )DENOIS",
}
"""By words in a kernel's name or a description, programs that denoise finished images among them.

What says that nothing was done (`ASiR 0%`, `non-iterative`, `undenoised`) and what is a word of daily life
(`First lung cancer screening`, a protocol named after Karl) is left out; `SS40` is GE's for ASiR at 40 %."""


def reduced_noise(kernels: Iterable[str], description: str | None) -> str | None:
    """The family of the reconstruction, where a name tells of one that lowers the noise; else None.

    Args:
        kernels: ConvolutionKernel, each that a series names.
        description: SeriesDescription; None where absent.
    """
    named = tuple(kernels)
    text = "\n".join([*named, description or ""]).replace("_", " ")
    by_kernel = (name for name, whole in _KERNELS.items() if any(re.fullmatch(whole, one) for one in named))
    by_words = (name for name, word in _WORDS.items() if re.search(word, text, re.IGNORECASE | re.MULTILINE))
    return next(chain(by_kernel, by_words), None)
