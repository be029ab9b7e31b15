"""What `ldct evaluate` writes of a denoiser on made low doses: whole, small, and the same at every dose."""

from __future__ import annotations

import copy
import json

from pipeline.manifest import file_sha256
from tests.conftest import CHECKOUT
from tests.tiny_bundles import denoiser_bundle

CONVENTIONS = ("redcnn", "full")
CEILINGS_DB = {0.6: 2.2185, 0.4: 3.9794, 0.25: 6.0206, 0.1: 10.0}
DOSES = (0.4, 0.25, 0.1)
BASELINES = {"gaussian": 1.0, "nlm": 1.5, "tv": 2.0}
"""With their gain in dB."""
TISSUES = ("body", "soft_tissue", "bone", "fat")


def scores(
    *,
    gain_db=3.0,
    below=0,
    bias_hu=0.4,
    patients=2,
    kernel="B40f",
    l1_distance=0.12,
    doses=DOSES,
    baselines=BASELINES,
    **more,
):
    """Of patients with three slices each, `below` of which fall below their input at every dose."""
    own = {
        f"dose_{dose:g}": at_dose(
            CEILINGS_DB[dose],
            gain_db=gain_db,
            below=below,
            bias_hu=bias_hu,
            patients=patients,
            kernel=kernel,
            l1_distance=l1_distance,
            baselines=baselines,
        )
        for dose in doses
    }
    gain = {"input_psnr_db": 30.0, "restored_psnr_db": 30 + gain_db, "gain_db": gain_db}
    listed = {f"case/{index}": -0.1 * (index + 1) for index in range(below)}
    found = {
        "model_hash": denoiser_bundle().model_hash,
        "settings_sha256": file_sha256(CHECKOUT / "configs" / "reference" / "evaluate.yaml"),
        "verdict": "",
        "patients": patients,
        "slices": 3 * patients,
        "conventions": dict.fromkeys(CONVENTIONS, "a window"),
        "by_patient": {
            key: {f"patient {index}": {"normal_dose": gain} for index in range(patients)} for key in own
        },
        "doses": own,
        "below_input": dict.fromkeys(own, listed) if below else {},
        "detectability": {"not_measured": "no uniform tissue"},
        "ttf": {"not_measured": "no uniform tissue"},
        "cases_left_out": {},
        "tuning_cases_left_out": {},
        **more,
    }
    return json.loads(json.dumps(found))  # no part is shared


def at_dose(ceiling_db, *, gain_db, below, bias_hu, patients, kernel, l1_distance, baselines):
    rows = {"input": {"psnr_db": 30.0, "ssim": 0.8, "rmse_hu": 20.0}}
    rows |= {
        name: {"psnr_db": 30 + own, "ssim": 0.9, "rmse_hu": 12.0, "gain_db": own}
        | {"gain_95_low_db": own - 0.5, "gain_95_high_db": own + 0.5}
        for name, own in {"restored": gain_db, **baselines}.items()
    }
    rows["restored"] |= {"ssim": 0.95, "rmse_hu": 11.0}
    group = {"patients": patients, "slices": 3 * patients}
    gain = {"input_psnr_db": 30.0, "restored_psnr_db": 30 + gain_db, "gain_db": gain_db}
    group |= dict.fromkeys(CONVENTIONS, gain)
    nps = {"regions": 40, "noise_sd_hu": 9.0, "peak_per_mm": 0.25, "peak_shift_per_mm": -0.01}
    nps |= {"mean_per_mm": 0.31, "mean_shift_per_mm": -0.03, "l1_distance": l1_distance}
    bias = {"normal_dose": 0.0, "input": 0.1, "restored": bias_hu, **dict.fromkeys(baselines, 0.2)}
    worst = {name: 2 * own for name, own in bias.items()}
    return {
        "gain_ceiling_db": ceiling_db,
        "clean_output_gain_db": ceiling_db - 1,
        "baselines": dict.fromkeys(baselines, 1.0),
        "baselines_at_grid_end": {},
        "slices_below_input": below,
        "worst_gain_db": gain_db - 1,
        "verdict": "",
        "against_normal_dose": dict.fromkeys(CONVENTIONS, rows),
        "bias_against_normal_dose_hu": dict.fromkeys(TISSUES, bias),
        "worst_patient_bias_against_normal_dose_hu": dict.fromkeys(TISSUES, worst),
        "noise_texture": {
            "normal_dose": nps | {"mean_shift_per_mm": 0.0},
            "input": nps | {"mean_shift_per_mm": 0.0},
            **dict.fromkeys(("restored", *baselines), nps),
        },
        "by_source": {"tcga_lung": group},
        "by_anatomy": {"chest": group},
        "by_kernel": {kernel: group},
        "by_texture": {"medium": group},
        "by_thickness": {"2 to 4 mm": group},
        "by_scan": {"read from the images": group},
    }


def lesions(verdict="kept"):
    """At two doses to two observers; `verdict` is that of NPW at 25 %."""
    seen = {"d_prime": 2.0, "d_prime_95_low": 1.8, "d_prime_95_high": 2.2}
    seen |= {"auc": 0.92, "auc_95_low": 0.9, "auc_95_high": 0.94}
    found = {
        "lesion": {"contrast_hu": 10.0, "diameter_mm": 6.0, "blurred_by": "the scan's kernel"},
        "observers": {"npw": "matched filter", "cho": "channels"},
        "realisations": 100,
        "places": 8,
        "verdict": {dose: dict.fromkeys(("npw", "cho"), "kept") for dose in ("0.25", "0.1")},
        "by_dose": {},
        "by_case": {},
        "left_out": {},
    }
    compared = {**seen, "change": -0.4, "change_95_low": -0.6, "change_95_high": -0.2, "verdict": "kept"}
    for dose in ("0.25", "0.1"):
        found["by_dose"][dose] = {
            observer: {"input": dict(seen)} | {name: dict(compared) for name in ("restored", *BASELINES)}
            for observer in ("npw", "cho")
        }
    return with_verdict(found, verdict, "0.25", "npw")


def with_verdict(found, verdict, dose, observer):
    """The same lesions with another verdict on the network, in both places where it stands."""
    found["by_dose"][dose][observer]["restored"]["verdict"] = verdict
    found["verdict"][dose][observer] = verdict
    return found


def edges(f50_share, doses=DOSES):
    """At all doses and contrasts; the share is that at 25 % and 50 HU."""
    left = {"f50_share": 1.0, "contrast_share": 0.98}
    by_dose = {
        f"{dose:g}": {
            contrast: {name: dict(left) for name in ("restored", *BASELINES)}
            for contrast in ("50", "100", "300")
        }
        for dose in doses
    }
    by_dose["0.25"]["50"]["restored"]["f50_share"] = f50_share
    return {
        "disc": {"radius_mm": 8.0, "background_hu": 40.0, "blurred_by": "the scan's kernel"},
        "realisations": 20,
        "by_dose": by_dose,
        "by_case": {"one": {}},
        "left_out": {},
    }


def damaged(values, keys, value):
    """The same with one value changed; `...` takes it out."""
    found = copy.deepcopy(values)
    below = found
    for key in keys[:-1]:
        below = below[key]
    if value is ...:
        del below[keys[-1]]
    else:
        below[keys[-1]] = value
    return found
