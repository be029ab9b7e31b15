"""Where a preset's files live: the one place that knows the folder names used in dvc.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONFIGS: Final = Path("configs")
RECIPES: Final = CONFIGS / "recipes"
"""Training settings that any preset can run; a preset's own file of the same name comes first."""

EXPERIMENT: Final = "ldct"
"""The MLflow experiment of all stages."""

PHANTOMS: Final = "phantom_"
"""How the name of a manifest begins, and so that of the source, whose studies `simulate` made."""


@dataclass(frozen=True)
class Layout:
    """Paths of one preset, relative to the project root (the working directory of `dvc repro`)."""

    preset: str

    def config(self, name: str) -> Path:
        """Settings of a stage or model: the preset's, e.g. `configs/demo/redcnn.yaml`, else a recipe."""
        own, recipe = CONFIGS / self.preset / f"{name}.yaml", RECIPES / f"{name}.yaml"
        return recipe if recipe.is_file() and not own.exists() else own

    @property
    def simulated(self) -> Path:
        """Phantom studies: `<patient>/{normal_dose,low_dose}/*.dcm`, labels, truth, factors."""
        return Path("data") / self.preset / "simulated"

    @property
    def incoming(self) -> Path:
        """Low-dose DICOM of patients that no model has seen: what `predict` cleans."""
        return Path("data") / self.preset / "incoming"

    @property
    def manifest(self) -> Path:
        """Manifest of the phantom studies (`cases.csv`, `splits/holdout.csv`)."""
        return Path("data_manifests") / f"{PHANTOMS}{self.preset}"

    @property
    def cases(self) -> Path:
        """Ingested cases: `index.csv`, `fingerprint.json`, `<case_id>/*.nii`, `qc/<case_id>.png`."""
        return Path("data") / self.preset / "cases"

    def model(self, name: str) -> Path:
        """What training wrote: `bundle.safetensors`, `last.safetensors`, `curves.csv`, `run.json`."""
        return Path("models") / self.preset / name

    def bundle(self, name: str) -> Path:
        """The best weights of a model."""
        return self.model(name) / "bundle.safetensors"

    def metrics(self, name: str) -> Path:
        """Scores of an evaluation."""
        return Path("metrics") / self.preset / f"{name}.json"

    def evaluation(self, name: str) -> Path:
        """Tables (CSV) and pictures (PNG) of an evaluation."""
        return Path("evaluation") / self.preset / name

    @property
    def predictions(self) -> Path:
        """DICOM folder that `predict` wrote."""
        return Path("predictions") / self.preset

    @property
    def report(self) -> Path:
        """The report page."""
        return Path("reports") / self.preset / "report.html"
