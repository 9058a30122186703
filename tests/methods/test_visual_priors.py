"""Codes of images and second stages: what is told, the loss by hand, stages one after the other, what is refused."""

import pytest
import torch

from sparring.data import Batch, Digits, Draws, StoredImages
from sparring.generators import Denoiser, VisualPrior, load_generator
from sparring.methods.denoising.visual_priors import VisualPriors, index
from sparring.networks import MLP, CodeUNet
from sparring.process import VP
from sparring.rollout import noise_at
from sparring.samplers import Sampler
from sparring.samplers.guidance.autoguidance import Autoguidance
from sparring.samplers.guidance.stages import Stages

IMAGES = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def made(moved=True, **settings):
    torch.manual_seed(0)
    net = CodeUNet(sample_size=8, code_dim=4, block_out_channels=[8, 8], norm_num_groups=4)
    if moved:
        torch.nn.init.normal_(net.read_code.weight)
    source = VisualPrior(code=4, width=8, **settings)
    denoiser = Denoiser(net, VP(), "v", own_source=source)
    denoiser.check(StoredImages(IMAGES))
    return denoiser


def test_codes_of_another_size_than_the_network_takes_are_named():
    net = CodeUNet(sample_size=8, code_dim=4, block_out_channels=[8, 8], norm_num_groups=4)
    with pytest.raises(ValueError, match="`code_dim=4` of the network, and codes have 6 numbers: set it to that"):
        Denoiser(net, VP(), "v", own_source=VisualPrior(code=6, width=8)).check(StoredImages(IMAGES))


def test_codes_are_told_with_noise_and_to_some_rows_not_at_all():
    prior = made(noise=0.5, dropout=0.3).own_source
    codes = prior.of_images(IMAGES)
    told = prior.told(IMAGES, Draws(1, phase="x"))
    draws = Draws(1, phase="x")
    noisy, kept = codes + 0.5 * draws.normal((200, 4)), draws.uniform((200,)) >= 0.3
    assert 120 < int(kept.sum()) < 160
    assert torch.equal(told[~kept], torch.zeros(int((~kept).sum()), 4))
    torch.testing.assert_close(told[kept], noisy[kept])
    assert codes.abs().max() < 1
    batch = Batch(IMAGES, draws=Draws(1, phase="x"))
    denoiser = made(noise=0.5, dropout=0.3)
    assert torch.equal(denoiser.eval().embed(batch).condition, codes)
    torch.testing.assert_close(denoiser.train().embed(batch).condition, told.detach())


def test_the_encoder_learns_by_the_loss_of_the_denoiser():
    denoiser = made(dropout=0.0, noise=0.0)
    method = VisualPriors(denoiser)
    batch = Batch(IMAGES[:8], draws=Draws(2, phase="x"))
    loss = method.generator_loss(batch, method.rollout(batch))["diffusion"]
    draws = Draws(2, phase="x")
    draws.normal((8, 4)), draws.uniform((8,))
    noised = noise_at(VP(), Batch(IMAGES[:8], draws=draws), method.times)
    output = denoiser(noised.x_t, noised.t, denoiser.own_source.of_images(IMAGES[:8])).output
    target = denoiser.target(IMAGES[:8], noised.eps, noised.t)
    torch.testing.assert_close(loss, (output - target).square().mean())
    loss.backward()
    assert all(p.grad.abs().max() > 0 for p in denoiser.own_source.parameters())


def test_a_new_network_and_a_share_of_all_rows_know_no_code():
    """The map of the code starts at 0; and rows that are told nothing are those of the first stage bit for bit."""
    x, t = torch.randn(5, 1, 8, 8), torch.full((5,), 0.5)
    new = made(moved=False)
    assert torch.equal(new(x, t, torch.ones(5, 4)).output, new(x, t, torch.zeros(5, 4)).output)
    denoiser = made(dropout=1.0)
    told = denoiser.own_source.told(IMAGES[:5], Draws(0))
    assert torch.equal(told, denoiser.own_source(torch.randn(5, 1)))
    assert not torch.equal(denoiser(x, t, torch.ones(5, 4)).output, denoiser(x, t, told).output)


def test_one_stage_is_the_plain_sampler_and_each_further_one_is_told_the_last_sample(monkeypatch):
    denoiser = made()
    sampler = Sampler(denoiser, device="cpu")
    plain = sampler(6, 3, scheduler="ddim", seed=2)
    one = sampler(6, 3, scheduler="ddim", seed=2, using=[Stages(stages=1)])
    assert torch.equal(one.images, plain.images)
    assert one.calls == plain.calls == 3
    seen, asked, encode, output = [], [], VisualPrior.of_images, CodeUNet.forward

    def of_images(self, images):
        seen.append((images.clone(), encode(self, images)))
        return seen[-1][1]

    def forward(self, x, time, source):
        asked.append((x.clone(), source.clone()))
        return output(self, x, time, source)

    monkeypatch.setattr(VisualPrior, "of_images", of_images)
    monkeypatch.setattr(CodeUNet, "forward", forward)
    three = sampler(6, 3, scheduler="ddim", seed=2, using=[Stages(stages=3)])
    assert three.calls == 9
    assert torch.equal(seen[0][0], plain.images)
    assert not torch.equal(seen[1][0], plain.images)
    assert all(torch.equal(source, torch.zeros(6, 4)) for _, source in asked[:3])
    assert all(torch.equal(source, seen[0][1]) for _, source in asked[3:6])
    assert all(torch.equal(source, seen[1][1]) for _, source in asked[6:])
    starts = [asked[call][0].flatten() for call in (0, 3, 6)]  # of which little is left of the image before
    correlations = torch.corrcoef(torch.stack([*starts, plain.images.flatten()]))
    assert correlations[1:3, [0, 3]].abs().max() < 0.2
    assert correlations[1, 2].abs() < 0.2


def test_a_second_model_is_told_the_same_codes(monkeypatch):
    strong, asked, output = made(), [], CodeUNet.forward
    torch.manual_seed(1)
    weak = made()
    torch.nn.init.normal_(weak.net.read_code.weight)

    def forward(self, x, time, source):
        asked.append((self is weak.net, source.clone()))
        return output(self, x, time, source)

    monkeypatch.setattr(CodeUNet, "forward", forward)
    Sampler(strong, device="cpu")(4, 2, scheduler="ddim", using=[Stages(), Autoguidance(weak)])
    codes = [[source for own, source in asked if own is which] for which in (False, True)]
    assert len(codes[0]) == len(codes[1]) == 4
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*codes, strict=True))
    assert not torch.equal(codes[1][0], codes[1][2])  # of the second stage


def test_stages_do_not_depend_on_the_batches():
    sampler = Sampler(made().double(), device="cpu")
    whole = sampler(5, 2, scheduler="ddim", using=[Stages()]).images
    torch.testing.assert_close(sampler(5, 2, scheduler="ddim", batch_size=2, using=[Stages()]).images, whole)


def test_the_index_is_0_for_copies_and_1_for_other_images():
    first = torch.randn(300, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert index(first, first) == 0
    assert index(first, torch.randn(300, 1, 4, 4, generator=torch.Generator().manual_seed(1))) == pytest.approx(
        1, abs=0.03
    )
    method = VisualPriors(made())
    found = method.measures(method.generator, Digits(), Draws(0))
    assert set(found) == {"copy_index", "true_index"}


def test_a_folder_keeps_the_encoder(tmp_path):
    denoiser = made()
    assert denoiser.save(tmp_path)
    again = load_generator(tmp_path)
    settings = dict(scheduler="ddim", using=[Stages()])
    expected = Sampler(denoiser, device="cpu")(4, 2, **settings).images
    torch.testing.assert_close(Sampler(again, device="cpu")(4, 2, **settings).images, expected)


def test_what_does_not_fit_is_refused():
    plain = Denoiser(MLP(), VP(), "v")
    with pytest.raises(ValueError, match="visual priors need sparring.generators.VisualPrior"):
        VisualPriors(plain)
    with pytest.raises(ValueError, match="train one with `fit visual_priors`"):
        Stages().check(plain)
    with pytest.raises(ValueError, match="`stages=0` must be at least 1"):
        Stages(stages=0)
    with pytest.raises(ValueError, match="`dropout=1.5` lie in"):
        VisualPrior(dropout=1.5)
    with pytest.raises(ValueError, match="the images have"):
        made().check(StoredImages(torch.zeros(4, 1, 4, 4)))
