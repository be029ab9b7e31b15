"""One series through its networks: read, denoised and segmented chunk by chunk, written behind that."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline.dicom import Derivation, Geometry, SeriesEntry
from pipeline.inference.output.journal import PREVIEW
from pipeline.inference.preview import save_preview
from pipeline.inference.restoration.networks import (
    LabelMap,
    Network,
    Volume,
    denoise,
    segment,
    segment_labels,
)
from pipeline.inference.restoration.results import DenoisedSeries, KeptSlices, SegmentedSeries
from pipeline.inference.stream import Behind, Chunk, read_chunks
from pipeline.inference.survey import Survey
from pipeline.inference.treatment import OnSlices, Stopwatch
from pipeline.metrics.noise import global_noise_sd_hu


@dataclass(frozen=True)
class Applied:
    """A network, and how what it made of the series says so."""

    network: Network
    derivation: Derivation


@dataclass(frozen=True)
class Restored:
    """What came out of a series.

    Attributes:
        noise_after_sd_hu: of the survey's sample after denoising, in the soft tissue of the source.
        volumes_ml: of each segment, by name.
        nothing_segmented: there was a segmentation, and it is all background.
    """

    noise_after_sd_hu: float | None
    volumes_ml: Mapping[str, float]
    nothing_segmented: bool


class SeriesRestorer:
    """Writes the results of one series into `folder`.

    No more of the series is held than a few chunks, the slices that are measured and shown, and the label map
    of a segmentation. While a chunk goes through the networks, the next one is read and the one before is
    written, read back and compared.

    Args:
        entry: the source series.
        folder: empty; gets the derived series, the segmentation and a preview.
        survey: the first pass over the series.
        grid: its regular grid, if it has one: there is no segmentation and no NIfTI without.
        clock: date and time that the written files carry.
        denoiser: network of a denoiser's bundle, or None.
        segmenter: network of a segmenter's bundle, or None; it sees the denoised slices if there are any.
        strength: share of the denoiser's correction, 0..1.
        noise_sd_hu: that a denoiser with a noise map is told.
        nifti: write the results as NIfTI, too.
        watch: is told the time of each step.
    """

    def __init__(
        self,
        entry: SeriesEntry,
        folder: Path,
        survey: Survey,
        *,
        grid: Geometry | None,
        clock: datetime,
        denoiser: Applied | None,
        segmenter: Applied | None,
        strength: float,
        noise_sd_hu: float | None,
        nifti: bool,
        watch: Stopwatch,
    ) -> None:
        self._entry = entry
        self._folder = folder
        self._survey = survey
        self._clock = clock
        self._denoiser = denoiser
        self._strength = strength
        self._noise_sd_hu = noise_sd_hu
        self._nifti_grid = grid if nifti else None
        self._watch = watch
        self._kept = KeptSlices(survey, middle=len(entry.files) // 2)
        self._segmenter = None if grid is None else segmenter
        self._segmented: SegmentedSeries | None = None
        if self._segmenter is not None and grid is not None:
            self._segmented = SegmentedSeries(entry, grid, segment_labels(self._segmenter.network))

    def run(self, on_slices: OnSlices) -> Restored:
        """Send the series through, and say what came out.

        Args:
            on_slices: told the number of slices that are through a network.

        Raises:
            SeriesError: a slice cannot be read, or cannot be written again.
            UnfitSeriesError: a network makes no use of these images.
            DataError: what was written reads back differently.
            OSError: the disk is full or gone.
        """
        self._stream(on_slices)
        self._write_segmentation()
        self._save_preview()
        segmented = self._segmented
        return Restored(
            noise_after_sd_hu=self._noise_after(),
            volumes_ml={} if segmented is None else segmented.volumes_ml(),
            nothing_segmented=segmented is not None and segmented.empty,
        )

    def _stream(self, on_slices: OnSlices) -> None:
        chunks = read_chunks(
            self._entry,
            self._survey.content_digests,
            self._chunk_slices(),
            self._watch,
            neighbours=0 if self._denoiser is None else self._denoiser.network.neighbours,
        )
        with ExitStack() as stack:
            stack.enter_context(closing(chunks))
            series = self._derived_series(stack)
            behind = stack.enter_context(Behind(self._watch))
            for chunk in chunks:
                denoised_hu = self._denoise(chunk, on_slices)
                if series is not None and denoised_hu is not None:
                    behind.submit(series.write, chunk, denoised_hu)
                label_map = self._segment(chunk, denoised_hu, on_slices)
                self._kept.add(chunk, denoised_hu, label_map)

    def _chunk_slices(self) -> int:
        """As many as the slowest network takes at once."""
        applied = self._denoiser or self._segmenter
        return 1 if applied is None else applied.network.batch_slices

    def _derived_series(self, stack: ExitStack) -> DenoisedSeries | None:
        if self._denoiser is None:
            return None
        return stack.enter_context(
            DenoisedSeries(
                self._entry,
                self._survey,
                self._folder,
                derivation=self._denoiser.derivation,
                now=self._clock,
                nifti_grid=self._nifti_grid,
                watch=self._watch,
            )
        )

    def _denoise(self, chunk: Chunk, on_slices: OnSlices) -> Volume | None:
        if self._denoiser is None:
            return None
        with self._watch.step("denoise"):
            hu = denoise(
                self._denoiser.network,
                chunk.around_hu,
                chunk.around_padding,
                strength=self._strength,
                own=chunk.own,
                noise_sd_hu=self._noise_sd_hu,
            )
        on_slices(len(hu))
        return hu

    def _segment(self, chunk: Chunk, denoised_hu: Volume | None, on_slices: OnSlices) -> LabelMap | None:
        if self._segmenter is None or self._segmented is None:
            return None
        hu = chunk.hu if denoised_hu is None else denoised_hu
        with self._watch.step("segment"):
            label_map = segment(
                self._segmenter.network, hu, chunk.padding, spacing_mm=self._segmented.pixel_spacing_mm
            )
        self._segmented.add(chunk, label_map)
        on_slices(len(label_map))
        return label_map

    def _write_segmentation(self) -> None:
        if self._segmenter is None or self._segmented is None or self._segmented.empty:
            return
        with self._watch.step("write segmentation"):
            self._segmented.write(
                self._folder,
                self._survey.content_digests,
                derivation=self._segmenter.derivation,
                now=self._clock,
                with_nifti=self._nifti_grid is not None,
            )

    def _save_preview(self) -> None:
        labels = () if self._segmenter is None else segment_labels(self._segmenter.network)
        with self._watch.step("preview"):
            save_preview(self._folder / PREVIEW, self._kept.shown, labels, self._entry.body_part)

    def _noise_after(self) -> float | None:
        after_hu = self._kept.denoised_hu
        if after_hu is None:
            return None
        with self._watch.step("measure"):
            return global_noise_sd_hu(self._survey.hu, after_hu)
