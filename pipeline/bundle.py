"""Bundles: one safetensors file that holds a trained model and all that is needed to apply it.

The file's metadata holds one entry, a canonical JSON header: schema version, architecture and arguments, HU
transform, precision, labels, training fingerprint, best validation score with its convention, digests of
settings and data, and a digest of the weights. No pickle is read or written: opening a stranger's bundle runs
no code.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import BundleError, ConfigError
from pipeline.hu import HUScale, HUWindow
from pipeline.models import MODELS, build_model

SCHEMA_VERSION: Final = 1
KINDS: Final = ("denoiser", "segmenter", "vae", "gan")
PRECISIONS: Final = ("fp32", "bf16")
_METADATA_KEY: Final = "ldct"


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A trained model with its HU transform and its history.

    Attributes:
        kind: one of `KINDS`; decides what the model can be used for.
        architecture: key of `pipeline.models.MODELS`.
        arguments: what the architecture is built with, plain JSON values.
        name: name of the training, e.g. `redcnn`.
        scale: network scale of a denoiser.
        window: window that the other kinds map to [0, 1] (or [-1, 1] for a GAN).
        input_spacing_mm: pixel step of the grid that the model was trained on; None: any grid.
        precision: arithmetic of the layers in training; one trained in `fp32` must not be applied in `bf16`.
        training: what scoring a VAE or GAN needs to know: `field_of_view_mm`, and of a VAE `noise_sd`, the SD
            of a pixel in units of the window. Of a denoiser not trained on low dose: the steps of the
            `degradation` that made its input from the normal dose. Of one trained on low doses that were
            made: `low_dose`, its settings, with the range of their noise as `noise_sd_hu`, where known.
        labels: of a segmenter, `asdict(SegmentLabel)` of classes 1, 2, …
        fingerprint: ranges of spacing, kernel, dose and noise of the training data.
        score: `{metric, value, convention, …}` of these weights on the validation cases.
        config_digest: sha256 of the settings file.
        data_digest: sha256 of the training data folder.
        tensors: the state dict.

    Raises:
        ValueError: the kind or the precision is unknown, or its HU transform is missing.
    """

    kind: str
    architecture: str
    arguments: Mapping[str, Any]
    name: str
    scale: HUScale | None = None
    window: HUWindow | None = None
    input_spacing_mm: float | None = None
    precision: str = "fp32"
    training: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[Mapping[str, Any], ...] = ()
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    score: Mapping[str, Any]
    config_digest: str
    data_digest: str
    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.kind == "denoiser" and self.scale is None:
            raise ValueError("a denoiser's bundle needs its HU scale")
        if self.kind != "denoiser" and self.window is None:
            raise ValueError(f"the bundle of a {self.kind} needs its HU window")

    @cached_property
    def header(self) -> str:
        """Canonical JSON of everything but the weights, of which it holds the digest."""
        return json.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "kind": self.kind,
                "architecture": self.architecture,
                "arguments": self.arguments,
                "name": self.name,
                "scale": None if self.scale is None else asdict(self.scale),
                "window": None if self.window is None else asdict(self.window),
                "input_spacing_mm": self.input_spacing_mm,
                "precision": self.precision,
                "training": self.training,
                "labels": self.labels,
                "fingerprint": self.fingerprint,
                "score": self.score,
                "config_digest": self.config_digest,
                "data_digest": self.data_digest,
                "tensors_sha256": tensors_sha256(self.tensors),
            },
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=True,
            allow_nan=False,
        )

    @property
    def trained_on(self) -> str:
        """A denoiser's input in training, in words."""
        steps = self.training.get("degradation", ())
        return f"normal dose after {', '.join(step['kind'] for step in steps)}" if steps else "low dose"

    @property
    def made_noise_sd_hu(self) -> tuple[float, float] | None:
        """Lowest and highest noise level of the low doses that were made to train a denoiser, where known."""
        made = (self.training.get("low_dose") or {}).get("noise_sd_hu")
        return None if made is None else (made[0], made[1])

    @property
    def model_hash(self) -> str:
        """Sha256 (hex) of the header, and through its tensor digest of every weight."""
        return hashlib.sha256(self.header.encode()).hexdigest()

    def model(self) -> nn.Module:
        """The model with these weights, on the CPU, in evaluation mode.

        Raises:
            BundleError: the weights do not fit the architecture and its arguments.
        """
        try:
            model = build_model(self.architecture, **self.arguments)
            model.load_state_dict(dict(self.tensors))
        except (RuntimeError, ConfigError) as mismatch:
            reason = " ".join(str(mismatch).split())
            raise BundleError(f"bundle {self.name}: does not fit {self.architecture}: {reason}") from None
        return model.eval()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Digest of names, types, shapes and values, whatever the order of the mapping."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_bundle(path: Path, bundle: Bundle) -> None:
    """Write a bundle; a file at `path` is replaced whole or not at all."""
    save_tensors(path, bundle.tensors, {_METADATA_KEY: bundle.header})


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically; `metadata` with a single entry gives the same bytes every time."""
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        part = Path(scratch) / path.name
        save_file(plain, part, metadata=dict(metadata))
        part.chmod(0o644)  # safetensors writes for its owner alone
        part.replace(path)


def load_bundle(path: Path, kind: str | None = None) -> Bundle:
    """Read and verify a bundle.

    Args:
        path: the safetensors file.
        kind: refuse a bundle of any other kind.

    Raises:
        BundleError: the file is missing, not a bundle, damaged, newer than this program, or of another kind.
    """
    text, tensors = _read(path)
    try:
        header = json.loads(text)
        schema = header["schema_version"]
    except (ValueError, KeyError, TypeError):
        raise BundleError(f"{path}: damaged bundle header; train the model again") from None
    if schema != SCHEMA_VERSION:
        raise BundleError(
            f"{path}: bundle schema {schema}, this program reads {SCHEMA_VERSION}; "
            "use the ldct-pipeline version that wrote it, or train the model again"
        )
    if kind is not None and header.get("kind") != kind:
        raise BundleError(f"{path}: holds a {header.get('kind')}, a {kind} is needed")
    architecture = header.get("architecture")
    if architecture not in MODELS:
        raise BundleError(f"{path}: unknown architecture {architecture!r}; known: {', '.join(MODELS)}")
    bundle = _parse(path, header, tensors)
    if bundle.header != text:
        raise BundleError(f"{path}: weights and header disagree; the file is damaged, fetch it again")
    return bundle


def _read(path: Path) -> tuple[str, dict[str, Tensor]]:
    if path.is_dir():
        raise BundleError(f"{path}: a folder; name the bundle.safetensors in it")
    if not path.is_file():
        raise BundleError(f"{path}: no such bundle; name one that ldct train wrote")
    try:
        with safe_open(path, framework="pt") as archive:
            metadata = archive.metadata() or {}
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as broken:
        reason = " ".join(str(broken).split())
        raise BundleError(
            f"{path}: not a readable safetensors file ({reason}); copy it again or train again"
        ) from None
    if _METADATA_KEY not in metadata:
        raise BundleError(f"{path}: a safetensors file, but no bundle; name one that ldct train wrote")
    return metadata[_METADATA_KEY], tensors


def _parse(path: Path, header: Mapping[str, Any], tensors: dict[str, Tensor]) -> Bundle:
    try:
        return Bundle(
            kind=header["kind"],
            architecture=header["architecture"],
            arguments=header["arguments"],
            name=header["name"],
            scale=None if header["scale"] is None else HUScale(**header["scale"]),
            window=None if header["window"] is None else HUWindow(**header["window"]),
            input_spacing_mm=header["input_spacing_mm"],
            precision=header["precision"],
            training=header["training"],
            labels=tuple(header["labels"]),
            fingerprint=header["fingerprint"],
            score=header["score"],
            config_digest=header["config_digest"],
            data_digest=header["data_digest"],
            tensors=tensors,
        )
    except (KeyError, TypeError, ValueError) as broken:
        raise BundleError(f"{path}: damaged bundle header ({broken}); train the model again") from None
