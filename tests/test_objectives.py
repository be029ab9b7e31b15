import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.degradations import Identity, WhiteNoise
from pipeline.hu import ABDOMEN, WATER_CENTRED, HUWindow
from pipeline.losses import MSE, LossTerm, absolute_error, discriminator_loss, nonsaturating_generator_loss
from pipeline.metrics import CONVENTIONS, ssim
from pipeline.models import ConvVAE, DCGANDiscriminator, DCGANGenerator, RedCNN, unet
from pipeline.models.inputs import slice_to_restore
from pipeline.objectives import (
    ELBO,
    Adversarial,
    LabelledSlice,
    Restoration,
    RestorationPair,
    Score,
    Segmentation,
)

WINDOW = HUWindow(-200, 300)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_higher_score_wins_only_where_higher_is_better():
    def score(value, up):
        return Score("m", value, "c", higher_is_better=up)

    assert score(2, True).beats(score(1, True))
    assert not score(2, False).beats(score(1, False))
    assert not score(1, True).beats(score(1, True))
    assert score(1, True).beats(None)


class AddTenHU(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(0.01))

    def forward(self, image):
        return image + self.bias


def test_restoration_scores_a_known_offset_as_its_psnr_and_gain():
    normal = np.zeros((32, 32), np.int16)
    objective = Restoration(WATER_CENTRED, [RestorationPair(normal - 50, normal)])
    score = objective.validate({"denoiser": AddTenHU()}, bf16=False)
    assert score.value == pytest.approx(20 * math.log10(400 / 40), abs=1e-3)
    assert score.details["input_psnr_db"] == pytest.approx(20 * math.log10(400 / 50))
    assert score.details["gain_db"] == pytest.approx(20 * math.log10(50 / 40), abs=1e-3)


def test_restoration_loss_is_the_mse_on_the_network_scale():
    objective = Restoration(
        WATER_CENTRED, [RestorationPair(np.ones((32, 32), np.int16), np.zeros((32, 32), np.int16))]
    )
    batch = {"low_dose": torch.zeros(2, 1, 24, 24), "normal_dose": torch.full((2, 1, 24, 24), 30.0)}
    (turn,) = objective.turns({"denoiser": AddTenHU()}, batch, step=0, generator=draws())
    assert turn.network == "denoiser"
    assert turn.loss.item() == pytest.approx(0.02**2)


def test_each_loss_has_a_curve_and_the_total_weighs_them():
    objective = Restoration(
        WATER_CENTRED, [], losses=[LossTerm("mse", 2.0, MSE.function), LossTerm("l1", 0.5, absolute_error)]
    )
    batch = {"low_dose": torch.zeros(2, 1, 24, 24), "normal_dose": torch.full((2, 1, 24, 24), 30.0)}
    (turn,) = objective.turns({"denoiser": AddTenHU()}, batch, step=0, generator=draws())
    assert turn.loss.item() == pytest.approx(2 * 0.02**2 + 0.5 * 0.02)
    assert {name: value.item() for name, value in turn.logs.items()} == pytest.approx(
        {"loss_mse": 0.02**2, "loss_l1": 0.02}
    )
    assert not any(value.requires_grad for value in turn.logs.values())


def test_errors_per_noise_weigh_each_sample_by_its_own_level():
    objective = Restoration(WATER_CENTRED, [], losses=[MSE], per_noise=True)
    batch = {
        "low_dose": torch.zeros(2, 1, 24, 24),
        "normal_dose": torch.full((2, 1, 24, 24), 30.0),
        "noise_sd_hu": torch.tensor([5.0, 40.0]),
    }
    (turn,) = objective.turns({"denoiser": AddTenHU()}, batch, step=0, generator=draws())
    assert turn.loss.item() == pytest.approx(((20 / 5) ** 2 + (20 / 40) ** 2) / 2)


def test_a_restoration_needs_a_loss():
    with pytest.raises(ValueError, match="at least one loss"):
        Restoration(WATER_CENTRED, [], losses=[])


class NoisyNeighbours(nn.Module):
    """Adds what lies above and the noise level to the middle of three slices."""

    neighbours = 1
    noise_map = True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, image):
        assert image.shape[1] == 4
        return slice_to_restore(image, 1) + self.weight * (image[:, 2:3] + image[:, 3:])


def test_neighbours_and_noise_level_reach_the_network_in_training_and_validation():
    low_dose = torch.tensor([9.0, 1.0, 20.0])[None, :, None, None].expand(2, 3, 24, 24)
    batch = {
        "low_dose": low_dose,
        "normal_dose": torch.zeros(2, 1, 24, 24),
        "noise_sd_hu": torch.tensor([3.0, 5.0]),
    }
    pair = RestorationPair(low_dose[0].numpy(), np.zeros((24, 24), np.int16), noise_sd_hu=5.0)
    networks = {"denoiser": NoisyNeighbours()}
    objective = Restoration(WATER_CENTRED, [pair])
    (turn,) = objective.turns(networks, batch, step=0, generator=draws())
    assert turn.loss.item() == pytest.approx((0.024**2 + 0.026**2) / 2)
    score = objective.validate(networks, bf16=False)
    assert score.value == pytest.approx(20 * math.log10(400 / 26), abs=1e-3)
    assert score.details["input_psnr_db"] == pytest.approx(20 * math.log10(400 / 1), abs=1e-3)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [({"neighbours": 2}, "2 neighbours on either side"), ({"neighbours": 0}, "takes a noise map")],
)
def test_a_degradation_refuses_networks_that_need_more_than_a_slice(attributes, message):
    network = NoisyNeighbours()
    for name, value in attributes.items():
        setattr(network, name, value)
    batch = {"normal_dose": torch.zeros(1, 1, 24, 24), "pixel_mm": torch.ones(1)}
    turns = Restoration(WATER_CENTRED, [], degradation=[Identity()]).turns(
        {"denoiser": network}, batch, step=0, generator=draws()
    )
    with pytest.raises(ValueError, match=message):
        next(turns)


@pytest.mark.parametrize(
    ("arguments", "convention"),
    [
        ({}, "redcnn"),
        ({"input_words": "made at 20 %"}, "redcnn, input: made at 20 %"),
        ({"degradation": [Identity()]}, "redcnn, input: normal dose after Identity()"),
    ],
)
def test_a_score_says_how_its_input_was_made(arguments, convention):
    pair = RestorationPair(np.ones((32, 32), np.int16), np.zeros((32, 32), np.int16))
    score = Restoration(WATER_CENTRED, [pair], **arguments).validate({"denoiser": AddTenHU()}, bf16=False)
    assert score.convention == convention


def test_validation_tells_the_ssim_of_input_and_result():
    rng = np.random.default_rng(0)
    normal = rng.normal(40, 10, (32, 32)).astype(np.int16)
    low = normal + rng.normal(0, 20, normal.shape).astype(np.int16)
    score = Restoration(WATER_CENTRED, [RestorationPair(low, normal)]).validate(
        {"denoiser": AddTenHU()}, bf16=False
    )
    expected = [ssim(image, normal, CONVENTIONS["redcnn"]) for image in (low + 10.0, low)]
    assert [score.details["ssim"], score.details["input_ssim"]] == pytest.approx(expected, abs=1e-5)


def test_every_patient_weighs_the_same_however_many_slices_it_has():
    """Offsets of 40 and 4 HU are 20 dB apart."""
    normal = np.zeros((32, 32), np.int16)
    near, far = (RestorationPair(normal + offset, normal) for offset in (-6, 30))  # then 4 and 40 HU off
    pairs = [replace(near, patient="many")] * 3 + [replace(far, patient="one")]
    networks = {"denoiser": AddTenHU()}
    mean, best, worst = (
        Restoration(WATER_CENTRED, some).validate(networks, bf16=False).value
        for some in (pairs, pairs[:1], pairs[3:])
    )
    assert best - worst == pytest.approx(20, abs=1e-3)
    assert mean == pytest.approx((best + worst) / 2, abs=1e-4)


@pytest.mark.parametrize("shape", [(2, 32, 32), (32, 30), (1, 1, 32, 32)])
def test_a_pair_that_does_not_fit_together_is_refused(shape):
    with pytest.raises(ValueError, match="a pair is"):
        RestorationPair(np.zeros(shape, np.int16), np.zeros((32, 32), np.int16))


def degraded_loss(*steps, seed=0):
    objective = Restoration(WATER_CENTRED, [], degradation=steps)
    batch = {"normal_dose": torch.full((8, 1, 64, 64), 30.0), "pixel_mm": torch.full((8,), 0.7)}
    (turn,) = objective.turns({"denoiser": AddTenHU()}, batch, step=0, generator=draws(seed))
    return turn.loss.item()


def test_a_degradation_makes_the_input_from_the_normal_dose():
    assert degraded_loss(Identity()) == pytest.approx(0.01**2)
    assert degraded_loss(WhiteNoise(20.0)) == pytest.approx(0.01**2 + 0.02**2, rel=0.03)


def test_the_degradation_of_a_step_depends_on_its_generator_alone():
    noise = WhiteNoise(20.0)
    assert degraded_loss(noise, seed=1) == degraded_loss(noise, seed=1) != degraded_loss(noise, seed=2)


def test_the_score_of_a_degraded_validation_says_so_and_compares_with_no_other():
    normal, degradation = np.zeros((32, 32), np.int16), [WhiteNoise(20.0)]
    pair = RestorationPair.from_normal_dose(normal, degradation, pixel_mm=0.7, generator=draws())
    assert np.array_equal(pair.degraded, degrade_again(normal, degradation))
    score = Restoration(WATER_CENTRED, [pair], degradation=degradation).validate(
        {"denoiser": AddTenHU()}, bf16=False
    )
    assert score.convention == "redcnn, input: normal dose after WhiteNoise(sd_hu=20.0)"
    assert score.details["input_psnr_db"] == pytest.approx(20 * math.log10(400 / 20), abs=0.3)


def degrade_again(normal, degradation):
    return RestorationPair.from_normal_dose(normal, degradation, pixel_mm=0.7, generator=draws()).degraded


def test_one_pair_overfits_in_50_steps():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    normal = np.full((40, 40), 40, np.int16)
    low = np.rint(normal + 40 * rng.standard_normal(normal.shape)).astype(np.int16)
    objective = Restoration(WATER_CENTRED, [RestorationPair(low, normal)])
    network = RedCNN(features=16).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    batch = {
        "low_dose": torch.from_numpy(low).float()[None, None],
        "normal_dose": torch.from_numpy(normal).float()[None, None],
    }
    for step in range(50):
        (turn,) = objective.turns({"denoiser": network}, batch, step=step, generator=draws())
        optimizer.zero_grad()
        turn.loss.backward()
        optimizer.step()
    assert objective.validate({"denoiser": network.eval()}, bf16=False).details["gain_db"] > 4


class Oracle(nn.Module):
    """Logits that split at 100 HU into organ and body; air below the window is background."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(100.0))

    def forward(self, image):
        hu = WINDOW.from_unit(image)
        return self.gain * torch.cat([-100 - hu, (hu + 100).minimum(60 - hu), hu - 60], dim=1)


def labelled_slice():
    image = np.full((32, 32), -1000, np.int16)
    image[8:24, 8:24] = 20
    image[12:16, 12:16] = 120
    classes = np.zeros((32, 32), np.uint8)
    classes[8:24, 8:24] = 1
    classes[12:16, 12:16] = 2
    return LabelledSlice(image, classes, (2.0, 2.0))


def segmentation(example):
    return Segmentation(
        ["body", "liver"], window=WINDOW, input_spacing_mm=2.0, colours={}, validation=[example]
    )


def test_segmentation_scores_a_perfect_prediction_as_one():
    score = segmentation(labelled_slice()).validate({"segmenter": Oracle()}, bf16=False)
    assert score.value == 1
    assert score.details == {"dice_body": 1, "dice_liver": 1}


def test_segmentation_scores_by_hand():
    example = labelled_slice()
    example.classes[12:16, 12:16] = 1
    example.classes[12:14, 12:16] = 2
    score = segmentation(example).validate({"segmenter": Oracle()}, bf16=False)
    assert score.details["dice_liver"] == pytest.approx(2 * 8 / (16 + 8))
    assert score.value == pytest.approx((1 + 2 / 3) / 2)


def test_segmentation_gives_the_network_a_gradient():
    network = unet(3, channels=(4, 8), residual_units=0)
    batch = {"image": torch.zeros(2, 1, 16, 16), "classes": torch.ones(2, 1, 16, 16, dtype=torch.int64)}
    (turn,) = segmentation(labelled_slice()).turns({"segmenter": network}, batch, step=0, generator=draws())
    turn.loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def elbo(**changes):
    settings = {"noise_sd": 0.1, "beta": 2.0, "warmup_steps": 10, "validation": torch.zeros(4, 1, 8, 8)}
    return ELBO(WINDOW, **settings | changes)


def test_beta_warms_up_linearly_and_stays():
    objective = elbo()
    assert [objective.beta_at(step) for step in (0, 5, 10, 999)] == [0, 1, 2, 2]
    assert elbo(warmup_steps=0).beta_at(0) == 2


def test_elbo_adds_its_terms_with_beta():
    vae = ConvVAE(image_size=8, latent_dimensions=3, features=4)
    batch = {"image": torch.zeros(2, 1, 8, 8)}
    (turn,) = elbo().turns({"vae": vae}, batch, step=5, generator=draws())
    assert turn.loss.item() == pytest.approx(sum(term.item() for term in turn.logs.values()), rel=1e-5)


def test_elbo_draws_from_the_generator_alone():
    vae = ConvVAE(image_size=8, latent_dimensions=3, features=4)
    batch = {"image": torch.zeros(2, 1, 8, 8)}

    def loss(seed):
        return next(elbo().turns({"vae": vae}, batch, step=5, generator=draws(seed))).loss.item()

    assert loss(0) == loss(0) != loss(1)


def test_elbo_validation_is_the_bound_at_beta_one():
    score = elbo().validate(
        {"vae": ConvVAE(image_size=8, latent_dimensions=3, features=4).eval()}, bf16=False
    )
    assert score.value == pytest.approx(score.details["reconstruction_nats"] + score.details["kl_nats"])
    assert not score.higher_is_better


@pytest.fixture
def gan():
    torch.manual_seed(0)
    networks = {
        "generator": DCGANGenerator(image_size=8, latent_dimensions=3, features=4),
        "discriminator": DCGANDiscriminator(image_size=8, features=4),
    }
    validation = ABDOMEN.from_unit(torch.rand(6, 1, 8, 8, generator=draws()))
    return networks, Adversarial(ABDOMEN, latent_dimensions=3, validation=validation)


def test_gan_turns_alternate_and_the_generator_meets_the_updated_discriminator(gan):
    networks, objective = gan
    turns = objective.turns(networks, {"image": torch.zeros(5, 1, 8, 8)}, step=0, generator=draws())
    first = next(turns)
    assert first.network == "discriminator"
    first.loss.backward()
    assert all(parameter.grad is None for parameter in networks["generator"].parameters())
    with torch.no_grad():
        networks["discriminator"].layers[-1].bias.fill_(1e3)  # now everything is taken for real
    second = next(turns)
    assert second.network == "generator"
    assert second.loss.item() == pytest.approx(0, abs=1e-4)
    assert next(turns, None) is None


def test_gan_logs_accuracy_and_gap_of_the_discriminator(gan):
    networks, objective = gan
    turn = next(objective.turns(networks, {"image": torch.zeros(5, 1, 8, 8)}, step=0, generator=draws()))
    assert 0 <= turn.logs["discriminator_accuracy"] <= 1
    assert math.isfinite(turn.logs["logit_gap"])


def test_gan_losses_at_indifference():
    zero = torch.zeros(3)
    assert discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert nonsaturating_generator_loss(zero).item() == pytest.approx(math.log(2))


def test_gan_validation_is_repeatable_and_lower_is_better(gan):
    networks, objective = gan
    first, second = (objective.validate(networks, bf16=False) for _ in range(2))
    assert first == second
    assert not first.higher_is_better


def test_pictures_are_written(tmp_path, gan):
    networks, adversarial = gan
    low = np.zeros((32, 32), np.int16)
    pictures = [
        (adversarial, networks),
        (elbo(), {"vae": ConvVAE(image_size=8, latent_dimensions=3, features=4).eval()}),
        (Restoration(WATER_CENTRED, [RestorationPair(low + 5, low)]), {"denoiser": AddTenHU()}),
        (
            Segmentation(
                ["body", "liver"],
                window=WINDOW,
                input_spacing_mm=2.0,
                colours={1: (0, 0, 255), 2: (255, 0, 0)},
                validation=[labelled_slice()],
            ),
            {"segmenter": Oracle()},
        ),
    ]
    for number, (objective, trained) in enumerate(pictures):
        path = tmp_path / f"{number}.png"
        objective.draw(trained, path, bf16=False)
        assert path.read_bytes().startswith(b"\x89PNG")
