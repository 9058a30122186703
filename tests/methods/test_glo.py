"""GLO: a linear decoder is PCA, codes stay in the ball, only those of the batch move, and samples have their law."""

import pytest
import torch
from torch import nn

from sparring.data import Batch, Draws, GaussianMixture, StoredImages
from sparring.generators import FittedGaussian, LatentGenerator, Uniform
from sparring.methods.gan.glo import GLO, in_ball
from sparring.networks import Perceptron
from sparring.training import AdamW, Trainer


class Linear(nn.Module):
    def __init__(self, latent_dim, width):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(latent_dim, width)

    def forward(self, z):
        return self.layer(z).view(len(z), 1, 1, -1)


def glo(net=None, latent_dim=2, **settings):
    torch.manual_seed(0)
    net = net or Perceptron(in_features=latent_dim, out_shape=[2, 1, 1], width=8, depth=2)
    return GLO(LatentGenerator(net, latent_dim, prior=FittedGaussian(latent_dim)), **settings)


def test_with_a_linear_decoder_it_is_pca():
    """With squared errors and free codes the error is the sum of the eigenvalues that are left out."""
    rows = torch.randn(60, 1, 1, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.2, 0.15, 0.05, 0.03])
    data = StoredImages(rows)
    method = glo(Linear(2, 4))
    method.size_for(data)
    method.prepare(data)
    optimizer = torch.optim.Adam([*method.generator.net.parameters(), *method.codes.parameters()], lr=0.02)
    batch = Batch(rows, index=torch.arange(60))
    for _ in range(600):
        optimizer.zero_grad()
        (method.rollout(batch).fake - rows).square().sum().backward()
        optimizer.step()
    error = (method.rollout(batch).fake - rows).square().sum().item() / 60
    eigenvalues = torch.linalg.eigvalsh(torch.cov(rows.flatten(1).T, correction=0))
    assert error == pytest.approx(eigenvalues[:2].sum().item(), rel=0.02)


def test_codes_are_brought_back_to_the_ball():
    inside, outside = torch.tensor([[0.3, -0.4]]), torch.tensor([[3.0, -4.0]])
    assert torch.equal(in_ball(inside), inside)
    torch.testing.assert_close(in_ball(outside), outside / 5)


def test_codes_of_other_rows_rest_and_those_of_the_batch_learn(tmp_path):
    method = glo()
    data = GaussianMixture(num_samples=64)
    optimizer = AdamW(lr=1e-2, betas=(0.0, 0.99), lr_of={"codes": 0.1})
    settings = {"steps": 2, "batch_size": 16, "num_samples": 9, "tracker": None}
    run = Trainer(method, data, out=tmp_path / "run", generator_optimizer=optimizer, **settings)
    before = {}
    step, moved = method.after_step, []
    method.prepare(data)
    run.method.prepare = lambda *_: None
    before["codes"] = method.codes.weight.detach().clone()

    def after_step():
        moved.append(int((method.codes.weight - before["codes"]).abs().amax(1).gt(0).sum()))
        before["codes"] = method.codes.weight.detach().clone()
        step()
        assert method.codes.weight.norm(dim=1).max() <= 1 + 1e-6
        before["codes"] = method.codes.weight.detach().clone()

    method.after_step = after_step
    run.fit()
    assert moved == [16, 16]


def test_frozen_codes_stay_where_they_were_drawn(tmp_path):
    """The control of the study, with the rate that the recipe has for codes that learn."""
    data, alike = GaussianMixture(num_samples=512), glo(latent_dim=16)  # some of which the ball would move once more
    optimizer = AdamW(lr=1e-2, betas=(0.0, 0.99), lr_of={"codes": 0.1})
    settings = {"steps": 2, "batch_size": 16, "num_samples": 9, "tracker": None, "freeze": ["codes"]}
    run = Trainer(glo(latent_dim=16), data, out=tmp_path / "run", generator_optimizer=optimizer, **settings)
    run.fit()
    alike.size_for(data)
    alike.prepare(data)
    assert torch.equal(run.method.codes.weight, alike.codes.weight)


def test_samples_have_the_mean_and_covariance_of_the_codes():
    codes = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) @ torch.tensor(
        [[0.5, 0.2, 0.0], [0.0, 0.1, 0.3], [0.0, 0.0, 0.2]]
    ) + torch.tensor([1.0, -2.0, 0.5])
    prior = FittedGaussian(3)
    noise = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(prior(noise), noise, atol=1e-6)
    prior.fit(codes)
    torch.testing.assert_close(prior(noise).mean(0), codes.mean(0), rtol=0, atol=0.01)
    torch.testing.assert_close(torch.cov(prior(noise).T), torch.cov(codes.T), rtol=0, atol=0.01)


@pytest.mark.parametrize("fit", [True, False])
def test_the_control_samples_from_the_standard_law(fit):
    method, data = glo(fit=fit), GaussianMixture(num_samples=40)
    method.size_for(data)
    method.prepare(data)
    is_standard = torch.equal(method.generator.prior.covariance, torch.eye(2))
    assert is_standard != fit


def test_held_out_images_are_found_if_the_decoder_can_make_them():
    method, data = glo(Linear(2, 4)), StoredImages(torch.zeros(5, 1, 1, 4))
    method.size_for(data)
    method.prepare(data)
    made = method.generator.net(in_ball(torch.randn(9, 2, generator=torch.Generator().manual_seed(0)))).detach()
    found = method.search(method.generator, made)
    assert (method.generator.net(found) - made).abs().mean() < 0.02
    with torch.no_grad():
        measures = method.measures(method.generator, StoredImages(made), Draws(0))
    assert measures["inversion_error"] < 0.02


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GLO(LatentGenerator(Perceptron(out_shape=[2, 1, 1]), 2, prior=Uniform(2))), "`prior`: GLO needs"),
        (lambda: GLO(LatentGenerator(Perceptron(out_shape=[2, 1, 1]), 2)), "`prior`: GLO needs"),
        (lambda: glo().size_for(StoredImages(torch.zeros(1, 1, 2, 2))), "has 1 image, and GLO fits a law"),
        (lambda: glo().rollout(Batch(torch.zeros(2, 2, 1, 1))), "does not say which images a batch holds"),
    ],
)
def test_what_cannot_work_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
