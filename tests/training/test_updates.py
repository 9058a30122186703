"""What an update is: its clipping, its learning rate, what follows it, and what a player that rests is spared."""

import math

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from small_runs import method, trainer
from torch import nn

from sparring.training import AdamW

BETA = 0.9


def both(**settings):
    return {f"{role}_optimizer": AdamW(**settings) for role in ("generator", "discriminator")}


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_each_player_is_clipped_at_its_own_norm(tmp_path, clip):
    """The first moment after one update is (1 - beta) times the gradient that was used."""
    clips = {"generator": clip, "discriminator": clip / 2}
    optimizers = {f"{role}_optimizer": AdamW(clip=value, betas=(BETA, 0.999)) for role, value in clips.items()}
    run = trainer(tmp_path / "run", "adt", **optimizers)
    noted = dict(run.alternate(next(run.micro_batches()), 0)[1])
    for player in run.players:
        norm = noted[f"gradient_norm/{player.role}"]
        assert 2e-3 < norm < 1e2
        moments = [state["exp_avg"].flatten() for state in player.optimizer.state.values()]
        used = torch.cat(moments).norm().item() / (1 - BETA)
        assert used == pytest.approx(min(norm, clips[player.role]), rel=1e-4)


def test_each_update_has_the_learning_rate_of_its_step(tmp_path):
    run = trainer(tmp_path / "run", "adt", **both(lr=1e-2, warmup_steps=4))
    windows = run.micro_batches()
    for step in range(6):
        assert run.alternate(next(windows), step)[0]
        rates = [player.optimizer.param_groups[0]["lr"] for player in run.players]
        assert rates == pytest.approx([1e-2 * min(1, (step + 1) / 4)] * 2)


def test_a_cosine_ends_where_it_is_said_and_so_does_the_second_moment(tmp_path):
    settings = both(lr=1e-2, decay="cosine", decay_to=0.25, betas=(0.0, 0.9), beta2_end=0.98)
    run = trainer(tmp_path / "run", "adt", steps=4, **settings)
    windows = run.micro_batches()
    for step in range(4):
        assert run.alternate(next(windows), step)[0]
        share = 0.5 * (1 + math.cos(math.pi * step / 4))
        for player in run.players:
            group = player.optimizer.param_groups[0]
            assert group["lr"] == pytest.approx(1e-2 * (0.25 + 0.75 * share))
            assert group["betas"] == pytest.approx((0.0, 0.98 - 0.08 * share))
    player = run.players[0]
    assert player.lr(4) == pytest.approx(2.5e-3)
    assert player.betas(4) == pytest.approx((0.0, 0.98))
    for settings, words in (
        ({"decay_to": 2.0}, "decay_to=2.0"),
        ({"decay_to": 0.5}, "`decay_to=0.5` belongs to `decay=cosine`"),
        ({"decay": "linear"}, "`decay=linear` must be none or cosine"),
        ({"beta2_end": 1.0}, "beta2_end=1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            AdamW(**settings)


@pytest.mark.parametrize("discriminator_updates", [1, 2])
def test_the_encoder_is_pulled_back_after_each_of_its_updates(tmp_path, discriminator_updates):
    """At a learning rate of nearly 0 each update leaves 0.98 of the way from the start."""
    settings = {**both(lr=1e-12), "discriminator_updates": discriminator_updates}
    run = trainer(tmp_path / "run", "sadm", **settings)
    encoder = [parameter for parameter in run.method.discriminator.encoder.parameters() if parameter.requires_grad]
    start = [parameter.detach().clone() for parameter in encoder]
    with torch.no_grad():
        for parameter in encoder:
            parameter += 0.5
    windows = run.micro_batches()
    for step in range(3):
        assert run.alternate(next(windows), step)[0]
    for parameter, was in zip(encoder, start, strict=True):
        torch.testing.assert_close(parameter.detach(), was + 0.5 * 0.98 ** (3 * discriminator_updates))


def test_a_discriminator_that_rests_collects_no_gradient_and_stays(tmp_path):
    run = trainer(tmp_path / "run", "adt", discriminator_accuracy=0.8)
    run.balance.accuracy = 0.99
    discriminator = run.method.discriminator
    before = {name: tensor.clone() for name, tensor in discriminator.state_dict().items()}
    inner = run.alternate.finish

    def finish(player, loss):
        assert player.role == "generator"
        assert all(parameter.grad is None for parameter in discriminator.parameters())
        return inner(player, loss)

    run.alternate.finish = finish
    assert run.alternate(next(run.micro_batches()), 0)[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in discriminator.state_dict().items())
    assert all(parameter.grad is None for parameter in run.method.parameters())


class WithDropout(nn.Module):
    """A linear network that drops out half of its inputs."""

    def __init__(self):
        super().__init__()
        self.drop, self.last = nn.Dropout(0.5), nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, time):
        return self.last(self.drop(x)) + time[:, None, None, None] / 1000


def test_dropout_is_on_in_training_and_off_where_a_sampler_is_simulated(tmp_path):
    given = method("adt", WithDropout())
    run = trainer(tmp_path / "run", method=given)
    seen = []
    given.generator.net.drop.register_forward_hook(lambda module, x, y: seen.append((module.training, len(x[0]))))
    assert run.alternate(next(run.micro_batches()), 0)[0]
    assert [training for training, _ in seen] == [False] * (len(seen) - 1) + [True]  # the last is the denoising loss
    assert given.generator.net.training


@pytest.mark.parametrize(("name", "scheduler"), [("add", "LCMScheduler"), ("sadm", "DDIMScheduler")])
def test_the_pipeline_that_is_shipped_has_the_scheduler_of_its_method(tmp_path, name, scheduler):
    torch.manual_seed(0)
    blocks = dict(down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"], block_out_channels=[8])
    sizes = dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4)
    net = UNet2DModel(**blocks, **sizes, add_attention=False)
    run = trainer(tmp_path / "run", method=method(name, net), steps=1, num_samples=1).fit()
    assert type(DiffusionPipeline.from_pretrained(run / "pipeline").scheduler).__name__ == scheduler
