import numpy as np
import pytest

from pipeline.config.labels import load_labels
from pipeline.simulate import Label, Phantom, make_phantom
from pipeline.simulate.fields import SmoothField

SHAPE, SPACING_MM = (5, 96, 96), (18.0, 4.2, 4.2)


@pytest.fixture(scope="module")
def chest() -> Phantom:
    return make_phantom("chest", np.random.default_rng(5), shape=SHAPE, spacing_mm=SPACING_MM)


@pytest.fixture(scope="module")
def abdomen() -> Phantom:
    return make_phantom("abdomen", np.random.default_rng(5), shape=SHAPE, spacing_mm=SPACING_MM)


@pytest.fixture(scope="module")
def head() -> Phantom:
    return make_phantom("head", np.random.default_rng(5), shape=SHAPE, spacing_mm=(15.0, 2.6, 2.6))


def mean_hu(phantom: Phantom, label: Label) -> float:
    return float(np.median(phantom.hu[phantom.labels == label]))


def test_same_seed_gives_the_same_patient_and_another_seed_another(abdomen: Phantom) -> None:
    again = make_phantom("abdomen", np.random.default_rng(5), shape=SHAPE, spacing_mm=SPACING_MM)
    other = make_phantom("abdomen", np.random.default_rng(6), shape=SHAPE, spacing_mm=SPACING_MM)
    assert again.hu.tobytes() == abdomen.hu.tobytes()
    assert again.factors == abdomen.factors
    assert not np.array_equal(other.labels, abdomen.labels)


def test_phantom_has_the_grid_and_types_asked_for(chest: Phantom) -> None:
    assert chest.hu.shape == chest.labels.shape == SHAPE
    assert chest.hu.dtype == np.float32
    assert chest.labels.dtype == np.uint8


def test_tissues_have_their_ct_numbers(chest: Phantom, abdomen: Phantom, head: Phantom) -> None:
    assert -900 < mean_hu(chest, Label.LUNGS) < -780
    assert -115 < mean_hu(abdomen, Label.FAT) < -80
    assert 30 < mean_hu(abdomen, Label.MUSCLE) < 65
    assert 40 < mean_hu(abdomen, Label.LIVER) < 130
    assert 25 < mean_hu(abdomen, Label.KIDNEYS) < 230
    assert 20 < mean_hu(head, Label.BRAIN) < 42
    assert mean_hu(head, Label.SKULL) > 400
    assert mean_hu(abdomen, Label.BACKGROUND) == -1000


def test_regions_show_their_organs(chest: Phantom, abdomen: Phantom, head: Phantom) -> None:
    def organs(phantom: Phantom) -> set[Label]:
        return {Label(value) for value in np.unique(phantom.labels)}

    trunk = {Label.FAT, Label.MUSCLE, Label.AORTA, Label.SPINE, Label.RIBS, Label.TABLE}
    assert organs(chest) >= trunk | {Label.LUNGS, Label.HEART}
    assert organs(abdomen) >= trunk | {Label.LIVER, Label.SPLEEN, Label.KIDNEYS}
    assert organs(head) >= {Label.FAT, Label.SKULL, Label.BRAIN, Label.TABLE}
    assert not organs(head) & {Label.LIVER, Label.LUNGS, Label.AORTA}


def test_organs_have_adult_sizes_and_sides(abdomen: Phantom) -> None:
    columns = np.arange(SHAPE[2])
    liver, spleen = (
        float((abdomen.labels == organ).sum(axis=(0, 1)) @ columns / (abdomen.labels == organ).sum())
        for organ in (Label.LIVER, Label.SPLEEN)
    )
    assert liver < SHAPE[2] / 2 < spleen  # the patient's left is on the right of the picture
    assert 600 < abdomen.factors["liver_ml"] < 2200
    assert 60 < abdomen.factors["spleen_ml"] < 400
    assert 120 < abdomen.factors["kidneys_ml"] < 450


def test_volume_factors_count_the_labels(chest: Phantom) -> None:
    voxel_ml = 18.0 * 4.2 * 4.2 / 1000
    assert chest.factors["lungs_ml"] == pytest.approx(
        (chest.labels == Label.LUNGS).sum() * voxel_ml, abs=0.01
    )


def test_neighbouring_slices_differ_little() -> None:
    near = make_phantom("abdomen", np.random.default_rng(2), shape=(2, 96, 96), spacing_mm=(1.0, 4.2, 4.2))
    far = make_phantom("abdomen", np.random.default_rng(2), shape=(2, 96, 96), spacing_mm=(40.0, 4.2, 4.2))
    changed = [float((phantom.labels[0] != phantom.labels[1]).mean()) for phantom in (near, far)]
    assert changed[0] < 0.02 < changed[1]


def test_lesion_factors_match_what_is_drawn() -> None:
    for seed in range(4):
        phantom = make_phantom(
            "abdomen", np.random.default_rng(seed), shape=(20, 64, 64), spacing_mm=(5.0, 6.2, 6.2)
        )
        drawn_ml = phantom.factors["lesion_ml"]
        if phantom.factors["lesion_present"]:
            ball_ml = np.pi / 6 * (phantom.factors["lesion_diameter_mm"] / 10) ** 3
            assert 0.3 * ball_ml < drawn_ml < 1.7 * ball_ml + 0.3
        else:
            assert drawn_ml == phantom.factors["lesion_diameter_mm"] == 0


def test_unknown_region_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown region 'leg'; choose from head, chest, abdomen"):
        make_phantom("leg", np.random.default_rng(0), shape=SHAPE, spacing_mm=SPACING_MM)


def test_smooth_field_has_unit_spread_and_no_jumps() -> None:
    axis = np.arange(0, 400, 2, dtype=np.float32)
    field = SmoothField.sample(np.random.default_rng(0), axis, axis, axis, step_mm=10.0)
    planes = np.stack([field.plane(z) for z in (50.0, 150.0, 250.0)])
    assert planes.mean() == pytest.approx(0, abs=0.05)
    assert planes.std() == pytest.approx(1, abs=0.05)
    assert np.abs(field.plane(50.0) - field.plane(50.1)).max() < 0.1


def test_the_label_table_names_every_value() -> None:
    table = load_labels()
    assert {label.name: label.value for label in table.labels} == {
        label.name.lower(): label.value for label in Label if label not in (Label.BACKGROUND, Label.TABLE)
    }
    assert table.outside == (Label.BACKGROUND, Label.TABLE)
