"""Words beside a number that is worse than what it should beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pipeline.report.numbers import decimals, words

INPUT: Final = "input"
RESTORED: Final = "restored"
LOW_DOSE: Final = "low_dose"
SMALLER_IS_BETTER: Final = ("noise", "rmse")
SCORES: Final = ("psnr_db", "ssim", "rmse_hu")


def remarks_on(rows: Mapping[str, Mapping[str, Any]], quantity: str) -> dict[str, str]:
    """What to say about rows of a table of scores; rows without a word are left out.

    Methods in rows: each against the input, the network also against the baselines. Methods in columns
    (noise and bias of a tissue) and doses in rows (Dice): the restored image against the input.

    Args:
        rows: values by column, for each row.
        quantity: what the table is about, e.g. `noise_sd_hu`.
    """
    if INPUT in rows:
        said = {name: _on_method(name, rows) for name in rows if name != INPUT}
    elif LOW_DOSE in rows and RESTORED in rows:
        said = {RESTORED: _against(LOW_DOSE, rows[RESTORED], rows[LOW_DOSE], quantity)}
    else:
        said = {name: _on_tissue(row, quantity) for name, row in rows.items()}
    return {name: remark for name, remark in said.items() if remark}


def _on_method(name: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    rivals = [rival for rival in rows if rival != name] if name == RESTORED else [INPUT]
    scores = {rival: {key: rows[rival][key] for key in SCORES if key in rows[rival]} for rival in rivals}
    return "; ".join(filter(None, (_against(rival, rows[name], scores[rival], "") for rival in rivals)))


def _on_tissue(row: Mapping[str, Any], quantity: str) -> str:
    if INPUT not in row or RESTORED not in row:
        return ""
    return f"{RESTORED} worse than {INPUT}" if _is_worse(row[RESTORED], row[INPUT], quantity) else ""


def _against(rival: str, row: Mapping[str, Any], other: Mapping[str, Any], quantity: str) -> str:
    worse = [key for key in other if key in row and _is_worse(row[key], other[key], f"{quantity}_{key}")]
    names = ", ".join(words(key).partition(" [")[0] for key in worse)
    return f"worse than {words(rival)} ({names})" if worse else ""


def _is_worse(value: float | None, other: float | None, quantity: str) -> bool:
    """Whether the printed value is worse than the other, as printed; a bias is better nearer to 0."""
    if value is None or other is None:
        return False
    value, other = (round(number, decimals(quantity)) for number in (value, other))
    if "bias" in quantity:
        return abs(value) > abs(other)
    return value > other if any(word in quantity for word in SMALLER_IS_BETTER) else value < other
