"""The family of restoration networks: from a stored, a made or a degraded low dose to the normal dose."""

from pipeline.stages.families.restoration.building import build_restoration

__all__ = ["build_restoration"]
