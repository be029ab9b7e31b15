"""Stand-ins for trained networks, and a run over a folder with them, for the tests of batch inference."""

from __future__ import annotations

import torch

from pipeline.bundle import Bundle
from pipeline.hu import WATER_CENTRED, HUWindow
from pipeline.inference.folder import check_folders, run_folder
from pipeline.inference.output.pseudonyms import Pseudonyms
from pipeline.inference.restoration.networks import Network
from pipeline.inference.restoration.treatment import Restoration
from pipeline.models import build_model
from tests.predict_cases import LABELS, NOW, Silent

PSEUDONYMS = Pseudonyms(b"0" * 32)
UNTRAINED = build_model("redcnn", features=2).state_dict()


class Add(torch.nn.Module):
    """Adds a constant in network units; `before` is called on each batch."""

    def __init__(self, units, before=lambda _: None):
        super().__init__()
        self.units, self.before = units, before

    def forward(self, image):
        self.before(image)
        return image + self.units


class Threshold(torch.nn.Module):
    """Class 1 above the middle of the window, class 2 above three quarters, else background."""

    def forward(self, image):
        return torch.cat([0.5 - image, 0 * image, 100 * (image - 0.75)], dim=1)


def bundle_of(kind, **changes):
    fields = {
        "kind": kind,
        "architecture": "redcnn",
        "arguments": {"features": 2},
        "name": kind,
        "scale": WATER_CENTRED if kind == "denoiser" else None,
        "window": None if kind == "denoiser" else HUWindow(-1000, 1000),
        "labels": () if kind == "denoiser" else tuple(vars(label) for label in LABELS),
        "score": {},
        "config_digest": "",
        "data_digest": "",
        "tensors": UNTRAINED,
    }
    return Bundle(**{**fields, **changes})


def network_of(module, kind="denoiser", *, batch_slices=2, tile_pixels=512, **changes):
    bundle = bundle_of(kind, **changes)
    return Network(bundle, module.eval(), torch.device("cpu"), "fp32", batch_slices, tile_pixels)


def restoration(units=0.02, strength=1.0, **options):
    """A denoiser that brightens by `units`, and a segmenter of what is bright."""
    segmenter = network_of(Threshold(), "segmenter")
    return Restoration(denoiser=network_of(Add(units)), segmenter=segmenter, strength=strength, **options)


def run(source, target, treatment=None, *, now=NOW, observer=None, **options):
    check_folders(source, target)
    return run_folder(
        source,
        target,
        treatment or restoration(),
        pseudonyms=PSEUDONYMS,
        now=now,
        fixed_clock=None,
        observer=observer or Silent(),
        **options,
    )


def tree(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def the_series(target):
    (record,) = target.glob("*/*/series.json")
    return record.parent
