"""Progressive growing: its schedule, blended reals, both networks at one stage, and a run that grows and goes on."""

import shutil

import pytest
import torch

from sparring.data import Batch, Draws
from sparring.discriminators import PlainDiscriminator
from sparring.generators import LatentGenerator
from sparring.methods.gan.progressive_gan import ProgressiveGAN, stage_at
from sparring.networks import ConvGenerator, GrowingDiscriminator, GrowingGenerator
from sparring.networks.growing import doubled
from sparring.recipes import recipe
from sparring.recipes.compose import compose
from sparring.runs.checkpoint import read_checkpoint


def progressive(size=8, **settings):
    torch.manual_seed(0)
    widths = (8,) * (1 + size // 8)
    generator = LatentGenerator(GrowingGenerator(latent_dim=3, size=size, widths=widths), latent_dim=3)
    discriminator = PlainDiscriminator(net=GrowingDiscriminator(size=size, widths=widths, spread=2))
    return ProgressiveGAN(generator, discriminator, **settings)


def test_stages_have_equal_lengths():
    """Of 16x16 pixels: 4, 8 faded in, 8, 16 faded in, 16, each a fifth of the run."""
    found = [stage_at(progress, 2) for progress in (0, 0.19, 0.3, 0.4, 0.59, 0.65, 0.75, 0.9, 1.0, 2.0)]
    assert found == pytest.approx([0, 0, 0.5, 1, 1, 1.25, 1.75, 2, 2, 2])
    values = [stage_at(k / 1000, 2) for k in range(1001)]
    assert values == sorted(values)
    assert stage_at(0.5, 0) == 0


def test_reals_are_blended_and_fakes_are_what_the_generator_draws():
    method = progressive(first=0.25)
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    rollout = method.rollout(Batch(images, draws=Draws(0)))
    small = doubled(torch.nn.functional.avg_pool2d(images, 2))
    torch.testing.assert_close(rollout.real[0], 0.75 * small + 0.25 * images)
    torch.testing.assert_close(rollout.fake[0], method.generator(Draws(0).normal((4, 3))))
    plain = progressive(first=0.25, blend=False).rollout(Batch(images, draws=Draws(0)))
    assert torch.equal(plain.real[0], images)


def test_both_networks_grow_after_a_step_and_not_within_it():
    method = progressive()
    method.steps = 6
    stages = []
    for method.step in range(6):
        before = {key: value.clone() for key, value in method.state_dict().items()}
        method.rollout(Batch(torch.zeros(4, 1, 8, 8), draws=Draws(0)))
        assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
        method.after_step()
        assert method.stages[0].value == method.stages[1].value
        stages.append(method.stages[0].value)
    assert stages == pytest.approx([0, 0, 0.5, 1, 1, 1])


def test_a_run_that_grows_goes_on_bit_for_bit(tmp_path):
    """Stopped in the middle of a doubling: weights, moments, the average and the stage are those of the whole run."""
    flags = ["--trainer.steps=9", "--trainer.checkpoint_every=4", "--trainer.keep_checkpoints=9", "--method.first=0"]
    header = {"recipe": "progressive_gan", "setting": "tiny", "init": None, "allow": []}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    recipe.build(compose("progressive_gan", "tiny"), flags, out=whole, init=None, header=header).fit()
    shutil.copytree(whole, stopped)
    for step in ("000008", "000009"):
        shutil.rmtree(stopped / "checkpoints" / step)
    recipe.rebuild(stopped, []).fit(resume=True)
    first, second = (read_checkpoint(run / "checkpoints" / "000009")[0] for run in (whole, stopped))
    assert first.keys() == second.keys()
    for group in first:
        assert first[group].keys() == second[group].keys()
        assert all(torch.equal(tensor, second[group][key]) for key, tensor in first[group].items()), group
    middle = read_checkpoint(whole / "checkpoints" / "000004")[0]
    groups = [tensors[group] for tensors in (middle, first) for group in ("generator", "ema")]
    stages = [group["net.stage.millionths"].item() for group in groups]
    assert stages[0] == pytest.approx(333_333, abs=1)
    assert stages[2:] == [1_000_000, 1_000_000]
    assert any("first.1" in name for name in first["optimizer_generator"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: progressive(first=2.0), "`first=2.0` must lie between 0 and 1"),
        (
            lambda: ProgressiveGAN(
                LatentGenerator(ConvGenerator(latent_dim=3), latent_dim=3), progressive().discriminator
            ),
            "ConvGenerator and GrowingDiscriminator do not grow",
        ),
        (
            lambda: ProgressiveGAN(progressive(16).generator, progressive(8).discriminator),
            "2 doublings of the generator and 1 of the discriminator",
        ),
    ],
)
def test_what_cannot_grow_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
