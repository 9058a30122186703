"""Perceptrons for points: an MLP denoiser learns a density and is found again; the plain one has its shapes."""

import pytest
import torch
from diffusers import DiffusionPipeline

from sparring.data import GaussianMixture
from sparring.generators import Denoiser, load_pipeline
from sparring.methods.denoising.diffusion import Diffusion
from sparring.metrics.toys import good_share, modes_covered
from sparring.networks import MLP, Perceptron
from sparring.process import EDM, VP, RectifiedFlow
from sparring.samplers import Sampler
from sparring.training import AdamW, Trainer


def test_an_mlp_learns_the_ring_and_the_run_is_sampled_from_its_folder(tmp_path):
    torch.manual_seed(0)
    data = GaussianMixture()
    denoiser = Denoiser(MLP(), VP(schedule="cosine"), "v")
    run = Trainer(
        Diffusion(denoiser),
        data,
        out=tmp_path / "run",
        steps=400,
        batch_size=256,
        generator_optimizer=AdamW(lr=2e-3, decay="cosine"),
        ema_decay=0.98,
        tracker=None,
    ).fit()
    points = Sampler(run)(500, 20, scheduler="dpm").images
    assert points.shape == (500, 2, 1, 1)
    assert modes_covered(points, data.centres, 3 * data.std) == 8
    assert good_share(points, data.centres, 3 * data.std) > 0.7
    untrained = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert good_share(untrained, data.centres, 3 * data.std) < 0.2


@pytest.mark.parametrize(
    ("process", "prediction", "classes"),
    [(VP(schedule="cosine"), "v", None), (EDM(sigma_data=0.5), "edm", 9), (RectifiedFlow(), "flow", 9)],
)
def test_a_shipped_mlp_is_the_same_network(tmp_path, process, prediction, classes):
    denoiser = Denoiser(MLP(width=16, num_class_embeds=classes), process, prediction).eval()
    assert denoiser.save(tmp_path, "euler" if prediction == "edm" else "dpm")
    again, _ = load_pipeline(tmp_path)
    x, t = torch.randn(5, 2, 1, 1), torch.linspace(0.1, 0.9, 5)
    labels = None if classes is None else torch.arange(5)
    with torch.no_grad():
        assert torch.equal(denoiser(x, t, labels).x0, again.eval()(x, t, labels).x0)
    assert again.num_classes == classes
    assert DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True).unet.config.width == 16


def test_time_and_class_matter():
    net = MLP(width=16, num_class_embeds=3).eval()
    x, one = torch.randn(2, 2, 1, 1), torch.tensor([0, 1])
    assert not torch.allclose(net(x, 3, one).sample, net(x, 900, one).sample)
    assert not torch.allclose(net(x, 3, one).sample[0], net(x, 3, one + 1).sample[0])
    assert torch.equal(net(x, 3, one, return_dict=False)[0], net(x, torch.tensor([3.0, 3.0]), one).sample)


def test_a_perceptron_maps_latents_to_points_and_points_to_logits():
    latents, points = torch.randn(6, 8), torch.randn(6, 2, 1, 1)
    assert Perceptron(8, (2, 1, 1), width=16)(latents).shape == (6, 2, 1, 1)
    net = Perceptron(2, (1,), width=16, depth=2)
    assert net(points).shape == (6, 1)
    torch.testing.assert_close(net.read_out(net.features(points)), net(points))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(width=3), "even width"),
        (lambda: MLP(sample_size=8), "sample_size=8"),
        (lambda: MLP(num_class_embeds=3)(torch.zeros(1, 2, 1, 1), 0), "belong together"),
        (lambda: Perceptron(2, (0,)), "at least 1"),
    ],
)
def test_what_a_perceptron_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_perceptron_with_frequencies_sees_what_repeats():
    """Beside x it sees sin and cos of pi x, 2 pi x …: with the weights on x at 0, points 2 apart are one."""
    torch.manual_seed(0)
    net = Perceptron(in_features=1, frequencies=2, width=8)
    assert net.hidden[0].in_features == 5
    with torch.no_grad():
        net.hidden[0].weight[:, 0] = 0
        near, far = net(torch.tensor([[0.3]])), net(torch.tensor([[2.3]]))
        torch.testing.assert_close(near, far, atol=1e-5, rtol=0)
        assert (net(torch.tensor([[1.3]])) - near).abs() > 1e-4
    with pytest.raises(ValueError, match="`frequencies=-1`"):
        Perceptron(frequencies=-1)
