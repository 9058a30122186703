"""Diffusion-GAN: its losses by hand at the noised images, and the gradient that comes back through the noise."""

import torch
from torch.nn.functional import softplus

from sparring.data import Batch, Draws
from sparring.discriminators import Diffused, PlainDiscriminator
from sparring.generators import LatentGenerator
from sparring.methods.gan.diffusion_gan import DiffusionGAN
from sparring.networks import Perceptron
from sparring.objectives import R1
from sparring.recipes import recipe
from sparring.recipes.compose import compose
from sparring.runs.checkpoint import read_checkpoint


def test_its_losses_by_hand():
    torch.manual_seed(0)
    generator = LatentGenerator(Perceptron(in_features=3, out_shape=[2, 1, 1], width=8, depth=2), latent_dim=3)
    net = Perceptron(width=8, depth=2)
    diffused = Diffused(discriminator=PlainDiscriminator(net=net), strength=0.5, noise_std=0.3)
    method = DiffusionGAN(generator, diffused, penalty=R1(weight=3.0))
    images = torch.randn(6, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    draws = Draws(0, phase="rollout")
    rollout = method.rollout(Batch(images, draws=draws))

    draws = Draws(0, phase="rollout")
    fake = generator(draws.normal((6, 3)))
    t = diffused.draw_times(draws, 6)
    assert 0 < (t == 0).sum() < 6
    abar = diffused.abar[t].view(6, 1, 1, 1)
    y, y_fake = (abar.sqrt() * x + (1 - abar).sqrt() * 0.3 * draws.normal(x.shape) for x in (images, fake))
    y.requires_grad_()
    losses = method.discriminator_loss(Batch(images, draws=Draws(0, phase="d")), rollout)
    torch.testing.assert_close(losses["adversarial"], softplus(-net(y)).mean() + softplus(net(y_fake)).mean())
    (slope,) = torch.autograd.grad(net(y).sum(), y)
    torch.testing.assert_close(losses["r1"], 1.5 * slope.flatten(1).square().sum(1).mean())
    assert method.statistics["chain"] == 505

    loss = method.generator_loss(Batch(images, draws=Draws(0, phase="g")), rollout)["adversarial"]
    expected = softplus(-net(y_fake)).mean()
    torch.testing.assert_close(loss, expected)
    for found, hand in zip(*(torch.autograd.grad(x, generator.parameters()) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(found, hand)


def test_the_chain_shrinks_in_a_run_whose_discriminator_is_never_sure(tmp_path):
    """At the start no logit is above 0, so r = -1; in 8 steps of 16 rows it goes all of the way of 128 images."""
    flags = ["--trainer.steps=8", "--method.discriminator.adapt_images=128", "--method.discriminator.strength=1"]
    flags += ["--trainer.discriminator_optimizer.lr=1e-9", "--trainer.checkpoint_every=4"]
    run = recipe.build(compose("diffusion_gan", "tiny"), flags, out=tmp_path / "run", init=None, header={})
    with torch.no_grad():
        run.method.discriminator.discriminator.net.read_out.bias.fill_(-10)
    run.fit()
    assert run.method.discriminator.chain == 10
    kept = [read_checkpoint(tmp_path / "run" / "checkpoints" / f"00000{step}")[0] for step in (4, 8)]
    assert [tensors["discriminator"]["strength.value"].item() for tensors in kept] == [0.5, 0.0]
