"""Keys as words and values as text, with the digits that their quantity deserves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

DECIMALS: Final = {"db": 2, "hu": 2, "ssim": 4, "dice": 3, "mmd": 4, "mmd2": 4, "mm": 2, "ml": 1, "nats": 1}
"""Digits behind the point, by a part of the key."""
DEFAULT_DECIMALS: Final = 4
UNITS: Final = {"db": "[dB]", "hu": "[HU]", "mm": "[mm]", "ml": "[ml]", "s": "[s]", "nats": "[nats]"}
CAPITALS: Final = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "rmse": "RMSE",
    "sd": "SD",
    "hu": "HU",
    "kl": "KL",
    "elbo": "ELBO",
    "mmd": "MMD",
    "mmd2": "MMD²",
    "dice": "Dice",
}


def words(key: str) -> str:
    """A key as a person writes it: `noise_sd_hu` is `noise SD [HU]`."""
    parts = str(key).split("_")
    if len(parts) > 1 and parts[-1] in UNITS:
        parts[-1] = UNITS[parts[-1]]
    return " ".join(CAPITALS.get(part, part) for part in parts)


def decimals(quantity: str) -> int:
    """Digits behind the point for a quantity: its last part that is known decides."""
    known = [DECIMALS[part] for part in quantity.split("_") if part in DECIMALS]
    return known[-1] if known else DEFAULT_DECIMALS


def text(value: Any, quantity: str = "") -> str:
    """A value as a table shows it: rounded for its quantity, else to four digits; a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _rounded(value, quantity)
    if isinstance(value, Mapping):
        return ", ".join(f"{words(key)} {text(item, f'{quantity}_{key}')}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(text(item, quantity) for item in value)
    return str(value)


def _rounded(value: float, quantity: str) -> str:
    if any(part in DECIMALS for part in quantity.split("_")):
        digits = decimals(quantity)
        return f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: no minus before a zero
    return f"{value:,.1f}" if abs(value) >= 1e4 else f"{value:.4g}"
