"""Denoisers on low doses made from the normal dose: scores by dose, source and scan, and the worst slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch

from pipeline.bundle import Bundle
from pipeline.config.evaluate import MadeDoseSettings
from pipeline.data import Case
from pipeline.data.patches import spread_slices
from pipeline.errors import ConfigError, DataError
from pipeline.metrics import convention
from pipeline.models.baselines import baseline, need_noise_level
from pipeline.models.precision import preferred_device
from pipeline.stages.evaluation.context import (
    INPUT,
    RESTORED,
    Context,
    Denoiser,
    Metrics,
    Slice,
    denoiser_of,
)
from pipeline.stages.evaluation.restoration.detectability import LOOKING
from pipeline.stages.evaluation.restoration.findings import Findings
from pipeline.stages.evaluation.restoration.low_doses import Scan, Unusable, scans_of
from pipeline.stages.evaluation.restoration.observed import observe
from pipeline.stages.evaluation.restoration.scenes import Restore
from pipeline.stages.evaluation.restoration.scores import slice_hu
from pipeline.stages.evaluation.restoration.sharpness import MEASURING
from pipeline.stages.evaluation.restoration.tuning import TuningSlice, tune_baselines, tuned
from pipeline.stages.evaluation.restoration.whole_bar import Bar, whole_bar

READING: Final = "reading the scans of {} cases"
TUNING: Final = "tuning baselines at {:.0%} dose"
SCORING: Final = "scoring cases"
Methods = Mapping[str, Callable[[Slice], Slice]]


@dataclass(frozen=True)
class _Making:
    """How low doses are made.

    Attributes:
        settings: doses, and the scan to assume.
        seed: of the evaluation.
        device: where noise is drawn.
        bar: goes through all that takes long.
    """

    settings: MadeDoseSettings
    seed: int
    device: torch.device
    bar: Bar

    def scans(self, cases: Sequence[Case], role: str, *, noise_levels: bool) -> tuple[list[Scan], Metrics]:
        """The scans of these cases, and of those that cannot be used the reason, by case."""
        listed = self.bar(cases, READING.format(role))
        found = list(
            scans_of(listed, self.settings, noise_levels=noise_levels, seed=self.seed, device=self.device)
        )
        usable = [one for one in found if isinstance(one, Scan)]
        left_out = {one.case.case_id: one.reason for one in found if isinstance(one, Unusable)}
        if not usable:
            reason = next(iter(left_out.values()), "there is none")
            raise DataError(f"no {role} case can be given a low dose: {reason}")
        return usable, left_out


def evaluate_made(bundle: Bundle, context: Context) -> Metrics:
    """Score a denoiser on low doses of the test cases; tables and pictures go to the context's folder.

    A low dose is made once, by the full insertion of `ldct simulate dose`, and depends on the evaluation's
    seed, the case, the slice and the dose alone. Cases that none can be made of are left out and named.

    Raises:
        ConfigError: the settings make no low dose or name a baseline that is not installed, or the network
            takes neighbouring slices.
        DataError: no low dose can be made of any test or any validation case, or an output is not finite.
    """
    settings, denoiser = context.settings.restoration, denoiser_of(bundle)
    if settings.low_dose is None:
        raise ConfigError("restoration.low_dose is not set; name the dose_fractions to make")
    if denoiser.neighbours:
        raise ConfigError(
            f"{bundle.name} takes {denoiser.neighbours} neighbouring slices, and low doses are made of "
            "single ones; remove restoration.low_dose to score it on stored low doses"
        )
    with whole_bar(_seconds(context)) as bar:
        making = _Making(settings.low_dose, context.settings.seed, preferred_device(), bar)
        amounts, not_tuned_on = _tune(making, context)
        told = denoiser.takes_noise_map or need_noise_level(settings.baselines)
        test, left_out = making.scans(context.test, "test", noise_levels=told)
        metrics = _scores(making, denoiser, test, amounts, context)
        metrics |= observe(
            test,
            _on_windows(denoiser, amounts),
            settings,
            context.folder,
            seed=context.settings.seed,
            bar=bar,
        )
    if bundle.trained_on != "low dose":
        metrics["verdict"] = f"trained on {bundle.trained_on}, scored on low dose: {metrics['verdict']}"
    return {**metrics, "cases_left_out": left_out, "tuning_cases_left_out": not_tuned_on}


def _seconds(context: Context) -> dict[str, float]:
    """About how long each part takes on two cores; only their shares matter."""
    settings = context.settings.restoration
    doses = () if settings.low_dose is None else settings.low_dose.dose_fractions
    cases, own = len(context.test), len(context.validation)
    seconds = {READING.format("validation"): 2.0 * own, READING.format("test"): 2.0 * cases}
    seconds |= {TUNING.format(dose): 3.5 * own for dose in doses}
    seconds[SCORING] = 4.0 * cases * len(doses)
    if (lesion := settings.detectability) is not None:
        windows = lesion.cases * len(lesion.dose_fractions) * lesion.places_per_case * lesion.realisations
        seconds[LOOKING] = 0.08 * windows
    if (edges := settings.sharpness) is not None:
        windows = edges.cases * len(doses) * len(edges.contrasts_hu) * edges.realisations
        seconds[MEASURING] = 0.03 * windows
    return seconds


def _scores(
    making: _Making,
    denoiser: Denoiser,
    scans: Sequence[Scan],
    amounts: Mapping[float, Mapping[str, float]],
    context: Context,
) -> Metrics:
    """Of slices of all cases at all doses."""
    settings = context.settings.restoration
    findings = Findings([convention(name) for name in settings.conventions])
    for scan in making.bar(scans, SCORING):
        indices = spread_slices(scan.case.shape[0], context.settings.slices_per_case)
        for dose, amount in amounts.items():
            baselines = tuned(amount, scan.noise_sd_hu(dose))
            methods: Methods = {RESTORED: partial(_restored, denoiser, scan, dose), **baselines}
            outputs = {index: _outputs(making, scan, dose, index, methods) for index in indices}
            findings.add(scan, dose, outputs)
    return findings.report(context.folder, amounts, settings, seed=context.settings.seed)


def _tune(making: _Making, context: Context) -> tuple[dict[float, dict[str, float]], Metrics]:
    """For each dose the value of each baseline; and why cases were not tuned on."""
    settings = context.settings.restoration
    scans, left_out = making.scans(
        context.validation, "validation", noise_levels=need_noise_level(settings.baselines)
    )
    places = [
        (scan, index)
        for scan in scans
        for index in spread_slices(scan.case.shape[0], settings.tuning_slices_per_case)
    ]
    amounts = {}
    for dose in making.settings.dose_fractions:
        slices = [
            TuningSlice(
                scan.low_dose(index, dose, making.device),
                slice_hu(scan.case.normal_dose(), index),
                scan.case.anatomy,
                scan.noise_sd_hu(dose),
            )
            for scan, index in places
        ]
        first = convention(settings.conventions[0])
        amounts[dose] = tune_baselines(slices, settings, first, what=TUNING.format(dose), bar=making.bar)
    return amounts, left_out


def _on_windows(denoiser: Denoiser, amounts: Mapping[float, Mapping[str, float]]) -> dict[str, Restore]:
    """The input as it is, the network, and the baselines as they were tuned at each dose.

    Network and baselines are told the noise level of the series at the dose, not that of the window.
    """

    def tuned_baseline(name: str) -> Restore:
        denoise = baseline(name)
        return lambda window_hu, scan, dose: denoise(window_hu, amounts[dose][name], scan.noise_sd_hu(dose))

    names = next(iter(amounts.values()))
    return {
        INPUT: lambda window_hu, *_: window_hu,
        RESTORED: lambda window_hu, scan, dose: _restored(denoiser, scan, dose, window_hu),
        **{name: tuned_baseline(name) for name in names},
    }


def _restored(denoiser: Denoiser, scan: Scan, dose: float, low_dose_hu: Slice) -> Slice:
    return denoiser.restore(low_dose_hu[None], scan.noise_sd_hu(dose))


def _outputs(making: _Making, scan: Scan, dose: float, index: int, methods: Methods) -> dict[str, Slice]:
    low_dose_hu = scan.low_dose(index, dose, making.device)
    return {INPUT: low_dose_hu, **{name: denoise(low_dose_hu) for name, denoise in methods.items()}}
