"""Consistency models: jumps by hand, zero at the known solutions, the order of the teacher's step, masks of dropout."""

import math

import pytest
import torch
from method_parts import Net, batch_of, denoiser, evaluated, images_of, logits, opponent_frozen, projected, touched
from torch import nn

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.methods.distillation.consistency import Consistency, ConsistencyStep
from sparring.process import EDM, VP, RectifiedFlow, Times
from sparring.rollout.ode_step import ddim, guided

STD = 0.6  # of the Gaussian data
COSINE = VP(schedule="cosine")


class Gaussian(nn.Module):
    """The clean image of data N(0, STD^2): its mean given x_t, or the end of the ODE's path through x_t."""

    def __init__(self, process=COSINE, solution=False):
        super().__init__()
        self.process, self.solution = process, solution
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, time):
        t = self.process.t_from_model_time(time.double())
        alpha, variance = self.process.alpha(t) * STD, self.process.sigma(t).square()
        total = alpha.square() + variance
        factor = STD / total.sqrt() if self.solution else alpha * STD / total
        return self.scale * factor.view(-1, 1, 1, 1) * x


class At(Times):
    """Every row at one noise-to-signal ratio."""

    def __init__(self, ratio):
        self.ratio = ratio

    def __call__(self, process, draws, n):
        return process.t_from_log_snr(torch.full((n,), -2 * math.log(self.ratio), dtype=torch.float64))


def gaussian_batch(n=200, step=0):
    random = torch.Generator().manual_seed(0)
    return Batch(STD * torch.randn(n, 1, 2, 2, generator=random, dtype=torch.float64), draws=Draws(0, step=step))


def method_of(net, process=COSINE, kind="x0", **settings):
    method = Consistency(Denoiser(net, process, kind), **settings)
    method.steps = 8
    return method


def test_the_jumps_shrink_in_stages_and_end_at_zero_for_little_noise():
    """By hand: 1 - (1 + 8 sigmoid(-t)) / 2^(k+1)."""
    method = method_of(Net(), stages=4)
    t = torch.tensor([0.1, 1.0, 50.0], dtype=torch.float64)
    method.step = 0
    assert method.jump(t).tolist() == pytest.approx([0, 0, 25], abs=1e-9)  # 1 + 8 sigmoid(-1) = 3.15, above 2
    method.step = 2
    assert method.jump(t)[1].item() == pytest.approx(1 - 3.1515313 / 4)
    method.step = 7
    assert method.jump(t).tolist() == pytest.approx([0.1 * (1 - 4.8001666 / 16), 1 - 3.1515313 / 16, 50 * 15 / 16])
    method.step = 8  # of a run that went on
    assert method.jump(t)[2].item() == pytest.approx(50 * 15 / 16)


def test_a_copy_of_the_teacher_has_no_loss_if_it_jumps_to_the_clean_end():
    method = method_of(Net(), kind="v", times=At(0.5))
    rollout = method.rollout(batch_of())
    assert rollout.r.eq(0).all()
    torch.testing.assert_close(rollout.image, rollout.target, rtol=1e-9, atol=1e-9)
    assert method.generator_loss(batch_of(), rollout)["consistency"].item() < 1e-6


def test_without_a_teacher_that_jump_is_to_the_data():
    for kind in ("v", "x0"):  # an x0 network is no identity at the clean end
        method = method_of(Net(), kind=kind, times=At(0.5), distil=False)
        assert method.teacher is None
        torch.testing.assert_close(method.rollout(batch_of()).target, images_of())


@pytest.mark.parametrize("ratio", [0.3, 1.0, 5.0])
def test_the_ends_of_the_teachers_paths_are_the_solution(ratio):
    """For Gaussian data f = x s / sqrt(alpha^2 s^2 + sigma^2) is constant on paths; Euler's step errs in order 2."""
    errors = []
    for stage in (5, 6, 7):
        method = method_of(Gaussian(), times=At(ratio))
        method.generator.net.solution = True  # the teacher, a copy from before, knows the mean
        method.step = stage
        rollout = method.rollout(gaussian_batch())
        errors.append((rollout.image - rollout.target).square().mean().sqrt().item())
    assert errors[2] < 2e-3
    assert [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)] == pytest.approx([2, 2], abs=0.35)


def test_a_step_of_the_teacher_is_the_mean_of_the_steps_without_one():
    """f linear: the target of training, regressed on x_t, has the slope of the target of distillation."""
    slopes = []
    for distil in (True, False):
        method = method_of(Gaussian(), times=At(1.0), distil=distil)
        method.step = 5
        batch = gaussian_batch(50_000)
        rollout = method.rollout(batch)
        x_t = rollout.image  # a multiple of it
        slopes.append(((x_t * rollout.target).mean() / x_t.square().mean()).item())
    assert slopes[0] == pytest.approx(slopes[1], rel=0.01)
    assert slopes[0] > 1.01


def test_the_loss_by_hand():
    """Distances 5 and 0 (c = 1) with t = 3, r = 1: (1 + 3) / 2 (sqrt(25 + 1) - 1), mean over two rows."""
    method = method_of(Net(), huber=1.0)
    image = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64).view(2, 1, 1, 2).requires_grad_()
    t, r = torch.full((2,), 3.0).double(), torch.full((2,), 1.0).double()
    loss = method.generator_loss(batch_of(), ConsistencyStep(image, torch.zeros_like(image), t, r))["consistency"]
    assert loss.item() == pytest.approx((26**0.5 - 1) * 2 / 2)
    (gradient,) = torch.autograd.grad(loss, image)
    assert gradient[0].flatten().tolist() == pytest.approx([3 / 26**0.5, 4 / 26**0.5])


def test_both_passes_have_the_same_mask_of_dropout():
    class Mask(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout, self.weight = nn.Dropout(0.5), nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x, time):
            return self.dropout(self.weight.expand_as(x))

    for distil in (True, False):
        method = method_of(Mask(), times=At(5.0), distil=distil).train()
        method.step = 7
        first, second = (method.rollout(batch_of()) for _ in range(2))
        assert 0 < first.image.eq(0).double().mean() < 1
        assert torch.equal(first.image, first.target)
        assert not torch.equal(first.image, second.image)  # a new one for each step


def test_only_the_student_learns_and_only_at_t():
    method = method_of(Net(), kind="v", times=At(2.0))
    method.step = 7
    rollout = method.rollout(batch_of())
    assert not rollout.target.requires_grad
    method.generator_loss(batch_of(), rollout)["consistency"].backward()
    assert touched(method) == {f"generator.{name}" for name, _ in method.generator.named_parameters()}


@pytest.mark.parametrize(("process", "kind"), [(VP(), "v"), (EDM(), "edm"), (RectifiedFlow(), "flow")])
def test_a_step_of_the_ode_ends_at_the_clean_image_and_stays_at_its_own_time(process, kind):
    generator, t = denoiser(process=process, kind=kind), torch.full((6,), 0.7, dtype=torch.float64)
    prediction = generator(images_of(), t)
    torch.testing.assert_close(ddim(prediction, t), images_of(), rtol=1e-9, atol=1e-9)
    if kind != "edm":  # ends at a little noise
        torch.testing.assert_close(ddim(prediction, torch.zeros_like(t)), prediction.x0)
    assert ddim(prediction, t / 2).requires_grad


def test_a_guided_teacher_mixes_the_outputs():
    from method_parts import ClassNet

    net, t, labels = ClassNet(), torch.full((6,), 0.5, dtype=torch.float64), torch.arange(6)
    generator = Denoiser(net, VP(), "v")
    with torch.no_grad():
        told, none = (generator(images_of(), t, y).output for y in (labels, torch.full((6,), 9)))
    made = guided(generator, images_of(), t, labels, 2.5)
    torch.testing.assert_close(made.output, none + 2.5 * (told - none))
    assert torch.equal(guided(generator, images_of(), t, labels).output, told)


def test_a_discriminator_adds_its_term_and_sees_the_prediction_and_the_image():
    method = Consistency(denoiser(), projected(augment=""), adversarial_weight=0.3, times=At(2.0))
    batch, rollout = batch_of(phase="generator"), method.rollout(batch_of())
    losses = evaluated(method.generator_loss(batch, rollout))
    fake = logits(method.discriminator, rollout.image)
    torch.testing.assert_close(losses["adversarial"], 0.3 * nn.functional.softplus(-fake).mean())
    players = evaluated(method.discriminator_loss(batch, rollout))
    real = logits(method.discriminator, images_of())
    expected = nn.functional.softplus(-real).mean() + nn.functional.softplus(fake).mean()
    torch.testing.assert_close(players["adversarial"], expected)
    with opponent_frozen(method):
        losses = evaluated(method.generator_loss(batch, method.rollout(batch_of())))
        torch.stack(list(losses.values())).sum().backward()
    assert touched(method) == {f"generator.{name}" for name, _ in method.generator.named_parameters()}
    assert Consistency(denoiser(), projected(), adversarial_weight=0.0).discriminator is None


def test_a_network_without_a_clean_end_is_refused_before_it_is_trained():
    """In later stages no jump ends at the image: without the identity there, every constant has no loss."""
    with pytest.raises(ValueError, match="prediction=x0.*v or eps"):
        method_of(Net(), kind="x0").check(6)
    method_of(Net(), kind="v").check(6)


def test_what_it_refuses():
    for settings, message in [
        (dict(stages=0), "stages=0"),
        (dict(stages=21), "stages=21"),
        (dict(huber=0.0), "huber=0"),
        (dict(guidance=2.0), "guidance=2.0.*neither captions"),
        (dict(guidance=2.0, distil=False), "guidance=2.0.*distil=False"),
    ]:
        with pytest.raises(ValueError, match=message):
            method_of(Net(), kind="v", **settings)
    with pytest.raises(ValueError, match="'lcm' does not exist for EDM"):
        Consistency(denoiser(process=EDM(), kind="edm"))
