"""An identity planted in every corner of the input is found in nothing that the commands write or print.

Only DICOM outputs may hold it. Every other byte is searched: what is printed, logged and warned of, journals,
tables, pages, pictures and their text chunks, NIfTI, the MLflow store, names of files and folders.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.tag import Tag
from pydicom.uid import BasicTextSRStorage, EnhancedCTImageStorage, JPEG2000Lossless

from pipeline.dicom import Geometry, write_ct_series
from pipeline.dicom.quiet import quiet_pydicom
from tests.dicom_factory import make_slice, save
from tests.tiny_bundles import write_bundles

CHECKOUT: Final = Path(__file__).parents[1]
NAME: Final = "ZEBRAFINCH-ÄRGERLICH^QUOKKA"
PATIENT_ID: Final = "QX77-4242"
BIRTH_DATE: Final = "19371113"
INSTITUTION: Final = "WOMBATKLINIK Nördlingen"
ACCESSION: Final = "ACC998877"
STUDY_UID: Final = "1.2.826.77.4242.1"
SERIES_UID: Final = "1.2.826.77.4242.2"
PLANTED: Final = (
    "zebrafinch",
    "rgerlich",  # whatever became of the umlaut
    "quokka",
    "qx77-4242",
    "19371113",
    "wombatklinik",
    "rdlingen",
    "acc998877",
    "826.77.4242",
)
SOURCE_NAME: Final = "platypus"


def planted_forms() -> tuple[bytes, ...]:
    """Every planted word in the encodings that a byte search would miss, and digests anybody could try."""
    forms = set()
    for word in PLANTED:
        forms |= {
            word.encode(),
            word.encode("utf-16-le"),
            word.encode("utf-16-be"),
            word.encode().hex().encode(),
        }
    for value in (NAME, PATIENT_ID, BIRTH_DATE, ACCESSION, STUDY_UID, SERIES_UID):
        for algorithm in (hashlib.md5, hashlib.sha1, hashlib.sha256):
            forms.add(algorithm(value.encode()).hexdigest()[:12].encode())
        forms.add(base64.b64encode(value.encode()).rstrip(b"=")[:-1].lower())
    return tuple(forms)


FORMS: Final = planted_forms()


def traces(content: bytes, forms: tuple[bytes, ...] = FORMS) -> list[bytes]:
    """Which forms are in some bytes, also inside of pictures: alone, or embedded in a page."""
    pattern = rb"data:[a-z/+-]+;base64,([A-Za-z0-9+/=]+)"
    parts = [re.sub(pattern, b"", content), *_png_texts(content)]  # base64 spells short words by chance
    for embedded in re.findall(pattern, content):
        picture = base64.b64decode(embedded)
        parts += [picture, *_png_texts(picture)]
    return [form for form in forms if any(form in part.lower() for part in parts)]


def _png_texts(content: bytes) -> Iterator[bytes]:
    """Bodies of the chunks of a PNG that hold text, decompressed where they are compressed."""
    if not content.startswith(b"\x89PNG"):
        return
    at = 8
    while at < len(content):
        length = int.from_bytes(content[at : at + 4])
        kind, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        at += 12 + length
        if kind in (b"zTXt", b"iTXt"):
            yield from (zlib.decompress(tail) for tail in _compressed(body))


def _compressed(body: bytes) -> Iterator[bytes]:
    starts = [found.start() for found in re.finditer(b"\x78[\x01\x5e\x9c\xda]", body)]
    return (body[start:] for start in starts[:1])


def files_with_traces(root: Path, forms: tuple[bytes, ...] = FORMS, *, dicom: bool = False) -> list[str]:
    """Files and folders below `root` that hold a form in their bytes or names; DICOM counts only if asked."""
    found = []
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if traces(os.fsencode(name), forms):
            found.append(f"the name {name}")
        if path.is_file() and (dicom or path.suffix != ".dcm") and (some := traces(path.read_bytes(), forms)):
            found.append(f"{name}: {some}")
    return found


def scan(
    folder: Path, number: int, *, slices: int = 3, change: Callable[[pydicom.Dataset], None] | None = None
) -> list[Path]:
    """A water cylinder with noise, of somebody; `change` edits each slice."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[:64, :64] - 31.5
    hu = np.where(np.hypot(rows, columns) < 27, 0.0, -1000.0) + rng.normal(0, 10, (slices, 64, 64))
    files = write_ct_series(
        hu.clip(-1024),
        Geometry((0, 0, 0), (1, 0, 0), (0, 1, 0), (2.0, 2.25, 2.25), hu.shape),
        folder,
        patient_id=PATIENT_ID,
        study_uid=STUDY_UID,
        series_uid=f"{SERIES_UID}.{number}",
        frame_of_reference_uid=f"{STUDY_UID}.3",
        uid_seed=str(number),
        series_number=number,
        series_description=f"for {NAME}",
        study_datetime=datetime(2020, 1, 1),
        body_part="ABDOMEN",
        kernel="B30f",
        kvp=120.0,
        tube_current_ma=100.0,
        exposure_mas=100.0,
        slice_thickness_mm=2.0,
        comment=f"{PATIENT_ID} again",
    )
    with quiet_pydicom():
        for path in files:
            dataset = pydicom.dcmread(path)
            identify(dataset)
            if change is not None:
                change(dataset)
            save_raw(dataset, path)
    return list(files)


def identify(dataset: pydicom.Dataset) -> None:
    """Write the identity where it belongs, and where people put it all the same."""
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = NAME
    dataset.PatientID = PATIENT_ID
    dataset.PatientBirthDate = BIRTH_DATE
    dataset.PatientComments = f"{NAME} born {BIRTH_DATE}"
    dataset.OtherPatientIDs = [PATIENT_ID, ACCESSION]
    dataset.InstitutionName = INSTITUTION
    dataset.AccessionNumber = ACCESSION
    dataset.ReferringPhysicianName = NAME
    dataset.StudyID = PATIENT_ID
    dataset.StudyDescription = f"{NAME} {INSTITUTION}"
    dataset.ProtocolName = PATIENT_ID
    private = dataset.private_block(0x0099, "ZEBRAFINCH", create=True)
    private.add_new(1, "LO", PATIENT_ID)
    private.add_new(2, "UN", NAME.encode())


def raw(keyword: str, value: bytes, vr: str) -> Callable[[pydicom.Dataset], None]:
    """Put bytes into an element that its type does not allow, as `save_raw` writes them."""

    def change(dataset: pydicom.Dataset) -> None:
        padded = value + b" " * (len(value) % 2)
        held_back = b"RAW" + vr.encode() + padded + b"WAR"
        dataset[Tag(keyword)] = pydicom.DataElement(Tag(keyword), "OB", held_back)

    return change


def save_raw(dataset: pydicom.Dataset, path: Path) -> None:
    """Save with explicit VR; values of `raw` go past pydicom, which would convert them."""
    stream = io.BytesIO()
    dataset.save_as(stream)

    def element(found: re.Match[bytes]) -> bytes:
        vr, value = found.groups()
        short = vr not in (b"SQ", b"UN", b"OB")
        return vr + (len(value).to_bytes(2, "little") if short else struct.pack("<xxI", len(value))) + value

    content = re.sub(rb"OB\0\0.{4}RAW(..)(.*?)WAR", element, stream.getvalue(), flags=re.DOTALL)
    path.write_bytes(content)


def attributes(**values: Any) -> Callable[[pydicom.Dataset], None]:
    """Set elements."""

    def change(dataset: pydicom.Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


LATIN: Final = NAME.encode("latin-1")
MALFORMED: Final[dict[str, Callable[[pydicom.Dataset], None]]] = {
    "texts that tables show": attributes(
        Manufacturer=f"for {PATIENT_ID}",
        BodyPartExamined="Zebrafinch",
        ConvolutionKernel=["QUOKKA", "B30f"],
        SeriesDescription=f"{NAME} {ACCESSION}",
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "ZEBRAFINCH"],
        StationName="WOMBATKLINIK1",
    ),
    "modality": raw("Modality", b"ZEBRAFINCH", "CS"),
    "modality with umlauts": raw("Modality", LATIN, "CS"),
    "localizer": attributes(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER", "QUOKKA"]),
    "slope": raw("RescaleSlope", b"ZEBRAFINCH", "DS"),
    "rescale type": attributes(RescaleType="QUOKKA"),
    "tube voltage": raw("KVP", b"QX77-4242", "DS"),
    "thickness": raw("SliceThickness", LATIN, "DS"),
    "position": raw("ImagePositionPatient", b"0\\ZEBRAFINCH\\0", "DS"),
    "spacing": raw("PixelSpacing", b"QX77\\QUOKKA", "DS"),
    "acquisition": raw("AcquisitionNumber", b"ZEBRAFINCH", "IS"),
    "instance": raw("InstanceNumber", b"QX77-4242", "IS"),
    "date": raw("StudyDate", b"QUOKKA", "DA"),
    "time": raw("StudyTime", b"ZEBRAFINCH", "TM"),
    "birth date": raw("PatientBirthDate", NAME.encode(), "DA"),
    "age": raw("PatientAge", b"ZEBRAFINCH", "AS"),
    "sex": raw("PatientSex", b"ZEBRAFINCH", "CS"),
    "size": raw("PatientSize", b"ZEBRAFINCH", "DS"),
    "name as numbers": raw("PatientName", LATIN + b" ", "US"),
    "name in no character set": raw("PatientName", b"ZEBRAFINCH^\xff\xfe\x1b$B\x80", "PN"),
    "identifier with a sequence's type": raw("PatientID", b"QX77-4242", "SQ"),
    "character set": attributes(SpecificCharacterSet="ZEBRAFINCH"),
    "two character sets": attributes(SpecificCharacterSet=["ISO 2022 IR 87", "QUOKKA"]),
    "identifier of the instance": raw("SOPInstanceUID", b"1.2.ZEBRAFINCH", "UI"),
    "identifier of the study": raw("StudyInstanceUID", b"../../QUOKKA", "UI"),
    "identifier of the class": raw("SOPClassUID", b"1.2.QX77-4242", "UI"),
    "colour": raw("PhotometricInterpretation", b"ZEBRAFINCH", "CS"),
    "bits": raw("BitsStored", b"QX77-4242", "US"),
    "window": raw("WindowCenter", b"ZEBRAFINCH", "DS"),
    "dose": raw("CTDIvol", b"ZEBRAFINCH", "LO"),
    "lossy": raw("LossyImageCompression", b"ZEBRAFINCH", "CS"),
    "several frames": attributes(NumberOfFrames=2, SOPClassUID=EnhancedCTImageStorage),
    "report": attributes(SOPClassUID=BasicTextSRStorage, Modality="QUOKKA"),
    "equipment": raw("ContributingEquipmentSequence", b"ZEBRAFINCH", "SQ"),
    "frame of reference": raw("FrameOfReferenceUID", b"QX77-4242", "UI"),
    "number of frames": raw("NumberOfFrames", b"ZEBRAFINCH", "IS"),
    "derivation": raw("DerivationDescription", LATIN, "IS"),
    "image type": raw("ImageType", LATIN, "US"),
}


def write_input(folder: Path) -> None:
    """Sound series, every malformed one, and files that are no image or do not decode."""
    scan(folder / "sound", 1)
    for number, (name, change) in enumerate(MALFORMED.items(), start=100):
        scan(folder / name, number, change=change)
    gap = scan(folder / "gap", 2, slices=4)
    gap[1].unlink()
    (cut,) = scan(folder / "cut", 3)[:1]
    cut.write_bytes(cut.read_bytes()[:-500])
    header_only, half, overwritten = scan(folder / "headers", 4)
    header_only.write_bytes(header_only.read_bytes()[:900])
    half.write_bytes(half.read_bytes()[:200] + LATIN * 20)
    overwritten.write_bytes(b"\0" * 128 + b"DICM" + LATIN * 50)
    for path in scan(folder / "codec", 5):
        path.write_bytes(_not_decodable(pydicom.dcmread(path)))
    for path in scan(folder / "syntax", 6):
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.ZEBRAFINCH.QUOK\0", 1))
    (folder / "notes.txt").write_bytes(LATIN)
    (folder / "report.dcm").write_bytes(LATIN)
    structured = make_slice(
        SOPClassUID=BasicTextSRStorage, Modality="SR", Rows=None, Columns=None, PixelData=None
    )
    identify(structured)
    save(structured, folder / "structured")


def _not_decodable(dataset: pydicom.Dataset) -> bytes:
    """JPEG 2000 pixels that begin well and go on with a name."""
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51\x00\x2f" + LATIN * 30])
    dataset["PixelData"].is_undefined_length = True
    stream = pydicom.filebase.DicomBytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


DRIVER: Final = """
import json, logging, sys
if sys.argv[1] == "debug":
    logging.basicConfig(level=logging.DEBUG, filename="debug.log")
from pipeline.cli import main
codes = []
for arguments in json.loads(sys.argv[2]):
    print("---", arguments[0], flush=True)
    try:
        main(arguments)
    except SystemExit as ended:
        codes.append(ended.code)
print("--- codes", json.dumps(codes))
"""


class Workplace:
    """A project in which commands run as a user runs them, with everything they write below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = root.parent / f"{root.name}-in"
        (root / "configs" / "tiny").mkdir(parents=True)
        (root / "tmp").mkdir()
        (root / "dvc.yaml").touch()
        (root / "configs" / "labels.yaml").write_bytes((CHECKOUT / "configs" / "labels.yaml").read_bytes())
        (root / "configs" / "preset.yaml").write_text("preset: tiny\n")
        (root / "configs" / "tiny" / "ingest.yaml").write_text(
            "sources: [{manifest: manifest, split: holdout, root: pairs}]\nworkers: 1\n"
        )
        self.denoiser, self.segmenter = write_bundles(root / "weights")

    def predict(self, *more: str, target: str = "predictions/tiny") -> list[str]:
        """The arguments of `ldct predict` with both models."""
        weights = ["--denoiser", str(self.denoiser), "--segmenter", str(self.segmenter)]
        return ["predict", str(self.source), target, *weights, *more]

    def run(self, commands: list[list[str]], *, debug: bool) -> tuple[list[int], str]:
        """Run commands; returns their exit codes and what they printed, which is also kept below `root`."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("LDCT_", "MLFLOW_"))
        }
        environment = {
            **kept,
            "PYTHONPATH": str(CHECKOUT),
            "HOME": str(self.root),
            "TMPDIR": str(self.root / "tmp"),
            "DVC_ROOT": str(self.root),
            "COLUMNS": "200",
            **({"PYTHONWARNINGS": "default", "LDCT_DEBUG": "1"} if debug else {}),
        }
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, "debug" if debug else "plain", json.dumps(commands)],
            cwd=self.root,
            env=environment,
            capture_output=True,
            check=False,
        )
        (self.root / "printed.out").write_bytes(done.stdout)
        (self.root / "printed.err").write_bytes(done.stderr)
        printed = (done.stdout + done.stderr).decode(errors="replace")
        assert done.returncode == 0, printed
        codes: list[int] = json.loads(printed.partition("--- codes")[2].splitlines()[0])
        return codes, printed


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("latin-1"),
        lambda text: text.encode(),
        lambda text: text.lower().encode("utf-16"),
        lambda text: json.dumps(text).encode(),
        lambda text: hashlib.sha256(text.encode()).hexdigest().encode(),
        lambda text: b'<img src="data:image/png;base64,' + base64.b64encode(png_with(text)) + b'">',
        lambda text: png_with(text),
    ],
)
def test_the_search_finds_what_is_there(tmp_path: Path, encode: Callable[[str], bytes]) -> None:
    (tmp_path / "file").write_bytes(encode(NAME))
    assert files_with_traces(tmp_path)


def png_with(text: str) -> bytes:
    """A picture with a compressed comment."""
    chunk = PngInfo()
    chunk.add_text("Comment", text, zip=True)
    stream = io.BytesIO()
    Image.new("L", (4, 4)).save(stream, "png", pnginfo=chunk)
    return stream.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
def test_a_planted_identity_is_only_in_dicom_outputs(tmp_path: Path, debug: bool) -> None:
    place = Workplace(tmp_path / "project")
    write_input(place.source)
    options = ["--dose", "0.25", "--flux", "2e5", "--kernel", "hann"]
    codes, printed = place.run(
        [
            ["inspect", str(place.source)],
            ["inspect", str(place.source), "--json"],
            place.predict("--nifti"),
            place.predict("--nifti", "--verify"),
            ["simulate", "dose", str(place.source), "pairs", "--workers", "1", *options],
            ["manifest", "scan", str(place.source), "found"],
            ["manifest", "scan", "pairs", "manifest"],
            ["ingest"],
            ["report"],
        ],
        debug=debug,
    )
    assert files_with_traces(place.root) == []
    assert codes == [3, 3, 3, 3, 3, 1, 3, 0, 0], printed
    assert list((place.root / "data" / "tiny" / "cases").glob("*/*.nii"))
    assert (place.root / ".ldct" / "mlflow.db").exists()
    results = place.root / "predictions" / "tiny"
    assert (results / "journal.html").exists()
    assert all(list(results.glob(f"*/*/{name}")) for name in ("denoised/*.dcm", "*.nii", "preview.png"))


@pytest.mark.slow
def test_names_of_source_files_and_folders_stay_out_of_the_results(tmp_path: Path) -> None:
    place = Workplace(tmp_path / "project")
    for number, folder in enumerate(("sound", "gap", "bad", "cut")):
        files = scan(
            place.source / f"Platypus{folder}",
            number,
            slices=4,
            change=raw("RescaleSlope", b"?", "DS") if folder == "bad" else None,
        )
        for path in files:
            path.rename(path.with_name(f"platypus {path.name}"))
    next((place.source / "Platypusgap").glob("*0002*")).unlink()
    cut = next((place.source / "Platypuscut").glob("*0002*"))
    cut.write_bytes(cut.read_bytes()[:-500])
    (place.source / "platypus.dcm").write_bytes(b"notes")
    codes, printed = place.run(
        [
            place.predict(),
            ["simulate", "dose", str(place.source), "pairs", "--dose", "0.25", "--workers", "1"],
        ],
        debug=False,
    )
    assert codes == [3, 3], printed
    assert "platypus" in printed  # the terminal names the files at fault
    for folder in ("predictions", "pairs"):
        assert files_with_traces(place.root / folder, (SOURCE_NAME.encode(),), dicom=True) == []
