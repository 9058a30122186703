"""The diffusers border: configs both ways, and sampling paths of exact networks against closed forms."""

import math

import diffusers
import pytest
import torch
from analytic_networks import Mixture, gaussian, probability_flow

from sparring.generators import Denoiser
from sparring.process import EDM, VP, RectifiedFlow, from_scheduler, initial_sample, scheduler_input, set_timesteps
from sparring.process.schedulers import NOISY, EDMChurnScheduler

MEAN = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64)
COV = torch.tensor([[0.50, 0.20, 0.05], [0.20, 0.30, -0.10], [0.05, -0.10, 0.20]], dtype=torch.float64)
ZERO_SNR = VP(schedule="scaled_linear", zero_terminal_snr=True)
ODE_PATHS = [
    (VP(), "eps", "ddim"),
    (VP(), "x0", "euler"),
    (VP(), "v", "dpm"),
    (VP(), "eps", "heun"),
    (VP(), "eps", "unipc"),
    *[(VP(schedule="cosine"), "v", name) for name in ("ddim", "euler", "dpm", "unipc")],
    *[(ZERO_SNR, "v", name) for name in ("ddim", "euler", "dpm", "unipc")],
    *[(EDM(), "edm", name) for name in ("ddim", "euler", "dpm", "heun")],
    *[(RectifiedFlow(), "flow", name) for name in ("ddim", "euler", "dpm", "heun", "unipc")],
    *[(RectifiedFlow(shift=3.0), "flow", name) for name in ("ddim", "euler", "dpm", "heun", "unipc")],
    *[(RectifiedFlow(), kind, name) for kind, name in (("x0", "dpm"), ("eps", "dpm"), ("x0", "unipc"))],
]
SDE_PATHS = [(VP(), "eps", "ddpm"), (VP(), "v", "lcm"), (EDM(), "edm", "churn")]


def name_of(case):
    process, kind, name = case
    schedule = process.scheduler(name, kind).config.get("beta_schedule", f"shift={process.shift:g}")
    return f"{type(process).__name__}-{schedule}-{kind}-{name}"


def sample(network, kind, name, num_steps, noise, seed=0):
    """The sampling loop of the docstring; returns (t, sample) before each step, the last sample, and the calls."""
    denoiser = Denoiser(network, network.process, kind)
    scheduler = network.process.scheduler(name, kind)
    set_timesteps(scheduler, num_steps)
    generator = {"generator": torch.Generator().manual_seed(seed)} if name in NOISY else {}
    x, states = initial_sample(scheduler, noise), []
    for time in scheduler.timesteps:
        t = network.process.t_from_model_time(time.double()[None])
        if getattr(scheduler, "state_in_first_order", True):  # not in the middle of a Heun step
            in_ve = isinstance(network.process, VP) and name in ("euler", "heun")
            states.append((t, x * network.process.alpha(t) if in_ve else x))
        output = denoiser.network(scheduler_input(scheduler, x, time), time)
        x = scheduler.step(output, time, x, **generator).prev_sample
    return states, x.double(), denoiser.images_seen // len(noise)


@pytest.mark.parametrize("case", ODE_PATHS + SDE_PATHS, ids=name_of)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 25])
def test_every_path_has_its_number_of_calls_and_ends_clean(case, num_steps):
    """With a single image as data, all noise is gone at the end, whatever the grid."""
    process, kind, name = case
    network = gaussian(process, kind, MEAN, 1e-12 * torch.eye(3).double())
    states, x, calls = sample(network, kind, name, num_steps, torch.randn(8, 1, 1, 3).double())
    assert calls == (2 * num_steps - 1 if name in ("heun", "churn") else num_steps)
    assert len(states) == num_steps
    if name != "churn":  # which may raise a level above the one before
        assert torch.cat([t for t, _ in states]).diff().lt(0).all()
    assert states[0][0].item() == pytest.approx(1, abs=1.1e-3)
    tolerance = 1e-4
    if name in ("heun", "churn") or (isinstance(process, VP) and process.zero_terminal_snr):
        tolerance = 2e-3  # Heun: rounding at sigma 157; zero terminal SNR: diffusers' DDIM has alpha 0, we have 2^-12
    if name == "ddim" and isinstance(process, VP) and num_steps == 7:
        tolerance = 0.05  # 7 does not divide 1000: DDIMScheduler ends at sigma 0.01
    torch.testing.assert_close(x.flatten(1), MEAN.expand(8, 3), rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", ODE_PATHS, ids=name_of)
def test_gaussian_data_comes_out_along_the_exact_path_with_its_mean_and_covariance(case):
    """For Gaussian data a solver is an affine map x = A eps + b of the noise: b and A A^T are compared, not samples."""
    process, kind, name = case
    axes = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double().reshape(4, 1, 1, 3)
    noise = torch.randn(32, 1, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    states, x, _ = sample(gaussian(process, kind, MEAN, COV), kind, name, 100, torch.cat([axes, noise]))
    first_order = name in ("euler", "ddim")
    exact = probability_flow(process, states[0][1], states[0][0], torch.tensor(-1.0), MEAN, COV)
    assert (x - exact).square().mean().sqrt() < (0.02 if first_order else 0.003)
    b = x[0].flatten()
    a = (x[1:4].flatten(1) - b).T
    torch.testing.assert_close(b, MEAN, rtol=0, atol=0.035 if first_order else 0.006)
    torch.testing.assert_close(a @ a.T, COV, rtol=0, atol=0.035 if first_order else 0.006)


@pytest.mark.parametrize(
    ("process", "kind", "name", "steps", "at", "order"),
    [
        (VP(), "eps", "ddim", (100, 200), 0.1, 1),
        (VP(), "eps", "euler", (100, 200), 0.1, 1),
        (VP(), "eps", "dpm", (100, 200), 0.1, 2),
        (VP(), "eps", "heun", (100, 200), 0.1, 2),
        (VP(), "eps", "unipc", (100, 200), 0.1, 3),
        (VP(schedule="cosine"), "v", "ddim", (100, 200), 0.1, 1),
        (EDM(), "edm", "euler", (65, 129), 0.0, 1),
        (EDM(), "edm", "dpm", (65, 129), 0.0, 2),
        (EDM(), "edm", "heun", (65, 129), 0.0, 2),
        (RectifiedFlow(), "flow", "euler", (64, 128), 0.5, 1),
        (RectifiedFlow(), "flow", "dpm", (64, 128), 0.4995, 2),
        (RectifiedFlow(), "flow", "heun", (33, 65), 0.001, 2),
        (RectifiedFlow(), "flow", "unipc", (64, 128), 0.5, 2),  # its first step, from alpha 1e-6, holds it down
    ],
)
def test_the_error_falls_at_the_order_of_the_solver(process, kind, name, steps, at, order):
    """Twice the steps, 2^order times less distance to the exact ODE at a time both grids have (order to within 0.2)."""
    noise = torch.randn(32, 1, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    errors = []
    for num_steps in steps:
        states, _, _ = sample(gaussian(process, kind, MEAN, COV), kind, name, num_steps, noise)
        start, x_start = states[0]
        t, x = min(states, key=lambda state: abs(state[0].item() - at))
        assert t.item() == pytest.approx(at, abs=1e-4)
        exact = probability_flow(process, x_start, start, t, MEAN, COV)
        errors.append((x - exact).square().mean().sqrt().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("kind", ["x0", "v"])
@pytest.mark.parametrize("name", ["ddim", "euler", "dpm", "heun", "unipc", "ddpm", "ddpm_large", "lcm"])
def test_the_path_does_not_depend_on_what_the_network_predicts(name, kind):
    noise = torch.randn(16, 1, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    _, expected, _ = sample(gaussian(VP(), "eps", MEAN, COV), "eps", name, 10, noise)
    _, x, _ = sample(gaussian(VP(), kind, MEAN, COV), kind, name, 10, noise)
    torch.testing.assert_close(x, expected, rtol=0, atol=2e-4)


def ddpm_covariance(num_steps):
    """x_s = from_x_0 x_0_pred + from_x_t x_t + std z with x_0_pred affine in x_t: the covariance, step by step."""
    vp, levels = VP(), torch.arange(num_steps, -1, -1).double() / num_steps
    variances, basis = torch.linalg.eigh(COV)
    variance = torch.ones(3).double()
    one, zero = torch.ones(1, 1, 1, 1).double(), torch.zeros(1, 1, 1, 1).double()
    for t, s in zip(levels[:-1, None], levels[1:, None], strict=True):
        from_x_0, std = (value.squeeze() for value in vp.posterior(one, zero, s, t))
        from_x_t = vp.posterior(zero, one, s, t)[0].squeeze()
        slope = vp.alpha(t) * variances / (vp.alpha(t) ** 2 * variances + vp.sigma(t) ** 2)
        variance = (from_x_0 * slope + from_x_t) ** 2 * variance + std**2
    return basis @ variance.diag() @ basis.T


def test_ddpm_samples_have_the_covariance_of_its_recursion_which_nears_the_data():
    noise = torch.randn(20000, 1, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    _, x, _ = sample(gaussian(VP(), "eps", MEAN, COV), "eps", "ddpm", 10, noise)
    torch.testing.assert_close(x.flatten(1).mean(0), MEAN, rtol=0, atol=0.02)
    torch.testing.assert_close(x.flatten(1).T.cov(), ddpm_covariance(10), rtol=0, atol=0.02)
    far, near = ((ddpm_covariance(num_steps) - COV).abs().max().item() for num_steps in (100, 1000))
    assert near < 0.006
    assert far / near == pytest.approx(10, rel=0.2)  # first order


@pytest.mark.parametrize("num_steps", [2, 4, 10])
def test_the_largest_variance_of_ancestral_steps_is_exact_on_normal_data_and_the_smallest_is_not(num_steps):
    noise = torch.randn(20000, 1, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    exact = gaussian(VP(), "eps", torch.zeros(3), torch.eye(3))
    names = ("ddpm_large", "ddpm")
    large, small = (sample(exact, "eps", name, num_steps, noise)[1].flatten(1).T.cov() for name in names)
    torch.testing.assert_close(large, torch.eye(3).double(), rtol=0, atol=0.03)
    assert small.diagonal().max() < 0.9
    one_image = gaussian(VP(), "eps", MEAN, 1e-12 * torch.eye(3).double())
    _, x, calls = sample(one_image, "eps", "ddpm_large", num_steps, noise[:8])
    assert calls == num_steps
    torch.testing.assert_close(x.flatten(1), MEAN.expand(8, 3), rtol=0, atol=1e-4)


def test_churn_forgets_the_start_and_keeps_the_data(monkeypatch):
    """With noise of exactly the deviation that is missing; without churn it is Heun's method bit for bit."""
    monkeypatch.setattr(EDMChurnScheduler, "NOISE", 1.0)
    noise = torch.randn(20000, 1, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    network = gaussian(EDM(), "edm", MEAN, COV)
    _, heun, _ = sample(network, "edm", "heun", 200, noise)
    _, x, _ = sample(network, "edm", "churn", 200, noise)
    torch.testing.assert_close(x.flatten(1).mean(0), MEAN, rtol=0, atol=0.02)
    torch.testing.assert_close(x.flatten(1).T.cov(), COV, rtol=0, atol=0.02)
    kept = [torch.corrcoef(torch.stack([heun[:, 0, 0, i], x[:, 0, 0, i]]))[0, 1].item() for i in range(3)]
    assert max(kept) < 0.5
    monkeypatch.setattr(EDMChurnScheduler, "CHURN", 0.0)
    _, x, _ = sample(network, "edm", "churn", 200, noise)
    assert torch.equal(x, heun)


def test_churn_raises_the_levels_of_the_paper():
    scheduler, plain = (EDM().scheduler(name, "edm") for name in ("churn", "heun"))
    for one in (scheduler, plain):
        set_timesteps(one, 256)
    ratio = scheduler.sigmas[:-1] / plain.sigmas[:-1]
    inside = (plain.sigmas[:-1] >= 0.05) & (plain.sigmas[:-1] <= 50)
    assert (ratio[1::2] == 1).all()  # the second calls of the steps
    torch.testing.assert_close(ratio[0::2], torch.where(inside, 1 + 40 / 256, 1.0)[0::2])
    torch.testing.assert_close(scheduler.timesteps, scheduler.sigmas[:-1].log() / 4)
    set_timesteps(scheduler, 18)
    assert (scheduler.sigmas[10] / scheduler.sigmas[9]).item() == pytest.approx(math.sqrt(2), rel=1e-4)


@pytest.mark.parametrize(("process", "kind"), [(VP(), "v"), (RectifiedFlow(), "flow")], ids=["vp", "flow"])
def test_lcm_has_the_covariance_of_its_own_recursion(process, kind):
    """x_s = alpha_s x_0_pred + sigma_s z, the last step without noise: less variance than the data, known exactly."""
    noise = torch.randn(20000, 1, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    _, x, _ = sample(gaussian(process, kind, MEAN, COV), kind, "lcm", 4, noise)
    variances, basis = torch.linalg.eigh(COV)
    variance = torch.ones(3).double()
    for t, s in ((1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)):
        t, s = torch.tensor([t]).double(), torch.tensor([s]).double()
        slope = process.alpha(t) * variances / (process.alpha(t) ** 2 * variances + process.sigma(t) ** 2)
        variance = process.alpha(s) ** 2 * slope**2 * variance + process.sigma(s) ** 2
    torch.testing.assert_close(x.flatten(1).T.cov(), basis @ variance.diag() @ basis.T, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "case",
    [
        *[(VP(), "v", name) for name in ("ddim", "euler", "dpm", "unipc", "heun", "ddpm")],
        *[(EDM(), "edm", name) for name in ("euler", "dpm", "heun")],
        *[(RectifiedFlow(), "flow", name) for name in ("euler", "dpm", "unipc", "heun")],
    ],
    ids=name_of,
)
def test_a_mixture_comes_out_with_its_mean_covariance_and_weights(case):
    process, kind, name = case
    weights, means = torch.tensor([0.7, 0.3]), torch.tensor([[0.6, 0.6], [-0.8, 0.0]], dtype=torch.float64)
    covs = torch.tensor([[[0.02, 0.01], [0.01, 0.03]], [[0.04, 0.0], [0.0, 0.01]]], dtype=torch.float64)
    noise = torch.randn(4000, 1, 1, 2, generator=torch.Generator().manual_seed(0)).double()
    _, x, _ = sample(Mixture(process, kind, weights, means, covs), kind, name, 50, noise)
    points = x.flatten(1)
    mean = (weights[:, None] * means).sum(0)
    spread = means - mean
    cov = (weights[:, None, None] * (covs + spread[:, :, None] * spread[:, None, :])).sum(0)
    torch.testing.assert_close(points.mean(0), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(points.T.cov(), cov.double(), rtol=0, atol=0.05)
    near_first = (points - means[0]).norm(dim=1) < (points - means[1]).norm(dim=1)
    assert near_first.double().mean().item() == pytest.approx(0.7, abs=0.03)
    torch.testing.assert_close(points[near_first].T.cov(), covs[0], rtol=0, atol=0.012 if name == "ddpm" else 0.008)


def settings(scheduler):
    """A config without the notes diffusers makes in it while saving and loading."""
    return {key: value for key, value in scheduler.config.items() if not key.startswith("_")}


@pytest.mark.parametrize("case", ODE_PATHS + SDE_PATHS, ids=name_of)
def test_a_saved_scheduler_gives_its_process_back(case, tmp_path):
    process, kind, name = case
    scheduler = process.scheduler(name, kind)
    scheduler.save_config(tmp_path)
    for source in (scheduler, type(scheduler).from_pretrained(tmp_path)):
        twin, twin_kind = from_scheduler(source)
        assert twin_kind == kind
        assert type(twin) is type(process)
        t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
        assert torch.equal(twin.log_snr(t), process.log_snr(t))
        assert torch.equal(twin.model_time(t), process.model_time(t))
        assert twin.shift == process.shift
        rebuilt = twin.scheduler(name, twin_kind)
        assert settings(rebuilt) == settings(source) == settings(scheduler)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample"),
        diffusers.DDPMScheduler(beta_schedule="sigmoid"),
        diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
        diffusers.PNDMScheduler(beta_start=0.001, num_train_timesteps=100),
        diffusers.EulerDiscreteScheduler(trained_betas=[0.1, 0.2, 0.3], num_train_timesteps=3),
        diffusers.UniPCMultistepScheduler(),
        diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction"),
    ],
    ids=lambda s: type(s).__name__,
)
def test_any_scheduler_with_betas_is_read(scheduler):
    process, kind = from_scheduler(scheduler)
    n = torch.arange(len(scheduler.alphas_cumprod))
    alpha = process.alpha(process.t_from_model_time(n.double()))
    torch.testing.assert_close(alpha.square().float(), scheduler.alphas_cumprod, rtol=1e-6, atol=1e-7)
    assert {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}[scheduler.config.prediction_type] == kind


def test_the_others_are_read_or_refused():
    process, kind = from_scheduler(diffusers.EDMEulerScheduler(sigma_max=10.0, sigma_data=1.0))
    assert (process.sigma_max, process.sigma_data, kind) == (10.0, 1.0, "edm")
    process, kind = from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.5))
    assert (process.shift, kind) == (2.5, "flow")
    for scheduler, message in (
        (diffusers.EDMEulerScheduler(prediction_type="v_prediction"), "EDMEulerScheduler with prediction_type"),
        (diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "0..1000 from clean to noise"),
        (diffusers.CMStochasticIterativeScheduler(), "its process is unknown"),
        (diffusers.VQDiffusionScheduler(num_vec_classes=4), "its process is unknown"),
    ):
        with pytest.raises(ValueError, match=message):
            from_scheduler(scheduler)


def test_wrong_requests_say_what_there_is():
    for process, name, kind, message in (
        (VP(), "deis", "eps", "it has ddim, euler, heun, dpm, unipc, ddpm, ddpm_large, lcm"),
        (VP(), "ddim", "flow", "it takes eps, x0, v"),
        (EDM(), "unipc", "edm", "it has euler, ddim, heun, churn, dpm"),
        (EDM(), "euler", "eps", "it takes edm"),
        (RectifiedFlow(), "ddpm", "flow", "it has euler, ddim, heun, dpm, unipc, lcm"),
        (RectifiedFlow(), "unipc", "eps", "it takes flow, x0"),
        (RectifiedFlow(), "euler", "v", "it takes flow"),
        (VP(zero_terminal_snr=True), "ddim", "eps", "train 'v' or 'x0'"),
        (VP(zero_terminal_snr=True), "heun", "v", "use 'unipc' or 'dpm'"),
    ):
        with pytest.raises(ValueError, match=message):
            process.scheduler(name, kind)


def test_grids_diffusers_gets_wrong_are_refused():
    vp = VP()
    for name, num_steps, message in (
        ("euler", 61, "makes 62 network calls"),
        ("ddpm", 103, "makes 104 network calls"),
        ("ddim", 600, "loses 400 of 1000 noise levels"),
        ("euler", 1001, "at most 1000"),
        ("dpm", 0, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            set_timesteps(vp.scheduler(name, "v"), num_steps)
    set_timesteps(EDM().scheduler("dpm", "edm"), 1500)
    cosine = VP(schedule="cosine").scheduler("heun", "v")
    with pytest.raises(ValueError, match="starts at sigma 20291.*use scheduler 'unipc' or 'dpm'"):
        set_timesteps(cosine, 200)


def test_leading_spacing_has_no_drift_and_takes_any_number_of_steps():
    """150 does not divide 1000, but DDIMScheduler takes 6 levels a step: each ends where the next begins."""
    scheduler = diffusers.DDIMScheduler(timestep_spacing="leading", clip_sample=False)
    network = gaussian(VP(), "eps", MEAN, 1e-12 * torch.eye(3).double())
    set_timesteps(scheduler, 150)
    x, level = torch.randn(8, 1, 1, 3).double(), VP().t_from_model_time(scheduler.timesteps[:1])
    x = VP().add_noise(MEAN.expand(8, 1, 1, 3), x, level)
    for time in scheduler.timesteps:
        x = scheduler.step(network(x, time[None]), time, x).prev_sample
    torch.testing.assert_close(x.flatten(1), MEAN.expand(8, 3), rtol=0, atol=1e-4)
    for spacing in ("linspace", "trailing"):
        with pytest.raises(ValueError, match="loses 100 of 1000"):
            set_timesteps(diffusers.DDIMScheduler(timestep_spacing=spacing), 150)


def test_flow_grids_are_the_evenly_spaced_ones_shifted_once():
    for shift, name in ((1.0, "euler"), (3.0, "euler"), (1.0, "unipc"), (3.0, "unipc")):
        scheduler = RectifiedFlow(shift=shift).scheduler(name, "flow")
        set_timesteps(scheduler, 4)
        even = torch.tensor([1.0, 0.75, 0.5, 0.25])
        torch.testing.assert_close(scheduler.timesteps / 1000, shift * even / (1 + (shift - 1) * even))
    scheduler = RectifiedFlow().scheduler("dpm", "flow")
    set_timesteps(scheduler, 4)
    torch.testing.assert_close(scheduler.timesteps, 999 * torch.tensor([1.0, 0.75, 0.5, 0.25]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm", "unipc", "ddpm", "lcm"])
def test_vp_grids_are_evenly_spaced_from_the_last_level_down(name):
    scheduler = VP().scheduler(name, "v")
    for num_steps, expected in ((1, [999]), (4, [999, 749, 499, 249]), (100, list(range(999, -1, -10)))):
        set_timesteps(scheduler, num_steps)
        assert scheduler.timesteps.tolist() == expected
    few_levels = VP(betas=[0.1, 0.4, 0.7, 0.95])
    network = gaussian(few_levels, "v", MEAN, 1e-12 * torch.eye(3).double())
    if name == "lcm":
        with pytest.raises(ValueError, match="LCMScheduler does nothing at timestep 0"):
            set_timesteps(few_levels.scheduler(name, "v"), 4)
    else:
        _, x, calls = sample(network, "v", name, 4, torch.randn(8, 1, 1, 3).double())
        assert calls == 4
        torch.testing.assert_close(x.flatten(1), MEAN.expand(8, 3), rtol=0, atol=1e-4)
