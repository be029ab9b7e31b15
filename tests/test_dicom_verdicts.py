import pickle
import re
from pathlib import Path

import pytest

from pipeline.dicom import VERDICTS, Code, Finding, Observation, SeriesError, Task, Verdict
from pipeline.dicom.verdicts import gravest

DOCUMENT = Path(__file__).parents[1] / "docs" / "dicom.md"


def test_documented_table_is_the_table_in_the_code():
    rows = re.findall(
        r"^\| `([A-Z_]+)` \| (\w+) \| (\w+) \| (\w+) \| (\w+) \|", DOCUMENT.read_text(), re.MULTILINE
    )
    documented = {code: tuple(verdicts) for code, *verdicts in rows}
    assert documented == {code: tuple(VERDICTS[code][task] for task in Task) for code in Code}


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([], None),
        ([Code.GANTRY_TILT], Verdict.SLICEWISE),
        ([Code.GANTRY_TILT, Code.NOT_HU], Verdict.REFUSED),
        ([Code.NOT_HU, Code.CORRUPT_PIXEL_DATA], Verdict.FAILED),
        ([Code.CORRUPT_PIXEL_DATA, Code.LOCALIZER], Verdict.SKIPPED),
    ],
)
def test_gravest_verdict_decides(codes, expected):
    finding = gravest([Observation(code, "", ()) for code in codes], Task.DENOISE)
    assert (finding and finding.verdict) == expected


def test_series_error_carries_its_finding():
    finding = Finding(Verdict.REFUSED, Code.NOT_HU, "no slope", ())
    error = SeriesError(finding)
    assert error.finding is finding
    assert str(error) == "NOT_HU: no slope"


def test_series_error_comes_through_a_pickle_whole():
    finding = Finding(Verdict.REFUSED, Code.NOT_HU, "no slope", (Path("a"),))
    error = pickle.loads(pickle.dumps(SeriesError(finding)))  # noqa: S301  our own
    assert (type(error), error.finding, str(error)) == (SeriesError, finding, "NOT_HU: no slope")
