"""Adversarial tuning: its fakes are those of the systems that a rollout is named after, for every pair."""

import pytest
import torch
from test_ladd import batch, unet

from sparring.backbones import SmallConvNet
from sparring.discriminators import (
    DenoiserHeads,
    DiffusionClassifier,
    PlainDiscriminator,
    ProjectedDiscriminator,
    SiameseDiscriminator,
    StructureDiscriminator,
)
from sparring.generators import Denoiser
from sparring.methods.tuning.adversarial import ROLLOUTS, Adversarial
from sparring.networks import ConvDiscriminator
from sparring.objectives import Hinge, Wasserstein
from sparring.process import EDM, VP
from sparring.rollout import (
    deterministic_scheduler,
    few_step,
    from_noise,
    one_step,
    posterior_step,
    simulate,
    student_levels,
)
from sparring.rollout.flow_map import sampler_levels


def backbone():
    torch.manual_seed(1)
    return SmallConvNet(in_channels=1, num_classes=10)


def convolutions():
    torch.manual_seed(2)
    return PlainDiscriminator(net=ConvDiscriminator(in_channels=1, size=8, time=True), given=["t"])


def two_errors():
    return DiffusionClassifier(net=unet(num_class_embeds=2), draws=2)


DISCRIMINATORS = {
    "projected": lambda: ProjectedDiscriminator(backbone=backbone(), width=8, augment=""),
    "siamese": lambda: SiameseDiscriminator(backbone=backbone(), width=8, augment=""),
    "structure": lambda: StructureDiscriminator(encoder=backbone()),
    "convolutions": convolutions,
    "own features": lambda: None,
    "two errors": two_errors,
}


def method(rollout, discriminator="projected", **settings):
    made = DISCRIMINATORS[discriminator]()
    settings = {"objective": Wasserstein(ceiling=0.5) if discriminator == "structure" else Hinge()} | settings
    return Adversarial(Denoiser(unet(), VP(), "v"), made, rollout=rollout, **settings).double()


def fakes_by_hand(made, kind):
    """Fakes of the systems that a rollout is of, from the same random numbers; the batch's own are used up first."""
    rows, denoiser = batch(), made.generator
    made.times(denoiser.process, rows.draws, len(rows))
    rows.draws.normal(tuple(rows.x_0.shape))
    if kind == "one_step":
        return one_step(denoiser, rows, made.times).prediction.x0
    if kind == "from_noise":
        return from_noise(denoiser, rows, student_levels(denoiser, 1)).x0
    if kind == "few_step":
        return few_step(denoiser, rows, student_levels(denoiser, 4)).prediction.x0
    if kind == "posterior":
        return posterior_step(denoiser, rows, sampler_levels(denoiser.process, "ddim", 4, "v")).x_s_fake
    start = rows.draws.one_integer(4)
    return simulate(denoiser, rows, denoiser.process.scheduler("ddim", "v"), num_steps=4, start=start)


@pytest.mark.parametrize("kind", ROLLOUTS)
def test_fakes_are_those_of_the_system_that_a_rollout_is_of(kind):
    made = method(kind, "convolutions")
    rollout = made.rollout(batch())
    torch.testing.assert_close(rollout.views.fake[0], fakes_by_hand(made, kind))
    given = rollout.views.given
    if kind == "from_noise":
        assert torch.equal(given.t, torch.full((4,), float(student_levels(made.generator, 1)[0])).to(given.t))
    if kind == "posterior":  # the real pair is of the forward process: less noise than in x_t
        assert not torch.equal(rollout.views.real[0], batch().x_0)
    else:
        assert torch.equal(rollout.views.real[0], batch().x_0)


def test_one_of_several_lengths_is_drawn_for_each_batch():
    made, found = method("simulate", "convolutions", num_steps=(2, 3, 5)), set()
    denoiser = made.generator
    for seed in range(16):
        rows = batch(phase=f"rollout {seed}")
        fake = made.rollout(batch(phase=f"rollout {seed}")).views.fake[0]
        made.times(denoiser.process, rows.draws, len(rows))
        rows.draws.normal(tuple(rows.x_0.shape))
        length = (2, 3, 5)[rows.draws.one_integer(3)]
        start = rows.draws.one_integer(length)
        scheduler = deterministic_scheduler(denoiser, "ddim", length, 1)
        torch.testing.assert_close(fake, simulate(denoiser, rows, scheduler, num_steps=length, start=start))
        found.add(length)
    assert found == {2, 3, 5}
    for lengths, kind in (((4, 10), "posterior"), ((), "simulate")):
        with pytest.raises(ValueError, match="`num_steps=.*give one number"):
            method(kind, num_steps=lengths)


@pytest.mark.parametrize("discriminator", DISCRIMINATORS)
@pytest.mark.parametrize("kind", ROLLOUTS)
def test_every_pair_gives_each_player_its_gradient_and_no_other(kind, discriminator):
    if (kind, discriminator) == ("from_noise", "structure"):
        pytest.skip("refused")
    made = method(kind, discriminator, diffusion_weight=0.0)
    rollout = made.rollout(batch())
    sum(made.discriminator_loss(batch(), rollout).values()).backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in made.generator.parameters())
    assert any(p.grad is not None and p.grad.any() for p in made.discriminator.parameters())
    loss = sum(made.generator_loss(batch(), rollout).values())
    slopes = torch.autograd.grad(loss, list(made.generator.parameters()), allow_unused=True)
    assert any(slope is not None and slope.any() for slope in slopes)
    assert all(slope is None or slope.isfinite().all() for slope in slopes)


def test_terms_have_their_weights_and_none_is_plain_training():
    made = method("one_step", adversarial_weight=0.25, diffusion_weight=2.0)
    losses = made.generator_loss(batch(), made.rollout(batch()))
    single = method("one_step", adversarial_weight=1.0, diffusion_weight=1.0)
    alone = single.generator_loss(batch(), single.rollout(batch()))
    torch.testing.assert_close(losses["adversarial"], 0.25 * alone["adversarial"])
    torch.testing.assert_close(losses["diffusion"](), 2.0 * alone["diffusion"]())
    plain = method("simulate", adversarial_weight=0.0)
    assert plain.discriminator is None
    assert list(plain.generator_loss(batch(), plain.rollout(batch()))) == ["diffusion"]


def test_heads_on_the_denoiser_draw_levels_of_their_own():
    made = method("from_noise", "own features")
    assert isinstance(made.discriminator, DenoiserHeads)
    t = made.rollout(batch(400)).views.given.t
    assert len(t.unique()) > 300


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="StructureDiscriminator compares a fake with the image it was made from"):
        method("from_noise", "structure")
    with pytest.raises(ValueError, match="scheduler='lcm' does not exist for EDM"):
        Adversarial(Denoiser(unet(), EDM(), "edm"), convolutions(), rollout="few_step")
    with pytest.raises(ValueError, match="`rollout=no` must be one_step, from_noise, posterior, simulate or few_step"):
        method("no")
