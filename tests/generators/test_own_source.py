"""What a denoiser draws by itself: drafts of a VAE, codes of a bank, how they reach the network, and folders."""

import pytest
import torch
from torch import nn

from sparring.data import Batch, Digits, Draws, StoredImages
from sparring.generators import Coder, Denoiser, Drafts, Memory, Pretrained, load_generator
from sparring.generators.own_source import gaussian_kl
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.denoising.swycc import SWYCC
from sparring.networks import MLP, CodeUNet, SourceUNet
from sparring.process import EDM, VP, StudentT


class Shows(nn.Module):
    """Predicts the source."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, time, source):
        return self.scale * (source if source.ndim == 4 else source.mean(1)[:, None, None, None].expand_as(x))


def small(**settings):
    torch.manual_seed(0)
    return Drafts(code=3, width=8, **settings)


def test_the_kl_term_is_that_of_gaussians():
    mean, log_variance = torch.tensor([[0.3, -1.0]]), torch.tensor([[0.4, -0.7]])
    law, normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp()), torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(law, normal).sum(1)
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected)
    assert gaussian_kl(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


def test_the_loss_of_the_autoencoder_by_hand():
    drafts, images, noise = small(alpha=3.0), Digits().images(5), Draws(0).normal((5, 3))
    mean, log_variance = drafts.encoder(images).unbind(1)
    made = drafts.decoder(mean + (0.5 * log_variance).exp() * noise)
    expected = (made - images).square().sum((1, 2, 3)) + 3 * gaussian_kl(mean, log_variance)
    torch.testing.assert_close(drafts.loss(images, noise), expected.mean())


def test_a_fitted_autoencoder_of_one_direction_finds_it_and_its_prior():
    """Images u times one pattern, u standard normal: drafts of codes vary along it, those of images are near them."""
    u = 0.5 * torch.randn(2000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    pattern = torch.tensor([1.0, -1.0, 1.0, 1.0]).view(1, 1, 2, 2)
    images = (u * pattern).clamp(-1, 1)
    torch.manual_seed(0)
    drafts = Drafts(image_shape=(1, 2, 2), code=2, width=32, alpha=0.05, steps=400)
    drafts.fit(images, seed=0)
    assert not any(p.requires_grad or p.grad is not None for p in drafts.parameters())
    batch = Batch(images[:500], draws=Draws(1))
    assert (drafts.of_batch(batch, True) - images[:500]).square().mean() < 0.1 * images.square().mean()
    drawn = drafts(Draws(2).normal((4000, 2)))
    along = (drawn * pattern).mean((1, 2, 3))
    assert along.std().item() == pytest.approx((images * pattern).mean((1, 2, 3)).std().item(), rel=0.15)
    blind = Drafts(image_shape=(1, 2, 2), code=2, width=32, posterior=False)
    blind.load_state_dict(drafts.state_dict())
    batch = Batch(images[:500], draws=Draws(1))
    assert torch.equal(blind.of_batch(batch, True), drafts(Draws(1).normal((500, 2))))


def test_training_sees_drafts_of_its_images_and_samples_see_those_of_noise():
    denoiser = Denoiser(Shows(), VP(), "x0", own_source=small())
    denoiser.check(Digits())
    assert not denoiser.takes_source
    images = Digits().images(4)
    batch = denoiser.embed(Batch(images, draws=Draws(5)))
    own, noise = denoiser.own_source, Draws(5).normal((4, 3))
    mean, log_variance = own.encoder(images).unbind(1)
    expected = own.decoder(mean + (0.5 * log_variance).exp() * noise).clamp(-1, 1)
    torch.testing.assert_close(batch.condition, expected)
    assert not torch.allclose(expected[0], expected[1])
    prediction = denoiser(torch.zeros(4, 1, 8, 8), torch.full((4,), 0.5), batch.condition)
    torch.testing.assert_close(prediction.output, expected)
    samples = denoiser.sample(6, 3, seed=7)
    assert torch.equal(samples, denoiser.sample(6, 5, seed=7, batch_size=2))  # the draft stays on the way
    own = denoiser.sample(3, 2, seed=[4, 9, 4])
    assert torch.equal(own[0], own[2])
    assert not torch.equal(own[0], own[1])


@pytest.mark.parametrize("process", [VP(), EDM(kernel=StudentT(dimension=4))])
def test_its_folder_draws_the_same(process, tmp_path):
    torch.manual_seed(0)
    net = SourceUNet(sample_size=8, block_out_channels=[8, 8], norm_num_groups=4)
    denoiser = Denoiser(net, process, "v" if isinstance(process, VP) else "edm", own_source=small())
    denoiser.check(Digits())
    assert denoiser.save(tmp_path / "folder")
    assert torch.equal(load_generator(tmp_path / "folder").sample(3, 2), denoiser.sample(3, 2))


def test_another_method_goes_on_with_the_source_that_the_network_was_trained_with(tmp_path):
    torch.manual_seed(0)
    net = SourceUNet(sample_size=8, block_out_channels=[8, 8], norm_num_groups=4)
    denoiser = Denoiser(net, VP(), "v", own_source=small(steps=2))
    denoiser.check(Digits())
    assert denoiser.save(tmp_path / "folder")
    tuned = Pretrained(str(tmp_path / "folder"))
    tuned.check(Digits())
    tuned.prepare(Digits())  # fits nothing anew
    told = [one.embed(Batch(Digits().images(4), draws=Draws(5))).condition for one in (tuned, denoiser)]
    assert torch.equal(*told)
    assert torch.equal(tuned.sample(3, 2), denoiser.sample(3, 2))


def test_a_source_that_learns_needs_the_method_that_trains_it(tmp_path):
    net = SourceUNet(sample_size=8, block_out_channels=[8, 8], norm_num_groups=4)
    denoiser = Denoiser(net, VP(), "v", own_source=Coder(width=8))
    with pytest.raises(ValueError, match=r"`own_source=Coder` is trained by a method of its own: start from its run"):
        Diffusion(denoiser).check(4)
    SWYCC(denoiser).check(4)
    denoiser.check(Digits())
    assert denoiser.save(tmp_path / "folder")
    Diffusion(Pretrained(str(tmp_path / "folder"))).check(4)
    with pytest.raises(ValueError, match="the memory holds no codes: `gmem` fills it"):
        Memory(dim=4, rows=5)(torch.zeros(2, 1))


def test_a_memory_gives_the_codes_of_images_in_training_and_any_row_in_samples(tmp_path):
    data = StoredImages(torch.zeros(5, 1, 8, 8))
    net = CodeUNet(sample_size=8, code_dim=4, block_out_channels=[8, 8], norm_num_groups=4)
    denoiser = Denoiser(net, VP(), "v", own_source=Memory(dim=4))
    denoiser.check(data)
    codes = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    memory = denoiser.own_source
    memory.fill(codes)
    torch.testing.assert_close(memory.bank.norm(dim=1), torch.ones(5))
    batch = Batch(torch.zeros(2, 1, 8, 8), draws=Draws(0), index=torch.tensor([3, 1]))
    torch.testing.assert_close(memory.of_batch(batch, False), nn.functional.normalize(codes[[3, 1]], dim=1))
    many = Batch(torch.zeros(4000, 1, 8, 8), draws=Draws(0), index=torch.full((4000,), 2))
    seen = memory.of_batch(many, True)
    assert (seen == 0).float().mean().item() == pytest.approx(0.4, abs=0.02)
    torch.testing.assert_close(seen[seen != 0], memory.bank[2].expand(4000, 4)[seen != 0])
    drawn = memory(Draws(0).normal((5000, 1)))
    counts = (drawn[:, None] == memory.bank).all(2).sum(0)
    assert counts.sum() == 5000
    assert counts.min() > 900
    assert denoiser.save(tmp_path / "folder")
    assert torch.equal(load_generator(tmp_path / "folder").sample(3, 2), denoiser.sample(3, 2))


def test_a_code_changes_nothing_at_the_start_and_something_later():
    torch.manual_seed(0)
    net = CodeUNet(sample_size=8, code_dim=4, block_out_channels=[8, 8], norm_num_groups=4)
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([10.0, 500.0])
    plain = net.net(x, time, class_labels=torch.zeros(2, 32)).sample
    assert torch.equal(net(x, time, torch.randn(2, 4)), plain)
    nn.init.ones_(net.read_code.weight)
    assert not torch.allclose(net(x, time, torch.ones(2, 4)), plain)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="`own_source`: MLP takes no source"):
        Denoiser(MLP(), VP(), "v", own_source=small())
    denoiser = Denoiser(Shows(), VP(), "x0", own_source=Drafts(image_shape=(1, 16, 16)))
    with pytest.raises(ValueError, match=r"`own_source.image_shape=\[1, 16, 16\]`: the images have \[1, 8, 8\]"):
        denoiser.check(Digits())
    shown = Denoiser(Shows(), VP(), "x0", own_source=small())
    shown.check(Digits())
    with pytest.raises(ValueError, match=r"`labels=\[1\]`: Shows takes no classes"):
        shown.sample(2, 2, labels=[1])
    with pytest.raises(ValueError, match="takes neither classes nor captions"):
        shown.sample(2, 2, guidance=2.0)
    with pytest.raises(ValueError, match="`sharding`: a network with an own source"):
        shown.network_to_shard()
    with pytest.raises(ValueError, match="`code=0`"):
        Drafts(code=0)
    with pytest.raises(ValueError, match="`dropout=1`"):
        Memory(dropout=1)
    with pytest.raises(ValueError, match="does not say which images"):
        Memory(dim=4).of_batch(Batch(torch.zeros(2, 1, 8, 8)), True)
    with pytest.raises(ValueError, match="holds 3 codes, and the data 5 images"):
        Memory(dim=4, rows=3).size_for(5, (1, 8, 8))
