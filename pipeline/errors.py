"""Errors that a user can act on: one line that names the culprit, the values and the way out.

Caller mistakes (a wrong shape, a negative dose) stay `ValueError`; these are for bad data and bad settings.
"""


class PipelineError(Exception):
    """Bad data, bad settings or a missing file; the command line prints it as one line."""

    exit_code = 1


class ConfigError(PipelineError):
    """A config file or command-line value that cannot be used."""

    exit_code = 2


class DataError(PipelineError):
    """Images, manifests or folders that cannot be used as they are."""


class BundleError(PipelineError):
    """A weights file that is missing, of another kind, damaged or of another schema."""


class TrackingError(PipelineError):
    """The MLflow store cannot be used."""
