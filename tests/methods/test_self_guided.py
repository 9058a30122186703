"""Self-guided diffusion: labels as clusters are label training; k-means finds modes; draws by frequency; K = 1."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from sparring.backbones import SmallConvNet, Wrapped
from sparring.data import Batch, Digits, Draws, StoredImages
from sparring.generators import Clusters, Denoiser, Memory, load_generator
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.denoising.self_guided import SelfGuided
from sparring.networks import CodeUNet
from sparring.process import VP

DATA = Digits(limit=200)


def denoiser(count=10, dropout=0.1, seed=0):
    torch.manual_seed(seed)
    net = CodeUNet(sample_size=8, code_dim=count, block_out_channels=[8, 8], norm_num_groups=4)
    nn.init.normal_(net.read_code.weight)
    nn.init.normal_(net.read_code.bias)
    return Denoiser(net, VP(), "v", own_source=Clusters(count=count), condition_dropout=dropout)


def self_guided(data=DATA, count=10, encoder=None, dropout=0.1, **settings):
    encoder = encoder or SmallConvNet(in_channels=1, widths=[8, 16], pretrain="none")
    method = SelfGuided(denoiser(count, dropout), encoder, **settings)
    method.size_for(data)
    method.generator.check(data)
    method.prepare(data)
    return method.train()


def batch_of(rows, draws=0):
    images, labels = DATA[rows]
    return Batch(images, labels, Draws(draws), index=torch.tensor(rows))


def loss_of(method, batch):
    batch = method.generator.embed(batch)
    return method.generator_loss(batch, method.rollout(batch))["diffusion"]


def pixels():
    """Features that are the pixels themselves."""
    return Wrapped(net=nn.Flatten(), name="pixels")


def test_clusters_that_are_the_labels_are_training_with_labels():
    """Bit for bit with the labels told by hand; and as a stock class-conditional network of the same weights."""
    method, rows = self_guided(clusters="labels"), list(range(64))
    batch = batch_of(rows)
    loss = loss_of(method, batch)
    plain = Diffusion(method.generator)
    told = replace(batch_of(rows), condition=nn.functional.one_hot(batch.labels, 10).float())
    assert torch.equal(loss, plain.generator_loss(told, plain.rollout(told))["diffusion"])

    net = method.generator.net
    settings = {name: value for name, value in net.net.config.items() if not name.startswith("_")}
    stock = UNet2DModel(**settings | {"class_embed_type": None, "num_class_embeds": 11})
    states = {name: value for name, value in net.net.state_dict().items() if not name.startswith("class_embedding")}
    stock.load_state_dict(states, strict=False)
    with torch.no_grad():  # the last class says "none"
        code = net.read_code
        stock.class_embedding.weight.copy_(torch.cat([code.weight.T + code.bias, code.bias[None]]))
    conditional = Denoiser(stock, VP(), "v", condition_dropout=0.1)
    conditional.check(DATA)
    theirs = Diffusion(conditional.train())
    torch.testing.assert_close(loss, theirs.generator_loss(batch_of(rows), theirs.rollout(batch_of(rows)))["diffusion"])
    other = loss_of(self_guided(clusters="random"), batch_of(rows))
    assert not torch.isclose(loss, other, rtol=1e-4)


def test_k_means_recovers_separated_modes_and_an_image_is_told_its_own():
    draws = Draws(3)
    truth = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[draws.uniform((100,)).argsort()]
    centres = draws.normal((3, 1, 8, 8)).clamp(-0.8, 0.8)
    data = StoredImages(centres[truth] + 0.02 * draws.normal((100, 1, 8, 8)))
    method = self_guided(data, count=3, encoder=pixels())
    table = nn.functional.one_hot(truth).T @ nn.functional.one_hot(method.assigned)
    assert sorted(table[table > 0].tolist()) == [10, 30, 60]  # each mode is one cluster
    source = method.generator.own_source
    assert sorted(source.sizes.tolist()) == [10, 30, 60]
    seen = []
    method.generator.net.read_code.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images, rows = data[[5, 50, 95]][0], torch.tensor([5, 50, 95])
    method.generator.condition_dropout = 0.0
    loss_of(method, Batch(images, draws=Draws(0), index=rows))
    assert torch.equal(seen[0].argmax(1), method.assigned[rows])
    assert torch.equal(seen[0].sum(1), torch.ones(3))


def test_samples_draw_clusters_as_often_as_they_are(tmp_path):
    method = self_guided(count=4)
    generator = method.generator
    clusters = torch.tensor([0] * 100 + [1] * 60 + [3] * 40)
    generator.own_source.fill(clusters)
    drawn = generator.own_source(Draws(0).normal((20000, 1)))
    assert torch.equal(drawn.sum(1), torch.ones(20000))
    share = torch.tensor([0.5, 0.3, 0.0, 0.2])
    spread = (share * (1 - share) / 20000).sqrt()
    assert ((drawn.mean(0) - share).abs() <= 4 * spread).all()
    seen = []
    generator.net.read_code.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    samples = generator.sample(2000, 1, seed=1)
    assert ((torch.cat(seen).mean(0) - share).abs() <= 4 * spread * 10**0.5).all()
    seen.clear()
    generator.grid(DATA, 2000, 0, scheduler="ddim", steps=1)
    assert ((torch.cat(seen).mean(0) - share).abs() <= 4 * spread * 10**0.5).all()
    assert generator.save(tmp_path / "folder")
    again = load_generator(tmp_path / "folder")
    assert torch.equal(again.own_source.sizes, torch.tensor([100.0, 60.0, 0.0, 40.0]))
    torch.testing.assert_close(again.sample(2000, 1, seed=1)[:8], samples[:8])
    assert again.takes_guidance
    guided = generator.sample(4, 2, guidance=2.0, seed=1)
    torch.testing.assert_close(again.sample(4, 2, guidance=2.0, seed=1), guided)
    assert not torch.allclose(guided, generator.sample(4, 2, seed=1))


def test_guidance_is_between_the_cluster_and_none():
    method = self_guided(count=4)
    seen = []
    method.generator.net.read_code.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    method.generator.sample(3, 1, guidance=2.0)
    assert torch.equal(seen[0][:3], torch.zeros(3, 4))
    assert torch.equal(seen[0][3:].sum(1), torch.ones(3))


def test_one_cluster_leaves_guidance_inert_when_it_says_what_none_says():
    """In the ideal limit the only cluster and "none" have one law, so one embedding: w then changes nothing."""
    method = self_guided(count=1)
    assert method.assigned.sum() == 0
    nn.init.zeros_(method.generator.net.read_code.weight)
    one, other = (method.generator.sample(4, 3, guidance=w) for w in (1.0, 4.0))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    nn.init.ones_(method.generator.net.read_code.weight)
    assert not torch.allclose(one, method.generator.sample(4, 3, guidance=4.0), atol=1e-3)


def test_conditions_are_left_out_at_their_rate():
    method = self_guided(dropout=0.1)
    seen = []
    method.generator.net.read_code.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    rows = [i % len(DATA) for i in range(4000)]
    with torch.no_grad():
        loss_of(method, batch_of(rows))
    left_out = (seen[0] == 0).all(1)
    assert left_out.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(seen[0][~left_out].argmax(1), method.assigned[torch.tensor(rows)][~left_out])
    method.eval()
    with torch.no_grad():
        loss_of(method, batch_of(rows[:200]))
    assert torch.equal(seen[1].sum(1), torch.ones(200))


def test_labels_do_not_reach_the_clusters_and_random_ones_have_equal_sizes():
    unlabelled = StoredImages(DATA.images())
    encoder = SmallConvNet(in_channels=1, widths=[8, 16], pretrain="self-supervised", epochs=1)
    other = SmallConvNet(in_channels=1, widths=[8, 16], pretrain="self-supervised", epochs=1)
    assert torch.equal(self_guided(encoder=encoder).assigned, self_guided(unlabelled, encoder=other).assigned)
    method = self_guided(clusters="random")
    assert torch.equal(method.assigned.bincount(), torch.full((10,), 20))
    assert abs(method.measures(method.generator, DATA, Draws(0))["rand"]) < 0.03
    assert self_guided(unlabelled, clusters="random").measures(method.generator, unlabelled, Draws(0)) == {}
    labels = self_guided(clusters="labels")
    assert labels.measures(labels.generator, DATA, Draws(0)) == {"purity": 1.0, "rand": pytest.approx(1.0)}


def test_what_it_refuses():
    encoder = SmallConvNet(in_channels=1, pretrain="none")
    with pytest.raises(ValueError, match="labels have taught convnet-32-64-64, and its clusters would tell them"):
        SelfGuided(denoiser(), SmallConvNet(in_channels=1, num_classes=10))
    with pytest.raises(ValueError, match="`clusters=all` is unknown"):
        SelfGuided(denoiser(), encoder, clusters="all")
    with pytest.raises(ValueError, match="needs sparring.generators.Clusters and a share above 0"):
        SelfGuided(denoiser(dropout=0.0), encoder)
    memory = Denoiser(CodeUNet(sample_size=8, code_dim=4), VP(), "v", own_source=Memory(dim=4))
    with pytest.raises(ValueError, match="needs sparring.generators.Clusters"):
        SelfGuided(memory, encoder)
    with pytest.raises(ValueError, match="`own_source.count=300`: `digits` has only 200 images"):
        self_guided(count=300)
    with pytest.raises(ValueError, match="`own_source.count=4` with `clusters=labels`: `digits` has 10 classes"):
        self_guided(count=4, clusters="labels")
    with pytest.raises(ValueError, match="`count=0`"):
        Clusters(count=0)
    with pytest.raises(ValueError, match="does not say which images"):
        self_guided().rollout(Batch(torch.zeros(2, 1, 8, 8)))
    with pytest.raises(ValueError, match=r"`labels=\[1\]`: CodeUNet takes no classes"):
        self_guided().generator.sample(2, 2, labels=[1])
