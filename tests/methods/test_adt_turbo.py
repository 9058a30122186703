"""ADT-turbo: what one call learns on Gaussians, what is kept, and the product of `sparring fit add`."""

import json
from contextlib import nullcontext

import pytest
import torch
from diffusers import DiffusionPipeline
from method_parts import ClassNet, Net, batch_of, denoiser, evaluated, projected, siamese
from torch import nn

from sparring.backbones import SmallConvNet
from sparring.cli.main import main
from sparring.data import Batch, Digits, Draws
from sparring.discriminators import Discriminator, ProjectedDiscriminator
from sparring.generators import Denoiser, Pretrained
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.tuning.adt_turbo import ADTTurbo
from sparring.objectives import MMD, Linear
from sparring.process import EDM, VP, RectifiedFlow, Times, set_timesteps


class Affine(nn.Module):
    """A student of one call, x_0 = a + b x, in the plane."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a).view(1, 2, 1, 1)), nn.Parameter(torch.tensor(b))

    def forward(self, x, time):
        return self.a + self.b * x


class Moments(Discriminator):
    """Embeds points as themselves and their squares; with a linear kernel their distance is that of two moments."""

    def features(self, x, given, draws):
        return [x.flatten(1)]

    def logits(self, features, given):
        return torch.cat([features[0], features[0].square()], dim=1)


class End(Times):
    def __call__(self, process, draws, n):
        return torch.ones(n)


def trained(method, steps=400):
    """Tuned on N((1, -0.5), 0.5^2)."""
    random = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(method.generator.parameters(), lr=0.02)
    for step in range(steps):
        points = torch.randn(256, 2, 1, 1, generator=random) * 0.5 + torch.tensor([1.0, -0.5]).view(1, 2, 1, 1)
        batch = Batch(points, draws=Draws(0, step=step))
        losses = evaluated(method.generator_loss(batch, method.rollout(batch)))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    return method.generator.net


def test_one_call_learns_the_law_of_the_new_points_and_plain_tuning_their_mean():
    """Old N(0, 1), new N(m, 0.5^2). Plain tuning at t = 1 ends in N(m, 0): the mean is all that noise tells.

    Spreads: (5 standard errors of) 256 samples a step, averaged by small steps.
    """
    start = dict(a=[0.0, 0.0], b=1.0)
    turbo = ADTTurbo(Denoiser(Affine(**start), VP(), "x0"), Moments(), num_calls=1, objective=MMD(kernel=Linear()))
    net = trained(turbo)
    torch.testing.assert_close(net.a.flatten(), torch.tensor([1.0, -0.5]), rtol=0, atol=0.1)
    assert net.b.abs().item() == pytest.approx(0.5, abs=0.1)
    plain = trained(Diffusion(Denoiser(Affine(**start), VP(), "x0"), times=End()))
    torch.testing.assert_close(plain.a.flatten(), torch.tensor([1.0, -0.5]), rtol=0, atol=0.1)
    assert plain.b.abs().item() < 0.1


class Shifted(Net):
    """Predicts images; `shift` is added to them."""

    num_classes = 10

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.labels = []

    def forward(self, x, time, labels):
        self.labels.append(labels)
        return super().forward(x, time) + self.shift


def test_what_is_kept_is_the_image_of_every_call_under_old_classes():
    """A shift of 0.3 moves each predicted image by 0.3: the distance is 0.09, its slope 0.6 in each of three calls."""
    method = ADTTurbo(denoiser(Shifted(), kind="x0"), projected(), num_calls=3, keep=[2, 5], keep_weight=2.0)
    losses = evaluated(method.generator_loss(batch_of(labels=True), method.rollout(batch_of(labels=True))))
    assert losses["keep"].item() == 0
    method.generator.net.shift.data += 0.3
    method.generator.net.labels.clear()
    keep = evaluated(method.generator_loss(batch_of(labels=True), method.rollout(batch_of(labels=True))))["keep"]
    assert keep.item() == pytest.approx(2 * 0.09, rel=1e-6)
    (slope,) = torch.autograd.grad(keep, method.generator.net.shift)
    assert slope.item() == pytest.approx(2 * 0.6, rel=1e-6)
    new, old = method.generator.net.labels[:3], method.generator.net.labels[3:]
    assert all(torch.equal(labels, torch.arange(6)) for labels in new)
    assert len(old) == 3
    assert {*old[0].tolist()} == {2, 5}


def test_the_states_of_what_is_kept_are_the_students_own():
    seen = []
    method = ADTTurbo(denoiser(Shifted(), kind="x0"), projected(), num_calls=2, keep=[0])
    method.generator.net.shift.data += 0.5
    for network in (method.generator.net, method.old.net):
        network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    method.distance_to_old(batch_of(labels=True))
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[2])  # the student's two calls, then those of its old self
    assert torch.equal(seen[1], seen[3])


def test_a_random_call_is_shown_and_only_the_last_of_those_made_carries_gradient():
    made = set()
    for step in range(20):
        method = ADTTurbo(denoiser(), projected(), num_calls=3, shown="random")
        before = method.generator.images_seen
        method.rollout(batch_of(draws=Draws(0, step=step, phase="rollout")))
        made.add((method.generator.images_seen - before) // 6)
    assert made == {1, 2, 3}


def test_without_an_adversary_only_what_is_kept_is_left():
    method = ADTTurbo(denoiser(ClassNet()), projected(), keep=[1], adversarial_weight=0.0)
    assert method.discriminator is None
    assert evaluated(method.generator_loss(batch_of(labels=True), method.rollout(batch_of(labels=True)))).keys() == {
        "keep"
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(keep=[1]), "`keep=.1.`: Net takes neither classes nor captions"),
        (dict(adversarial_weight=0.0), "nothing would be trained"),
        (dict(scheduler="unipc"), "`scheduler=unipc`: a few-step student"),
        (dict(num_calls=2, grad_calls=3), "`grad_calls=3` must lie between 1 and `num_calls=2`"),
        (dict(keep_weight=-1.0), "`keep_weight=-1.0`"),
        (dict(discriminator=siamese()), "SiameseDiscriminator compares fakes with the images"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ADTTurbo(denoiser(), **dict(discriminator=projected()) | settings)


def test_a_flow_is_walked_by_eulers_method_unless_lcm_is_asked_for_and_edm_has_none():
    flow = Denoiser(Net(), RectifiedFlow(), "flow")
    assert ADTTurbo(flow, projected()).sampler == "ddim"
    assert ADTTurbo(flow, projected(), scheduler="lcm").sampler == "lcm"
    assert ADTTurbo(denoiser(), projected()).sampler == "lcm"
    with pytest.raises(ValueError, match=r"`scheduler=lcm`: .* student of EDM is sampled by ddim .Euler"):
        ADTTurbo(Denoiser(Net(), EDM(), "edm"), projected(), scheduler="lcm")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["schnell", "flux2", "z_image"])
def test_the_calls_of_a_turbo_pipeline_have_its_times_at_the_size_of_the_data(tiny, kind):
    generator, seen, found = Pretrained(str(tiny(kind))), [], []
    discriminator = ProjectedDiscriminator(backbone=SmallConvNet(in_channels=3, widths=(4, 8), pretrain="none"))
    method, network = ADTTurbo(generator, discriminator, num_calls=4, keep=["a dog"]), generator.network
    generator.network = lambda x, time, *told: (seen.append(time[0].item()), network(x, time, *told))[1]
    for size in (16, 32):
        generator.check_shape((3, size, size))
        batch = generator.embed(Batch(torch.zeros(2, 3, size, size), texts=["fox", "zebra"], draws=Draws(0)))
        seen.clear()
        evaluated(method.generator_loss(batch, method.rollout(batch)))
        scheduler = generator.process.scheduler("euler", generator.prediction)
        set_timesteps(scheduler, 4)
        assert seen == pytest.approx(2 * scheduler.timesteps.tolist())  # of the rollout, and of what is kept
        found.append([*seen])
    assert (found[0] != found[1]) == (kind == "flux2")  # whose shift follows the size


def test_classes_that_are_kept_are_the_networks():
    for keep, message in ((["a cat"], "takes class numbers"), ([10], "`label=10`")):
        with pytest.raises(ValueError, match=message):
            ADTTurbo(denoiser(ClassNet()), projected(), keep=keep)
    method = ADTTurbo(denoiser(ClassNet()), projected(), keep=[9])
    few = Digits(only=[0, 1])
    few.num_classes = 9
    for data, refused in ((Digits(), False), (few, True)):  # a tenth class of nine means "none"
        method.generator.check(data)
        with pytest.raises(ValueError, match=r'the class 9 means "none"') if refused else nullcontext():
            method.prepare(data)


def test_the_product_of_add_is_tuned_in_full_and_with_lora(tmp_path):
    small = ["--on", "tiny", "--trainer.steps=2"]
    assert main(["fit", "diffusion", *small, "--out", str(tmp_path / "base")]) == 0
    start = ["--init", str(tmp_path / "base"), "--out", str(tmp_path / "student")]
    assert main(["fit", "add", *small, *start]) == 0
    for name, flags in (("full", []), ("lora", ["--denoiser.tuning=LoRA"])):
        out = tmp_path / name
        assert main(["fit", "adt_turbo", *small, "--init", str(tmp_path / "student"), "--out", str(out), *flags]) == 0
        pipeline = DiffusionPipeline.from_pretrained(out / "pipeline")
        assert type(pipeline.scheduler).__name__ == "LCMScheduler"
        assert main(["sample", str(out), "--n", "4", "--steps", "2", "--out", str(tmp_path / f"{name}.png")]) == 0
    log = [json.loads(line) for line in (tmp_path / "lora" / "metrics.jsonl").read_text().splitlines()]
    assert any("generator/adversarial" in line for line in log)
