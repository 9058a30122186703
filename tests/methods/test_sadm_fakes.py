"""SADM's other fakes, one noise level for a batch, latents, and the memory: against the rollouts themselves."""

import math

import pytest
import torch
from method_parts import batch_of, denoiser, evaluated, images_of, opponent_frozen, structure, total, touched
from rollout_parts import PATHS, levels_of
from torch import nn

from sparring.data import Batch, Draws, StoredImages
from sparring.denoiser import Denoiser
from sparring.discriminators import SmallConvNet, StructureDiscriminator
from sparring.methods import SADM, Diffusion
from sparring.process import EDM, VP, Latents, RectifiedFlow
from sparring.rollout import draw_path, log_snr_of_start, noise, posterior_step, simulate

FAKES = pytest.mark.parametrize("fake", ["simulate", "posterior_step"])
PROCESSES = pytest.mark.parametrize(
    ("process", "kind", "scheduler"), [(VP(), "v", "ddim"), (EDM(), "edm", "dpm"), (RectifiedFlow(), "flow", "euler")]
)


def sadm(fake="one_step", process=None, kind="v", judge=None, **settings):
    return SADM(denoiser(process=process, kind=kind), judge or structure(), fake=fake, **settings)


def after_times(method, batch):
    """The draws of a rollout, as they are once the denoising loss has taken its own."""
    noise(method.generator.process, batch, method.times(method.generator.process, batch.draws, len(batch)))
    return batch


@PROCESSES
def test_simulate_compares_the_end_of_the_sampler_weighted_by_its_start(process, kind, scheduler):
    method = sadm("simulate", process, kind, scheduler=scheduler, num_steps=4, num_grad_steps=2)
    made = method.rollout(batch_of())
    batch = after_times(method, batch_of())
    path = draw_path(batch.draws, 4, 2)
    settings = {"num_steps": 4, "start": path.start, "grad_steps": path.grad_steps}
    expected = simulate(method.generator, batch, process.scheduler(scheduler, kind), **settings)
    assert torch.equal(made.fake, expected)
    assert torch.equal(made.real, images_of())
    snr = math.exp(log_snr_of_start(method.scheduler, 4, path.start))
    torch.testing.assert_close(made.weight, torch.full((6,), snr / (1 + snr)))
    assert method.sampler == scheduler


@pytest.mark.parametrize("name", PATHS)
def test_the_log_snr_of_a_start_is_that_of_the_path(name):
    process, kind, scheduler = PATHS[name]
    for start, (alpha, sigma) in enumerate(list(zip(*levels_of(process, scheduler, 4), strict=True))[:4]):
        found = log_snr_of_start(process.scheduler(scheduler, kind), 4, start)
        if alpha / sigma > 1e-4:  # diffusers keeps alpha in float32
            assert found == pytest.approx(2 * math.log(alpha / sigma), abs=2e-4)
        else:
            assert found < -18


def test_simulate_needs_no_graph_before_the_structure_counts():
    method = sadm("simulate", delay_steps=3)
    assert not method.rollout(batch_of()).fake.requires_grad
    method.step = 3
    assert method.rollout(batch_of()).fake.requires_grad


@PROCESSES
def test_posterior_step_compares_noisy_batches_in_the_scale_of_images(process, kind, scheduler):
    method = sadm("posterior_step", process, kind, num_steps=3)
    made = method.rollout(batch_of())
    batch = after_times(method, batch_of())
    step = posterior_step(method.generator, batch, torch.linspace(0, 1, 4))
    scale = (process.alpha(step.s) ** 2 + process.sigma(step.s) ** 2).sqrt()[:, None, None, None]
    torch.testing.assert_close(made.real * scale, step.x_s_real)
    torch.testing.assert_close(made.fake * scale, step.x_s_fake)
    assert made.fake.abs().max() < 10
    snr = process.log_snr(step.t).exp()
    torch.testing.assert_close(made.weight, snr / (1 + snr))


@FAKES
def test_the_denoising_loss_stays_what_it_is(fake):
    method = sadm(fake)
    loss = evaluated(method.generator_loss(batch_of(phase="generator"), method.rollout(batch_of())))["diffusion"]
    plain = Diffusion(denoiser())
    expected = evaluated(plain.generator_loss(batch_of(phase="generator"), plain.rollout(batch_of())))["diffusion"]
    assert torch.equal(loss, expected)


@FAKES
def test_each_player_gets_its_own_gradient(fake):
    method = sadm(fake, structure_weight=1.0)
    made = method.rollout(batch_of())
    total(method.discriminator_loss(batch_of(phase="discriminator"), made)).backward()
    assert touched(method.generator) == set()
    assert touched(method.discriminator) != set()
    method.zero_grad()
    with opponent_frozen(method):
        method.generator_loss(batch_of(phase="generator"), made)["structure"].backward()
    assert touched(method.discriminator) == set()
    assert touched(method.generator) == {name for name, _ in method.generator.named_parameters()}


@FAKES
def test_off_is_plain_diffusion_bit_for_bit(fake):
    found = []
    for method in (sadm(fake, mode="off"), sadm(mode="off", shared_t=True), Diffusion(denoiser())):
        losses = evaluated(method.generator_loss(batch_of(phase="generator"), method.rollout(batch_of())))
        total(losses).backward()
        found.append([losses["diffusion"], *(p.grad for p in method.generator.parameters())])
        assert list(losses) == ["diffusion"]
        assert method.sampler == "ddim"
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*found, strict=True))


def test_one_noise_level_for_all_images_of_a_batch():
    method = sadm(shared_t=True)
    whole = method.rollout(batch_of())
    (level,) = whole.noised.t.unique().tolist()
    torch.testing.assert_close(whole.weight, whole.weight[:1].expand(6))
    for rows in (slice(0, 2), slice(2, 6)):  # micro-batches and processes have the same one
        part = Batch(images_of()[rows], draws=Draws(0, phase="rollout", rows=rows, total=6))
        assert method.rollout(part).noised.t.unique().tolist() == [level]
    others = {method.rollout(batch_of(draws=Draws(0, step=s, phase="rollout"))).noised.t[0].item() for s in range(9)}
    assert len(others) > 5
    assert len(sadm().rollout(batch_of()).noised.t.unique()) > 1


# -- latents -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def space():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    sizes = dict(in_channels=1, out_channels=1, latent_channels=3, block_out_channels=(8, 8), norm_num_groups=4)
    return Latents(AutoencoderKL(**blocks, **sizes, sample_size=8).double())


class LatentNet(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 3, 3, padding=1).double()

    def forward(self, x, time):
        return self.layer(x) + time[:, None, None, None] / 1000


def latent_sadm(space, channels, **settings):
    encoder = SmallConvNet(in_channels=channels, widths=(4, 8), pretrain="self-supervised", epochs=1)
    judge = StructureDiscriminator(encoder=encoder.double())
    return SADM(Denoiser(LatentNet(), VP(), "v", space), judge, structure_weight=1.0, **settings)


def latent_batch(method):
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    return method.generator.embed(Batch(images, draws=Draws(0, phase="rollout")))


@pytest.mark.parametrize("fake", ["one_step", "simulate"])
def test_latents_are_judged_as_images_or_as_they_are(space, fake):
    images, latents = latent_sadm(space, 1, fake=fake), latent_sadm(space, 3, fake=fake, judged="latents")
    batch = latent_batch(images)
    decoded, plain = images.rollout(batch), latents.rollout(latent_batch(latents))
    assert torch.equal(decoded.real, batch.images)
    assert torch.equal(plain.real, batch.x_0)
    torch.testing.assert_close(decoded.fake, space.decode(plain.fake))
    for method, made in ((images, decoded), (latents, plain)):
        with opponent_frozen(method):
            method.generator_loss(batch, made)["structure"].backward()
        assert touched(method.generator) == {"net.layer.weight", "net.layer.bias"}


def test_an_encoder_of_latents_learns_from_latents(space):
    method = latent_sadm(space, 3, judged="latents")
    seen = []
    method.structure.prepare = lambda images, labels: seen.append(images)
    images = torch.rand(5, 1, 8, 8) * 2 - 1
    method.prepare(StoredImages(images))
    assert torch.equal(seen[0], space.encode(images, torch.zeros(5, 3, 4, 4)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fake": "simulate", "scheduler": "ddpm"}, "`scheduler=ddpm` adds noise"),
        ({"fake": "simulate", "num_grad_steps": 6}, "`num_grad_steps=6` must lie between 1 and `num_steps=5`"),
        ({"fake": "simulate", "shared_t": True}, "`shared_t` belongs to `fake=one_step`"),
        ({"judged": "latents"}, "`judged=latents`: this denoiser works on pixels"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        sadm(**settings)
    assert "\n" not in str(error.value)


def test_noisy_latents_have_no_images(space):
    with pytest.raises(ValueError, match="set judged='latents'"):
        latent_sadm(space, 1, fake="posterior_step")
    method = latent_sadm(space, 3, fake="posterior_step", judged="latents")
    assert method.rollout(latent_batch(method)).fake.shape == (4, 3, 4, 4)


def test_the_start_of_the_encoder_is_looked_through_now_and_then():
    method = sadm()
    method.discriminator_loss(batch_of(), method.rollout(batch_of()))
    assert torch.equal(method.statistics["structure_start"], method.statistics["structure"])
    for p in method.structure.encoder.parameters():
        p.data += 0.1
    method.discriminator_loss(batch_of(), method.rollout(batch_of()))
    assert not torch.equal(method.statistics["structure_start"], method.statistics["structure"])
    method.statistics, method.step = {}, 1
    method.discriminator_loss(batch_of(), method.rollout(batch_of()))
    assert "structure_start" not in method.statistics
