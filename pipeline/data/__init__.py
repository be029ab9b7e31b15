"""Cases on disk: what `ingest` writes and training and evaluation read."""

from pipeline.data.cases import Case, read_cases, write_index
from pipeline.data.fingerprint import data_digest, read_fingerprint
from pipeline.data.volumes import read_affine, read_volume, write_volume

__all__ = [
    "Case",
    "data_digest",
    "read_affine",
    "read_cases",
    "read_fingerprint",
    "read_volume",
    "write_index",
    "write_volume",
]
