import re

import numpy as np
import pytest
from pydicom.uid import UID

from pipeline.dicom import Geometry, deterministic_uid


def test_affine_of_a_supine_head_first_scan_flips_x_and_y():
    geometry = Geometry((-10, -20, 5), (1, 0, 0), (0, 1, 0), spacing_mm=(2.5, 0.8, 0.7), shape=(4, 6, 8))
    expected = [[-0.7, 0, 0, 10], [0, -0.8, 0, 20], [0, 0, 2.5, 5], [0, 0, 0, 1]]
    np.testing.assert_allclose(geometry.affine_ras, expected)


def test_slices_of_a_plane_with_downward_columns_step_towards_the_feet():
    geometry = Geometry((0, 0, 0), (1, 0, 0), (0, -1, 0), spacing_mm=(2, 1, 1), shape=(3, 4, 4))
    assert geometry.normal == (0, 0, -1)
    assert geometry.position_mm(2) == (0, 0, -4)


@pytest.mark.parametrize(
    "changes",
    [
        {"row_cosines": (1, 1, 0)},
        {"column_cosines": (1, 0, 0)},
        {"spacing_mm": (0, 1, 1)},
        {"shape": (0, 4, 4)},
    ],
)
def test_geometry_that_is_no_grid_is_refused(changes):
    arguments = {
        "origin_mm": (0, 0, 0),
        "row_cosines": (1, 0, 0),
        "column_cosines": (0, 1, 0),
        "spacing_mm": (2, 1, 1),
        "shape": (3, 4, 4),
    }
    with pytest.raises(ValueError, match=r"must be|at least"):
        Geometry(**{**arguments, **changes})


def test_uid_depends_on_its_parts_and_their_borders_alone():
    assert deterministic_uid("a", "bc") == deterministic_uid("a", "bc")
    assert deterministic_uid("a", "bc") != deterministic_uid("ab", "c")


def test_uid_is_valid_and_under_the_uuid_root():
    uid = deterministic_uid("anything", "é")
    assert UID(uid).is_valid
    assert re.fullmatch(r"2\.25\.\d{1,39}", uid)
