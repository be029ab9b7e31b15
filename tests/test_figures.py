import numpy as np
import pytest
from PIL import Image

from pipeline.figures import CurvePanel, Panel, save_curve_panels, save_grid, save_panels
from pipeline.hu import ABDOMEN, HUWindow

RAMP = np.tile(np.linspace(-200, 300, 64, dtype=np.float32), (48, 1))


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).reshape(-1, 3)


def test_same_panels_give_the_same_bytes(tmp_path):
    labels = np.zeros(RAMP.shape, np.uint8)
    labels[:, 40:] = 2
    rows = [
        [Panel(RAMP, ABDOMEN, title="ramp"), Panel(RAMP, ABDOMEN, labels=labels, colours={2: (255, 0, 0)})],
        [Panel(RAMP, HUWindow(-50, 50), diverging=True)],
    ]
    for name in ("a.png", "b.png"):
        save_panels(tmp_path / name, rows, title="one")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_png_holds_no_software_version_or_date(tmp_path):
    save_panels(tmp_path / "p.png", [[Panel(RAMP, ABDOMEN)]])
    with Image.open(tmp_path / "p.png") as picture:
        assert set(picture.info) <= {"dpi"}


def test_panel_is_black_below_the_window_and_white_above(tmp_path):
    save_panels(tmp_path / "p.png", [[Panel(np.where(RAMP < 0, -2000, 2000), ABDOMEN)]])
    colours, counts = np.unique(pixels(tmp_path / "p.png"), axis=0, return_counts=True)
    assert colours[np.argsort(counts)[-2:]].sum(axis=1).tolist() in ([0, 765], [765, 0])


def test_overlay_blends_the_label_colour(tmp_path):
    white = np.full((40, 40), 1000.0)
    panel = Panel(white, ABDOMEN, labels=np.ones((40, 40), int), colours={1: (255, 0, 0)})
    save_panels(tmp_path / "p.png", [[panel]])
    blended = [255, round(255 * 0.55), round(255 * 0.55)]
    assert (pixels(tmp_path / "p.png") == blended).all(axis=1).sum() > 10_000


def test_panel_refuses_labels_of_another_shape():
    with pytest.raises(ValueError, match="shape"):
        Panel(RAMP, ABDOMEN, labels=np.zeros((3, 3)), colours={1: (0, 0, 0)})


@pytest.mark.parametrize("count", [1, 5, 9])
def test_grid_of_any_count_is_written(tmp_path, count):
    save_grid(tmp_path / "deep" / "g.png", np.zeros((count, 16, 24)), ABDOMEN, columns=4, title=f"{count}")
    assert len(pixels(tmp_path / "deep" / "g.png"))


def test_curves_may_differ_in_length(tmp_path):
    curves = {"training": ([0, 1, 2], [3.0, 2.0, 1.0]), "validation": ([1], [2.5])}
    panels = [CurvePanel("loss", curves, {"input": 2.8})]
    save_curve_panels(tmp_path / "c.png", panels, x_label="step")
    assert len(pixels(tmp_path / "c.png"))


def test_nothing_to_draw_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="at least one panel"):
        save_panels(tmp_path / "p.png", [])
    with pytest.raises(ValueError, match="save_curve_panels needs at least one panel"):
        save_curve_panels(tmp_path / "c.png", [], x_label="step")
    with pytest.raises(ValueError, match="images"):
        save_grid(tmp_path / "g.png", np.zeros((0, 4, 4)), ABDOMEN)
