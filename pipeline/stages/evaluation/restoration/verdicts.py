"""What the scores of a denoiser come to, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from pipeline.stages.evaluation.context import INPUT, RESTORED

PROMISED_UP_TO: Final = 0.4
"""Up to this dose no slice should come out worse than it went in; above, there is little noise to remove."""

ROUNDING_DB: Final = 1e-3
"""HU to network units and back cost less: a network that changes nothing is not below its input."""


def verdict(scores: Mapping[str, Mapping[str, float]], convention_name: str) -> str:
    """One sentence: does the model beat its input and the baselines?

    Args:
        scores: `psnr_db` and `gain_db` for each method, `input` and `restored` among them.
        convention_name: of the scores.
    """
    gain = round(scores[RESTORED]["gain_db"], 2)
    if math.isnan(gain):
        return f"NOT DECIDED: its gain over its input is no number (PSNR, {convention_name})"
    if gain <= 0:
        word = "WORSE THAN" if gain < 0 else "no better than"
        return f"{word} its input: {gain:+.2f} dB (PSNR, {convention_name}); do not use this model"
    better = [
        name
        for name in scores
        if name not in (INPUT, RESTORED) and scores[name]["psnr_db"] >= scores[RESTORED]["psnr_db"]
    ]
    rank = f"but {' and '.join(better)} did as well or better" if better else "and beats every baseline"
    return f"gains {gain:.2f} dB over its input (PSNR, {convention_name}) {rank}"


def below_input_verdict(below: Mapping[float, int], slices: int, convention_name: str) -> str:
    """One sentence: does any slice come out worse than it went in?

    Args:
        below: how many slices do, by dose fraction.
        slices: how many there are at each dose.
        convention_name: of the PSNR that they are compared by.
    """
    promised = {dose: count for dose, count in below.items() if dose <= PROMISED_UP_TO}
    others = {dose: count for dose, count in below.items() if dose > PROMISED_UP_TO}
    parts = []
    if promised and not any(promised.values()):
        parts.append(f"no slice below its input up to {max(promised):.0%} dose")
    elif promised:
        parts.append(f"SLICES BELOW THEIR INPUT: {_counted(promised, slices)}")
    if others:
        parts.append(f"above {PROMISED_UP_TO:.0%} dose: {_counted(others, slices)} below their input")
    return f"{'; '.join(parts)} (PSNR, {convention_name})"


def _counted(below: Mapping[float, int], slices: int) -> str:
    return ", ".join(f"{count} of {slices} at {dose:.0%}" for dose, count in below.items())
