"""Settings of every stage: the only readers of YAML."""

from pipeline.config.base import Settings, load_settings
from pipeline.config.layout import Layout

__all__ = ["Layout", "Settings", "load_settings"]
