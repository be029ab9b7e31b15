import errno
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pipeline.dicom.writing import write_file
from tests.dicom_factory import make_slice


def test_a_file_appears_under_its_name_alone(tmp_path):
    write_file(make_slice(), tmp_path / "0001.dcm")
    assert [path.name for path in tmp_path.iterdir()] == ["0001.dcm"]
    assert pydicom.dcmread(tmp_path / "0001.dcm").PixelData == make_slice().PixelData


def unwritable():
    """Its last element fails, when the others are already on the disk."""
    dataset = make_slice()
    dataset.add_new(0x7FE10010, "OB", "text")
    return dataset


@pytest.mark.parametrize("exists", [False, True])
def test_a_dataset_that_cannot_be_written_leaves_nothing(tmp_path, exists):
    path = tmp_path / "0001.dcm"
    if exists:
        path.write_bytes(b"former")
    with pytest.raises((TypeError, AttributeError)):
        write_file(unwritable(), path)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == (
        [("0001.dcm", b"former")] if exists else []
    )


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_cannot_be_renamed_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)):
        write_file(make_slice(), tmp_path / "0001.dcm")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_named_even_from_within_an_element(tmp_path):
    (tmp_path / ".0001.dcm.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_file(make_slice(np.zeros((512, 512), np.int16)), tmp_path / "0001.dcm")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_cannot_be_encoded_is_no_error_of_the_disk(tmp_path):
    dataset = make_slice()
    dataset.add_new("SmallestImagePixelValue", "US", 7)
    dataset["SmallestImagePixelValue"]._value = "SECRET"
    with pytest.raises(ValueError, match="cannot be encoded") as caught:
        write_file(dataset, tmp_path / "0001.dcm")
    assert "SECRET" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
