import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn
from torch.nn.functional import avg_pool2d

from pipeline.degradations import WhiteNoise
from pipeline.hu import WATER_CENTRED
from pipeline.losses import discriminator_loss, nonsaturating_generator_loss, wasserstein_critic_loss
from pipeline.models import RedCNN
from pipeline.models.discriminator import patch_discriminator
from pipeline.objectives import (
    AdversarialRestoration,
    NonSaturating,
    Restoration,
    RestorationPair,
    Wasserstein,
)

GAMES = [NonSaturating(r1_gamma=2.0), Wasserstein(penalty_weight=10.0, critic_steps=3)]
SIDE = 24


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def patches(count=2, seed=0):
    normal = torch.full((count, 1, SIDE, SIDE), 40.0)
    noise = torch.randn(2, count, 1, SIDE, SIDE, generator=draws(seed))
    return {"low_dose": normal + 40 * noise[0], "normal_dose": normal + 10 * noise[1]}


def build_networks():
    torch.manual_seed(0)
    return {
        "denoiser": RedCNN(features=4).train(),
        "discriminator": patch_discriminator(features=4, layers=1, spectral_norm=False).train(),
    }


def adversarial(game, **changes):
    normal = patches()["normal_dose"][0, 0].short().numpy()
    low = patches()["low_dose"][0, 0].short().numpy()
    schedule = {"weight": 0.1, "start_step": 0, "ramp_steps": 0}
    restoration = Restoration(WATER_CENTRED, [RestorationPair(low, normal)])
    return AdversarialRestoration(restoration, game=game, **schedule | changes)


def turns_of(objective, networks, *, step=0, seed=0, batch=None):
    return objective.turns(networks, batch or patches(), step=step, generator=draws(seed))


def seen(candidate):
    return candidate - avg_pool2d(candidate, 9, stride=1, padding=4, count_include_pad=False)


@pytest.mark.parametrize("game", GAMES)
def test_before_the_start_there_is_only_the_supervised_turn(game):
    networks = build_networks()
    (turn,) = turns_of(adversarial(game, start_step=5), networks, step=4)
    (alone,) = Restoration(WATER_CENTRED, []).turns(networks, patches(), step=4, generator=draws())
    assert turn.network == "denoiser"
    assert torch.equal(turn.loss, alone.loss)
    assert turn.logs.keys() == alone.logs.keys() == {"loss_mse"}


@pytest.mark.parametrize(("game", "turns"), [(GAMES[0], 1), (GAMES[1], 3)])
def test_the_discriminator_takes_its_turns_and_then_the_denoiser(game, turns):
    objective, networks = adversarial(game, start_step=5), build_networks()
    for step in (5, 500):
        names = [turn.network for turn in turns_of(objective, networks, step=step)]
        assert names == ["discriminator"] * turns + ["denoiser"]


def test_the_weight_rises_linearly_after_the_start_and_stays():
    objective = adversarial(GAMES[0], weight=0.2, start_step=10, ramp_steps=4)
    weights = [objective.weight_at(step) for step in (0, 9, 10, 11, 14, 99)]
    assert weights == pytest.approx([0, 0, 0, 0.05, 0.2, 0.2])
    assert adversarial(GAMES[0], weight=0.2, start_step=10).weight_at(10) == 0.2


@pytest.mark.parametrize("game", GAMES)
def test_each_turn_leaves_gradients_in_its_own_network_alone(game):
    networks = build_networks()
    for turn in turns_of(adversarial(game), networks):
        assert all(parameter.requires_grad for parameter in networks["discriminator"].parameters())
        turn.loss.backward()
        for name, network in networks.items():
            assert all(
                (parameter.grad is not None) == (name == turn.network) for parameter in network.parameters()
            )
            network.zero_grad()
        assert not any(value.requires_grad for value in turn.logs.values())


@pytest.mark.parametrize("after", ["error", "close"])
def test_the_discriminator_can_learn_again_after_an_error_or_an_early_end(after):
    networks = build_networks()
    parameters = list(networks["discriminator"].parameters())
    parameters[0].requires_grad = False  # was frozen before: stays so
    turns = turns_of(adversarial(GAMES[0]), networks)
    next(turns)
    if after == "error":
        networks["discriminator"].register_forward_hook(refuse)
        with pytest.raises(RuntimeError, match="refused"):
            next(turns)
    else:
        next(turns)
        turns.close()
    assert [parameter.requires_grad for parameter in parameters] == [False] + [True] * (len(parameters) - 1)


def refuse(*_):
    raise RuntimeError("refused")


def test_the_denoiser_meets_the_updated_discriminator():
    networks = build_networks()
    turns = turns_of(adversarial(GAMES[0]), networks)
    next(turns)
    with torch.no_grad():
        networks["discriminator"].layers[-1].bias.fill_(1e3)  # now everything is taken for real
    assert next(turns).logs["loss_adversarial"].item() == pytest.approx(0, abs=1e-4)
    assert next(turns, None) is None


def test_the_denoisers_loss_is_the_supervised_one_and_the_weighted_game():
    networks, batch = build_networks(), patches()
    (_, turn) = turns_of(adversarial(GAMES[0], weight=0.2, ramp_steps=4), networks, step=3, batch=batch)
    restored = networks["denoiser"](batch["low_dose"] / 1000)
    logits = networks["discriminator"](seen(restored))
    fooled = nonsaturating_generator_loss(logits).item()
    assert turn.logs["loss_adversarial"].item() == pytest.approx(fooled)
    assert turn.loss.item() == pytest.approx(turn.logs["loss_mse"].item() + 0.15 * fooled)


def squared_slopes(discriminator, candidates):
    """(N,) of the summed logits, by one backward pass per image, and how many logits an image has."""
    squares = []
    for candidate in candidates:
        image = candidate[None].clone().requires_grad_()
        logits = discriminator(seen(image))
        (slope,) = torch.autograd.grad(logits.sum(), image)
        squares.append(slope.square().sum())
    return torch.stack(squares), logits.numel()


def test_the_discriminator_pays_r1_at_normal_doses():
    networks, batch = build_networks(), patches(3)
    turn = next(turns_of(adversarial(GAMES[0]), networks, batch=batch))
    normal_dose = batch["normal_dose"] / 1000
    squares, logits = squared_slopes(networks["discriminator"], normal_dose)
    expected = 2.0 / 2 * squares.mean() / logits
    assert turn.logs["penalty"].item() == pytest.approx(expected.item(), rel=1e-5)
    real = networks["discriminator"](seen(normal_dose))
    fake = networks["discriminator"](seen(networks["denoiser"](batch["low_dose"] / 1000)))
    assert turn.loss.item() == pytest.approx((discriminator_loss(real, fake) + expected).item(), rel=1e-5)


def test_the_critic_pays_for_a_slope_other_than_one():
    networks, batch = build_networks(), patches(3)
    turn = next(turns_of(adversarial(GAMES[1]), networks, batch=batch))
    share = torch.rand((3, 1, 1, 1), generator=draws())
    normal_dose = batch["normal_dose"] / 1000
    with torch.no_grad():
        restored = networks["denoiser"](batch["low_dose"] / 1000)
    mixed = share * normal_dose + (1 - share) * restored
    squares, logits = squared_slopes(networks["discriminator"], mixed)
    slopes = squares.sqrt() / logits
    assert turn.logs["penalty"].item() == pytest.approx(10 * (slopes - 1).square().mean().item(), rel=1e-4)
    real, fake = (networks["discriminator"](seen(image)) for image in (normal_dose, restored))
    distance = wasserstein_critic_loss(real, fake).item()
    assert turn.loss.item() - turn.logs["penalty"].item() == pytest.approx(distance, abs=1e-5)


class Brightest(nn.Module):
    """Takes the candidate with the brighter spot for real."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, image):
        return self.gain * image.amax(dim=(2, 3), keepdim=True)


def test_accuracy_counts_the_pairs_told_apart_and_the_gap_how_clearly():
    """Spots of one pixel lose 1/81 of their height to the local mean; an untrained RED-CNN keeps them."""
    networks = {"denoiser": RedCNN(features=2), "discriminator": Brightest()}
    spot = torch.zeros(1, 1, SIDE, SIDE)
    spot[..., 12, 12] = 1
    low_dose = torch.tensor([0.0, 10.0, 20.0, 30.0])[:, None, None, None] * spot
    batch = {"low_dose": low_dose, "normal_dose": 25 * spot.expand(4, -1, -1, -1)}
    turn = next(turns_of(adversarial(GAMES[1]), networks, batch=batch))
    assert turn.logs["discriminator_accuracy"].item() == 0.75
    assert turn.logs["logit_gap"].item() == pytest.approx((25 + 15 + 5 - 5) / 4 / 1000 * 80 / 81)


def images_seen_by(discriminator):
    """A list that grows by what the discriminator is given."""
    watched = []
    discriminator.register_forward_hook(lambda _, images, __: watched.append(images[0].detach()))
    return watched


class Drawn(nn.Module):
    """Returns the same noise, around any HU, whatever it is given."""

    def __init__(self, offset):
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(offset))

    def forward(self, image):
        return self.offset + 0.01 * torch.randn(image.shape, generator=draws(5))


@pytest.mark.parametrize("game", GAMES)
def test_the_discriminator_sees_neither_the_low_dose_nor_a_constant_offset(game):
    normal_dose = patches()["normal_dose"]

    def watched(low_dose, normal_hu, restored_offset):
        networks = build_networks() | {"denoiser": Drawn(restored_offset)}
        images = images_seen_by(networks["discriminator"])
        batch = {"low_dose": low_dose, "normal_dose": normal_dose + normal_hu}
        list(turns_of(adversarial(game), networks, batch=batch))
        return torch.cat(images)

    images = watched(patches()["low_dose"], 0.0, 0.0)
    others = watched(patches(seed=9)["low_dose"], 300.0, -0.9)
    torch.testing.assert_close(images, others, rtol=0, atol=1e-6)
    assert images.std() > 0.005


class Middle(nn.Module):
    """Returns the middle of three slices, as a noise map asks."""

    neighbours = 1
    noise_map = True

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, image):
        return image[:, 1:2] + self.bias


def test_the_discriminator_sees_the_slice_restored_of_several():
    batch = patches()
    low_dose = batch["low_dose"]
    surrounded = {
        "low_dose": torch.cat([low_dose - 500, low_dose, low_dose + 500], dim=1),
        "normal_dose": batch["normal_dose"],
        "noise_sd_hu": torch.tensor([40.0, 40.0]),
    }
    networks = build_networks() | {"denoiser": Middle()}
    (judging, _) = turns_of(adversarial(GAMES[0]), networks, batch=surrounded)
    real = networks["discriminator"](seen(batch["normal_dose"] / 1000))
    fake = networks["discriminator"](seen(low_dose / 1000))
    assert judging.logs["logit_gap"].item() == pytest.approx((real - fake).mean().item(), rel=1e-4)


def test_a_degraded_input_is_drawn_once_for_all_turns():
    discriminator = patch_discriminator(features=2, layers=1)
    watched = images_seen_by(discriminator)
    restoration = Restoration(WATER_CENTRED, [], degradation=[WhiteNoise(20.0)])
    objective = AdversarialRestoration(restoration, game=GAMES[1], weight=1.0, start_step=0, ramp_steps=0)
    batch = {"normal_dose": patches()["normal_dose"], "pixel_mm": torch.ones(2)}
    list(turns_of(objective, {"denoiser": RedCNN(features=2), "discriminator": discriminator}, batch=batch))
    assert len(watched) == 3 * 2 + 1
    restored = [images[2:] for images in watched[:6:2]]
    assert all(torch.equal(images, watched[-1]) for images in restored)


@pytest.mark.parametrize("game", GAMES)
def test_the_losses_of_equal_parts_average_to_that_of_the_batch(game):
    """Parts in lockstep, as the engine accumulates; a game that draws shares one generator state."""
    networks, batch = build_networks(), patches(4)
    whole = turns_of(adversarial(game), networks, batch=batch)
    halves = [{name: value[part] for name, value in batch.items()} for part in (slice(0, 2), slice(2, 4))]
    parts = [turns_of(adversarial(game), networks, batch=half) for half in halves]
    for turn, *several in zip(whole, *parts, strict=True):
        if isinstance(game, NonSaturating) or turn.network == "denoiser":
            mean = np.mean([part.loss.item() for part in several])
            assert turn.loss.item() == pytest.approx(mean, rel=1e-5)
        assert {part.network for part in several} == {turn.network}


@pytest.mark.parametrize("game", GAMES)
def test_under_the_engines_bfloat16_the_penalty_is_that_of_float32(game):
    exact = next(turns_of(adversarial(game), build_networks()))
    fabric = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("bf16-mixed", "cpu"))
    wrapped = {
        name: fabric.setup(network, torch.optim.SGD(network.parameters()))[0]
        for name, network in build_networks().items()
    }
    for index, turn in enumerate(turns_of(adversarial(game), wrapped)):
        fabric.backward(turn.loss)
        if index == 0:
            assert turn.logs["penalty"].item() == pytest.approx(exact.logs["penalty"].item(), rel=1e-3)
            assert turn.logs["logit_gap"].item() != exact.logs["logit_gap"].item()


class Shrink(nn.Module):
    """Keeps a share of the noise around 40 HU."""

    def __init__(self, share):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))

    def forward(self, image):
        return 0.04 + self.share * (image - 0.04)


def noise_of_two_doses(step):
    """Noise of 10 HU at normal dose, and of 40 HU at a low dose made from it; 8 patches of 16 × 16."""
    noise = torch.randn(2, 8, 1, 16, 16, generator=draws(step))
    normal_dose = 40 + 10 * noise[0]
    return {"low_dose": normal_dose + math.sqrt(40**2 - 10**2) * noise[1], "normal_dose": normal_dose}


def train_discriminator(objective, networks, steps):
    optimizer = torch.optim.Adam(networks["discriminator"].parameters(), 2e-3, betas=(0.0, 0.9))
    for step in range(steps):
        turn = next(turns_of(objective, networks, step=step, batch=noise_of_two_doses(step)))
        optimizer.zero_grad()
        turn.loss.backward()
        optimizer.step()


def accuracy(objective, networks):
    """Over fresh patches."""
    turns = [
        next(turns_of(objective, networks, batch=noise_of_two_doses(step))) for step in range(1000, 1020)
    ]
    return np.mean([turn.logs["discriminator_accuracy"].item() for turn in turns])


def test_the_discriminator_learns_to_miss_the_noise_that_the_squared_error_takes_away():
    """The best share for the squared error is (10/40)² = 1/16; the normal dose has the noise of 1/4."""
    game = NonSaturating(r1_gamma=1e-3)
    discriminator = patch_discriminator(features=8, layers=1, spectral_norm=False)
    networks = {"denoiser": Shrink(1 / 16), "discriminator": discriminator}
    train_discriminator(adversarial(game), networks, 200)
    assert accuracy(adversarial(game), networks) > 0.9
    losses = []
    for share in (1 / 16, 1 / 8, 1 / 4):
        pair = networks | {"denoiser": Shrink(share)}
        (_, turn) = turns_of(adversarial(game), pair, batch=noise_of_two_doses(1000))
        losses.append(turn.logs["loss_adversarial"].item())
    assert losses == sorted(losses, reverse=True)


def test_the_discriminator_accepts_a_share_of_the_inputs_noise():
    """A quarter of the low dose's noise is as strong as the normal dose's; beside the low dose it is told."""
    objective = adversarial(NonSaturating(r1_gamma=1e-3))
    discriminator = patch_discriminator(features=8, layers=1, spectral_norm=False)
    networks = {"denoiser": Shrink(1 / 4), "discriminator": discriminator}
    train_discriminator(objective, networks, 200)
    assert accuracy(objective, networks) == pytest.approx(0.5, abs=0.05)


def test_the_critic_learns_which_candidate_has_too_little_noise():
    discriminator = patch_discriminator(features=8, layers=1, spectral_norm=False)
    networks = {"denoiser": Shrink(1 / 16), "discriminator": discriminator}
    train_discriminator(adversarial(GAMES[1]), networks, 60)
    assert accuracy(adversarial(GAMES[1]), networks) > 0.7
    *_, turn = turns_of(adversarial(GAMES[1], weight=1.0), networks, batch=noise_of_two_doses(1000))
    turn.loss.backward()
    assert networks["denoiser"].share.grad < 0  # a step against it leaves more noise


@pytest.mark.parametrize("game", GAMES)
def test_the_same_step_and_generator_give_the_same_losses(game):
    losses = [
        [turn.loss.item() for turn in turns_of(adversarial(game), build_networks(), seed=7)] for _ in "ab"
    ]
    assert losses[0] == losses[1]
    assert all(map(math.isfinite, losses[0]))


def test_validation_and_picture_are_the_restorations(tmp_path):
    networks, objective = build_networks(), adversarial(GAMES[0])
    score = objective.validate(networks, bf16=False)
    assert (score.metric, score.convention, objective.product) == ("psnr_db", "redcnn", "denoiser")
    objective.draw(networks, tmp_path / "samples.png", bf16=False)
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_the_last_weights_are_kept_where_that_is_asked_for_and_the_score_stays():
    networks = build_networks()
    best, last = (
        adversarial(GAMES[0], keep=keep).validate(networks, bf16=False) for keep in ("best", "last")
    )
    assert vars(last) == vars(best)
    unbeatable = replace(best, value=best.value + 10)
    assert not best.beats(unbeatable)
    assert last.beats(unbeatable)


def test_a_noise_map_is_for_the_denoiser_alone():
    networks = build_networks() | {"denoiser": RedCNN(features=4, noise_map=True).train()}
    batch = patches() | {"noise_sd_hu": torch.tensor([40.0, 40.0])}
    watched = images_seen_by(networks["discriminator"])
    for turn in turns_of(adversarial(GAMES[0]), networks, batch=batch):
        turn.loss.backward()
        assert torch.isfinite(turn.loss)
    assert {images.shape[1] for images in watched} == {1}
    assert torch.equal(watched[0][:2], seen(batch["normal_dose"] / 1000))


@pytest.mark.parametrize(
    "settings", [{"weight": 0.0}, {"weight": -1.0}, {"start_step": -1}, {"ramp_steps": -1}]
)
def test_a_schedule_that_cannot_be_is_refused(settings):
    with pytest.raises(ValueError, match="weight must be positive"):
        adversarial(GAMES[0], **settings)


def test_games_check_their_numbers():
    with pytest.raises(ValueError, match="r1_gamma must be positive"):
        NonSaturating(r1_gamma=0.0)
    for arguments in [{"penalty_weight": 0.0, "critic_steps": 1}, {"penalty_weight": 1.0, "critic_steps": 0}]:
        with pytest.raises(ValueError, match="must be positive"):
            Wasserstein(**arguments)
