"""The denoiser beside BM3D on sources that its training did not see: `python benchmarks/against_bm3d.py`.

    python benchmarks/against_bm3d.py [--models models/reference] [--cases data/reference/cases] [--slices 1]
                                      [--cases-per-source 4]

`ldct evaluate` leaves BM3D out of the model card: it takes many seconds a slice. Here each training without
a source (`denoiser_without_*`) and BM3D restore slices of that source at 25 and 10 % of its dose, made as in
the evaluation: the network in torch and float32, both told the noise level of the series. Gains are PSNR over
the input's, against the normal dose, the mean over slices.

BM3D assumes white noise. That of CT is correlated, and told the level itself, BM3D keeps much of it. So it is
told a multiple of the level, at each dose the one of `SHARES` with the best mean PSNR on the middle slices of
up to three validation cases of other sources. Its package also takes a power spectrum, which is not measured:
one standard deviation is what people run.

Needs the extra `benchmarks`, whose licence is non-commercial. Writes `benchmarks/results/bm3d.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import torch
from engines import LOW_DOSES
from run import CHECKOUT, machine

from pipeline.bundle import Bundle, load_bundle
from pipeline.data import Case, read_cases
from pipeline.data.patches import spread_slices
from pipeline.errors import PipelineError
from pipeline.export import installed
from pipeline.metrics import convention, psnr
from pipeline.models.baselines import block_matching
from pipeline.stages.bars import progress
from pipeline.stages.evaluation.context import Slice, denoiser_of
from pipeline.stages.evaluation.restoration.low_doses import Scan, scans_of

SHARES = (1.5, 2.0, 2.5, 3.0)
"""Of the series' noise level: what BM3D is told. Made for white noise, on CT it is best at 2 to 3."""
TUNING_CASES = 3
CONVENTIONS = ("redcnn", "full")
"""The first decides the tuning."""
ASSUMPTION = "BM3D is told one standard deviation, as if noise were white; it is given no power spectrum"
CPU = torch.device("cpu")

Decibels = dict[str, float]
"""By convention."""


def main() -> None:
    """Measure, print the table and keep the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=Path("models/reference"))
    parser.add_argument("--cases", type=Path, default=Path("data/reference/cases"))
    parser.add_argument("--slices", type=int, default=1, help="of each case")
    parser.add_argument("--cases-per-source", type=int, default=4)
    options = parser.parse_args()
    if not installed("bm3d"):
        raise SystemExit(
            "the package bm3d is not installed: pip install bm3d if your use is non-commercial, as its "
            "licence asks"
        )
    try:
        result = measure(options.models, options.cases, options.slices, options.cases_per_source)
    except PipelineError as problem:
        raise SystemExit(str(problem)) from None
    text = json.dumps(result, indent=2) + "\n"
    (CHECKOUT / "benchmarks" / "results" / "bm3d.json").write_text(text, encoding="utf-8")
    print("\n".join(table(result["rows"])))


def measure(models: Path, folder: Path, slices: int, cases_per_source: int) -> dict[str, Any]:
    """The whole result, as it is written.

    Args:
        models: folder with `denoiser_without_*/bundle.safetensors`.
        folder: of the ingested cases.
        slices: of each held-out case.
        cases_per_source: at most, evenly spread over the source's cases.
    """
    paths = sorted(models.glob("denoiser_without_*/bundle.safetensors"))
    if not paths:
        raise SystemExit(f"{models}: no denoiser_without_*/bundle.safetensors; train without a source first")
    cases = read_cases(folder)
    folds = [Fold.of(load_bundle(path, "denoiser"), cases, cases_per_source) for path in paths]
    wanted = {case.case_id: case for fold in folds for case in (*fold.held_out, *fold.validation)}
    scans = usable_scans(list(wanted.values()))
    trials = Trials()
    tuning = [place for fold in folds for place in fold.tuning(scans)]
    trials.run(product(tuning, SHARES), "tuning BM3D")
    chosen = {fold.source: chosen_shares(fold.tuning(scans), trials) for fold in folds}
    held_out = [(place, fold.source) for fold in folds for place in fold.places(scans, slices)]
    trials.run(
        ((place, chosen[source][place.dose_fraction]) for place, source in held_out),
        "BM3D on held-out sources",
    )
    rows = [row for fold in folds for row in rows_of(fold, scans, slices, chosen[fold.source], trials)]
    return {
        "machine": machine() | {"bm3d": version("bm3d"), "torch_threads": torch.get_num_threads()},
        "assumption": ASSUMPTION,
        "shares": list(SHARES),
        "bm3d_s_per_slice": round(statistics.median(trials.seconds), 1),
        "cases_left_out": sorted(wanted.keys() - scans.keys()),
        "rows": rows,
    }


@dataclass(frozen=True)
class Place:
    """A slice at a lower dose; equal where case, slice and dose are.

    Attributes:
        case_id: that the slice is of.
        index: of the slice.
        dose_fraction: share of the normal dose.
        scan: that it is made with.
    """

    case_id: str
    index: int
    dose_fraction: float
    scan: Scan = field(compare=False, repr=False)

    @property
    def low_dose_hu(self) -> Slice:
        """(H, W) HU, the same every time."""
        return self.scan.low_dose(self.index, self.dose_fraction, CPU)

    @property
    def noise_sd_hu(self) -> float:
        """Noise level of the series at this dose, as `ldct predict` would find it."""
        if (level_hu := self.scan.noise_sd_hu(self.dose_fraction)) is None:
            raise ValueError(f"the scan of {self.case_id} is without noise levels")
        return level_hu

    def psnr_db(self, image_hu: Slice) -> Decibels:
        """Of (H, W) HU against the normal dose."""
        case = self.scan.case
        normal_hu = case.normal_dose()[self.index]
        return {
            name: psnr(image_hu, normal_hu, convention(name), anatomy=case.anatomy) for name in CONVENTIONS
        }


@dataclass(frozen=True)
class Fold:
    """A training without a source, and the cases to judge it on.

    Attributes:
        bundle: of the denoiser.
        held_out: cases of the source.
        validation: cases of other sources that BM3D is tuned on.
    """

    bundle: Bundle
    held_out: tuple[Case, ...]
    validation: tuple[Case, ...]

    @classmethod
    def of(cls, bundle: Bundle, cases: Sequence[Case], cases_per_source: int) -> Fold:
        """Picks the cases.

        Raises:
            SystemExit: there are no cases of the source, or none to tune on.
        """
        left_out = bundle.training["left_out"]
        own = [case for case in cases if case.source in left_out]
        others = [case for case in cases if case.source not in left_out and case.role == "validation"]
        if not own or not others:
            missing = "case of it" if not own else "validation case of another source"
            raise SystemExit(f"{bundle.name}, trained without {', '.join(left_out)}: there is no {missing}")
        spread = [own[position] for position in spread_slices(len(own), cases_per_source)]
        return cls(bundle, tuple(spread), tuple(sources_in_turns(others)[:TUNING_CASES]))

    @property
    def source(self) -> str:
        """What was left out."""
        return ", ".join(self.bundle.training["left_out"])

    def places(self, scans: Mapping[str, Scan], slices: int) -> list[Place]:
        """Slices of the held-out cases that can be used, at all doses."""
        return places_of(self.held_out, scans, slices)

    def tuning(self, scans: Mapping[str, Scan]) -> list[Place]:
        """The middle slices of the validation cases that can be used, at all doses."""
        return places_of(self.validation, scans, 1)


def sources_in_turns(cases: Iterable[Case]) -> list[Case]:
    """One case of each source, then a second of each, and so on; each source's in their order."""
    by_source: dict[str, list[Case]] = {}
    for case in cases:
        by_source.setdefault(case.source, []).append(case)
    return [case for turn in zip_longest(*by_source.values()) for case in turn if case is not None]


def usable_scans(cases: Sequence[Case]) -> dict[str, Scan]:
    """By case: those whose low dose can be made and whose noise level can be measured."""
    listed = progress(cases, f"reading the scans of {len(cases)} cases")
    found = scans_of(listed, LOW_DOSES, noise_levels=True, seed=0, device=CPU)
    return {scan.case.case_id: scan for scan in found if isinstance(scan, Scan)}


def places_of(cases: Iterable[Case], scans: Mapping[str, Scan], slices: int) -> list[Place]:
    """Evenly spread slices of each case that has a scan, at all doses."""
    return [
        Place(case.case_id, index, dose, scans[case.case_id])
        for case, dose in product(cases, LOW_DOSES.dose_fractions)
        if case.case_id in scans
        for index in spread_slices(case.shape[0], slices)
    ]


class Trials:
    """What BM3D reaches, each trial computed once.

    Attributes:
        psnr_db: by place and share of the noise level.
        seconds: that each trial took.
    """

    def __init__(self) -> None:
        self.psnr_db: dict[tuple[Place, float], Decibels] = {}
        self.seconds: list[float] = []

    def run(self, wanted: Iterable[tuple[Place, float]], what: str) -> None:
        """Those that are not yet there.

        Args:
            wanted: places and shares of the noise level.
            what: is said beside the progress bar.
        """
        new = [trial for trial in dict.fromkeys(wanted) if trial not in self.psnr_db]
        for place, share in progress(new, what):
            low_dose_hu, noise_sd_hu = place.low_dose_hu, share * place.noise_sd_hu
            began = time.perf_counter()
            restored_hu = block_matching(low_dose_hu, noise_sd_hu)
            self.seconds.append(time.perf_counter() - began)
            self.psnr_db[place, share] = place.psnr_db(restored_hu)


def chosen_shares(places: Sequence[Place], trials: Trials) -> dict[float, float]:
    """For each dose the share with the best mean PSNR under the first convention.

    Args:
        places: that every share was tried on.
        trials: with the PSNR of each.

    Raises:
        SystemExit: no place has the dose.
    """
    chosen = {}
    for dose in LOW_DOSES.dose_fractions:
        here = [place for place in places if place.dose_fraction == dose]
        if not here:
            raise SystemExit(f"no validation case can be given {dose:.0%} dose, so BM3D cannot be tuned")
        means = {share: mean_db(trials.psnr_db[place, share] for place in here) for share in SHARES}
        chosen[dose] = max(SHARES, key=lambda share: means[share][CONVENTIONS[0]])
    return chosen


def rows_of(
    fold: Fold, scans: Mapping[str, Scan], slices: int, shares: Mapping[float, float], trials: Trials
) -> list[dict[str, Any]]:
    """The numbers of a source, a row for each dose that has slices.

    Args:
        fold: the training without it.
        scans: by case.
        slices: of each case.
        shares: for each dose the one that BM3D was told.
        trials: with the PSNR of BM3D at each place.
    """
    denoiser = replace(denoiser_of(fold.bundle), bf16=False)
    rows = []
    for dose, share in shares.items():
        places = [place for place in fold.places(scans, slices) if place.dose_fraction == dose]
        if not places:
            continue
        before = mean_db(place.psnr_db(place.low_dose_hu) for place in places)
        network = mean_db(
            place.psnr_db(denoiser.restore(place.low_dose_hu[None], place.noise_sd_hu)) for place in places
        )
        bm3d = mean_db(trials.psnr_db[place, share] for place in places)
        rows.append(
            {
                "source": fold.source,
                "model_hash": fold.bundle.model_hash,
                "dose_fraction": dose,
                "cases": len({place.case_id for place in places}),
                "slices": len(places),
                "input_psnr_db": rounded(before),
                "gain_network_db": rounded({name: network[name] - before[name] for name in CONVENTIONS}),
                "gain_bm3d_db": rounded({name: bm3d[name] - before[name] for name in CONVENTIONS}),
                "share": share,
                "share_is_end_of_grid": share in (min(SHARES), max(SHARES)),
                "tuned_on": [case.case_id for case in fold.validation if case.case_id in scans],
            }
        )
    return rows


def mean_db(scores: Iterable[Decibels]) -> Decibels:
    """By convention, over slices."""
    listed = list(scores)
    return {name: statistics.mean(score[name] for score in listed) for name in CONVENTIONS}


def rounded(values: Decibels) -> Decibels:
    """As they are written."""
    return {name: round(value, 3) for name, value in values.items()}


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a Markdown table, as in benchmarks/README.md."""
    first, second = CONVENTIONS
    columns = ["held out", "dose", "slices", "BM3D's noise, of the level"]
    columns += [f"{what}, `{first}` / `{second}` [dB]" for what in ("input", "network", "BM3D")]
    body = [
        [
            row["source"],
            f"{row['dose_fraction']:.0%}",
            str(row["slices"]),
            f"{row['share']:g}",
            *(
                f"{row[key][first]:{sign}.2f} / {row[key][second]:{sign}.2f}"
                for key, sign in (("input_psnr_db", ""), ("gain_network_db", "+"), ("gain_bm3d_db", "+"))
            ),
        ]
        for row in rows
    ]
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *body)]


if __name__ == "__main__":
    main()
