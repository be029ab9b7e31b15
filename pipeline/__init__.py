"""Low-dose CT from DICOM to DICOM."""

import os

__version__ = "0.1.0"

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before MONAI imports mlflow, or it phones home
