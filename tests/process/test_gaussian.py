"""The processes: their tables, their ends, noising, and the posterior against numerical conditioning."""

import copy
import pickle

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

from sparring.process import EDM, VP, RectifiedFlow

PROCESSES = {
    "vp-linear": VP(),
    "vp-cosine": VP(schedule="cosine"),
    "vp-zero-snr": VP(schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, zero_terminal_snr=True),
    "vp-four": VP(betas=[0.1, 0.4, 0.7, 0.95]),
    "edm": EDM(),
    "flow": RectifiedFlow(),
}


@pytest.fixture(params=PROCESSES, ids=list(PROCESSES))
def process(request):
    return PROCESSES[request.param]


def times(n=200, low=0.002, high=0.998):
    return torch.linspace(low, high, n, dtype=torch.float64)


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2", "scaled_linear"])
@pytest.mark.parametrize("num_timesteps", [1000, 50])
def test_vp_levels_are_exactly_those_of_diffusers(schedule, num_timesteps):
    expected = DDPMScheduler(beta_schedule=schedule, num_train_timesteps=num_timesteps).alphas_cumprod
    vp = VP(schedule="cosine" if schedule == "squaredcos_cap_v2" else schedule, num_timesteps=num_timesteps)
    for dtype in (torch.float64, torch.float32):
        t = (torch.arange(num_timesteps) + 1).to(dtype) / num_timesteps
        log_alpha, log_sigma = vp.log_alpha_sigma(t)
        assert torch.equal((2 * log_alpha).exp().float(), expected)
        torch.testing.assert_close((2 * log_sigma).exp(), 1 - expected.double(), rtol=1e-12, atol=0)
        assert torch.equal(vp.model_time(t), torch.arange(num_timesteps, dtype=dtype))
        assert vp.alpha(t).dtype == dtype


def test_vp_noises_images_as_diffusers_does():
    torch.manual_seed(0)
    x_0, eps = torch.randn(6, 3, 4, 4), torch.randn(6, 3, 4, 4)
    n = torch.tensor([0, 1, 10, 499, 998, 999])
    expected = DDPMScheduler().add_noise(x_0, eps, n)
    torch.testing.assert_close(VP().add_noise(x_0, eps, (n + 1) / 1000), expected, rtol=1e-6, atol=1e-6)


def test_betas_as_a_list_and_zero_terminal_snr_follow_diffusers():
    betas = [0.1, 0.2, 0.5, 0.9]
    t = torch.arange(1, 5) / 4
    expected = DDPMScheduler(trained_betas=betas, num_train_timesteps=4).alphas_cumprod
    torch.testing.assert_close(VP(betas=betas).alpha(t).square(), expected)
    euler = EulerDiscreteScheduler(rescale_betas_zero_snr=True, num_train_timesteps=4)
    vp = VP(num_timesteps=4, zero_terminal_snr=True)
    torch.testing.assert_close(vp.alpha(t).square(), euler.alphas_cumprod)
    assert vp.alpha(t[-1:]).item() == 2**-12
    first = DDIMScheduler(num_train_timesteps=4).alphas_cumprod[0].item()
    assert vp.alpha(t[:1]).square().item() == pytest.approx(first, rel=1e-6)  # the rescaling keeps the first level


def test_ends():
    zero, one = torch.zeros(1), torch.ones(1)
    for process in (VP(), VP(schedule="cosine"), RectifiedFlow()):
        assert (process.alpha(zero).item(), process.sigma(zero).item()) == (1, 0)
        assert process.log_snr(zero).item() == float("inf")
    assert (RectifiedFlow().alpha(one).item(), RectifiedFlow().sigma(one).item()) == (0, 1)
    assert EDM().alpha(one).item() == 1
    assert EDM().sigma(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.002, 80.0])


def test_edm_sigma_is_the_grid_of_the_paper():
    i = torch.arange(18, dtype=torch.float64)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(EDM().sigma(1 - i / 17), expected, rtol=1e-12, atol=0)


def test_log_snr_falls_and_is_inverted(process):
    t = times()
    log_snr = process.log_snr(t)
    assert (log_snr.diff() < 0).all()
    torch.testing.assert_close(log_snr, 2 * torch.log(process.alpha(t) / process.sigma(t)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(process.t_from_log_snr(log_snr), t, rtol=0, atol=1e-10)
    beyond = process.t_from_log_snr(torch.tensor([1e4, -1e4]))
    assert beyond.tolist() == [0, 1]


def test_model_time_is_inverted(process):
    t = times()
    torch.testing.assert_close(process.t_from_model_time(process.model_time(t)), t, rtol=0, atol=1e-12)


def test_model_times():
    t = torch.tensor([0.25, 1.0])
    assert VP().model_time(t).tolist() == [249, 999]
    assert RectifiedFlow().model_time(t).tolist() == [250, 1000]
    assert EDM().model_time(torch.ones(1)).item() == pytest.approx(1.0955067)  # ln(80) / 4


def test_snap():
    vp = VP(num_timesteps=10)
    t = torch.tensor([0.0, 0.04, 0.149, 0.151, 0.5, 0.97, 1.0])
    assert vp.snap(t).tolist() == pytest.approx([0.1, 0.1, 0.1, 0.2, 0.5, 1.0, 1.0])
    assert torch.equal(vp.snap(vp.snap(t)), vp.snap(t))
    assert RectifiedFlow().snap(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0.001, 0.5, 0.999])
    assert EDM().snap(torch.tensor([-0.1, 0.5, 1.1])).tolist() == [0, 0.5, 1]


def test_dtype_follows_t(process):
    for dtype, expected in ((torch.float16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        t = torch.tensor([0.25, 0.75], dtype=dtype)
        for f in (process.alpha, process.sigma, process.log_snr, process.snap, process.model_time):
            assert f(t).dtype == expected
    half = torch.ones(2, 1, 2, 2, dtype=torch.bfloat16)
    assert process.add_noise(half, half, torch.tensor([0.25, 0.75])).dtype == torch.float32
    assert process.model_input(half.float(), torch.tensor([0.25, 0.75])).dtype == torch.float32


def test_posterior_is_gaussian_conditioning(process):
    """x_s = alpha_s x_0 + sigma_s e1 and x_t = (alpha_t / alpha_s) x_s + sqrt(rest) e2: condition the joint on x_t."""
    torch.manual_seed(1)
    pairs = [(0.01, 0.02), (0.1, 0.9), (0.5, 0.52), (0.3, 0.998), (0.9, 0.99)]
    s, t = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    x_0, x_t = torch.randn(5, 1, 2, 2, dtype=torch.float64), torch.randn(5, 1, 2, 2, dtype=torch.float64)
    mean, std = process.posterior(x_0, x_t, s, t)
    alpha_s, sigma_s, alpha_t, sigma_t = process.alpha(s), process.sigma(s), process.alpha(t), process.sigma(t)
    for i in range(len(pairs)):
        a = alpha_t[i] / alpha_s[i]
        rest = (sigma_t[i] ** 2 - a**2 * sigma_s[i] ** 2).sqrt()
        mixing = torch.stack([torch.stack([sigma_s[i], 0 * a]), torch.stack([a * sigma_s[i], rest])])
        joint = mixing @ mixing.T  # covariance of (x_s, x_t) given x_0
        gain = joint[0, 1] / joint[1, 1]
        expected = alpha_s[i] * x_0[i] + gain * (x_t[i] - alpha_t[i] * x_0[i])
        torch.testing.assert_close(mean[i], expected, rtol=1e-9, atol=1e-9)
        variance = joint[0, 0] - gain * joint[1, 0]
        torch.testing.assert_close(std[i].squeeze() ** 2, variance, rtol=1e-7, atol=1e-12)
    assert std.shape == (5, 1, 1, 1)


def test_posterior_of_one_vp_step_is_ddpm():
    torch.manual_seed(2)
    ddpm = DDPMScheduler(prediction_type="sample", clip_sample=False)
    x_0, x_t = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 4, 4)
    for n in (1, 10, 500, 999):
        t, s = torch.tensor([(n + 1) / 1000]), torch.tensor([n / 1000])
        mean, std = VP().posterior(x_0, x_t, s, t)
        torch.manual_seed(3)
        stepped = ddpm.step(x_0, n, x_t).prev_sample
        torch.manual_seed(3)
        torch.testing.assert_close(mean + std * torch.randn(1, 1, 4, 4), stepped, rtol=1e-3, atol=1e-4)


def test_posterior_at_the_ends():
    x_0, x_t = torch.full((1, 1, 1, 1), 0.7), torch.full((1, 1, 1, 1), -2.0)
    zero, half, one = torch.zeros(1), torch.full((1,), 0.5), torch.ones(1)
    for process in (VP(), RectifiedFlow()):
        mean, std = process.posterior(x_0, x_t, zero, half)  # back to the clean image
        assert (mean.item(), std.item()) == (pytest.approx(0.7), 0)
        mean, std = process.posterior(x_0, x_t, half, half)  # no step at all
        assert (mean.item(), std.item()) == (pytest.approx(-2.0), 0)
    mean, std = RectifiedFlow().posterior(x_0, x_t, half, one)  # pure noise says nothing
    assert (mean.item(), std.item()) == (pytest.approx(0.35), pytest.approx(0.5))


def test_posterior_keeps_the_marginal(process):
    """Mixing q(x_s | x_t, x_0) over x_t gives q(x_s | x_0): same mean, same variance."""
    s, t = torch.full((1,), 0.4, dtype=torch.float64), torch.full((1,), 0.8, dtype=torch.float64)
    one, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    of_x_t, std = process.posterior(zero, one, s, t)
    of_x_0, _ = process.posterior(one, zero, s, t)
    torch.testing.assert_close(of_x_t.squeeze() * process.alpha(t) + of_x_0.squeeze(), process.alpha(s))
    torch.testing.assert_close(
        of_x_t.squeeze() ** 2 * process.sigma(t) ** 2 + std.squeeze() ** 2, process.sigma(s) ** 2
    )


def test_gradients_pass_through_noising_and_posterior(process):
    x_0 = torch.randn(2, 1, 2, 2, requires_grad=True)
    t, s = torch.tensor([0.5, 0.75]), torch.tensor([0.25, 0.5])
    mean, _ = process.posterior(x_0, process.add_noise(x_0, torch.randn(2, 1, 2, 2), t), s, t)
    mean.sum().backward()
    assert x_0.grad is not None
    assert (x_0.grad > 0).all()


def test_processes_can_be_copied_and_pickled(process):
    t = times(5)
    assert torch.equal(copy.deepcopy(process).log_snr(t), process.log_snr(t))
    assert pickle.dumps(process)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VP(schedule="sigmoid"), "schedule='sigmoid' is unknown"),
        (lambda: VP(betas=[0.1, 1.5]), "betas must be"),
        (lambda: VP(beta_start=0.0), "`beta_start=0.0`, `beta_end=0.02`: they must be above 0, at most 1 and not fall"),
        (lambda: VP(beta_start=0.03), "`beta_start=0.03`, `beta_end=0.02`: they must be"),
        (lambda: VP(schedule="scaled_linear", beta_end=1.5), "`beta_end=1.5`: they must be"),
        (lambda: VP(betas=[0.1, 1.0]), "zero_terminal_snr"),
        (lambda: VP(num_timesteps=0), "num_timesteps=0"),
        (lambda: EDM(sigma_min=1, sigma_max=0.1), "sigma_min < sigma_max"),
        (lambda: EDM(sigma_data=0), "sigma_data=0"),
        (lambda: RectifiedFlow(shift=0), "shift=0"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cuda_gives_the_same_numbers(process):
    t = times(50)
    torch.testing.assert_close(process.log_snr(t.cuda()).cpu(), process.log_snr(t))
    torch.testing.assert_close(process.t_from_log_snr(process.log_snr(t).cuda()).cpu(), t)
