"""The two discriminators on frozen features: shapes, who gets gradient, spectral norms and exact accumulation."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from sparring.backbones import SmallConvNet
from sparring.data import Draws
from sparring.discriminators import Given, ProjectedDiscriminator, SiameseDiscriminator
from sparring.discriminators.heads import SpectralConv2d
from sparring.objectives import Hinge, Scores, r1_penalty


def siamese(backbone, **settings):
    torch.manual_seed(0)
    return SiameseDiscriminator(backbone=backbone, width=8, **settings).double()


def projected(backbone, **settings):
    torch.manual_seed(0)
    return ProjectedDiscriminator(backbone=backbone, width=8, **settings).double()


def discriminator(kind, backbone, **settings):
    """A discriminator of any kind and a function (images, draws) -> logits; the reference is made from the images."""
    if kind == "projected":
        d = projected(backbone, num_classes=3, **settings)
        return d, lambda x, draws: d(x, Given(labels=torch.arange(len(x)) % 3), draws)
    d = siamese(backbone, **settings)
    return d, lambda x, draws: compared(d, x, x.detach().flip(2), draws)


def compared(d, candidate, reference, draws):
    """Logits of the siamese discriminator for two batches of images."""
    features = d.features(candidate, Given(), draws)
    return d.logits(features, Given(reference=d.features(reference, Given(), draws)))


KINDS = ["siamese", "projected"]


def pictures(b=4, size=8):
    return torch.randn(b, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 8, 28])
def test_shapes_and_gradient_to_the_image_only(kind, size, backbone, draws):
    d, logits_of = discriminator(kind, backbone)
    x = pictures(size=size).requires_grad_()
    logits = logits_of(x, draws(4))
    positions = sum(m.shape[2] * m.shape[3] for m in backbone.maps(x))
    assert logits.shape == ((4, positions) if kind == "projected" else (4,))
    logits.sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().flatten(1).sum(1) > 0).all()
    assert all(p.grad is None for p in d.backbone.parameters())
    trainable = {name: p for name, p in d.named_parameters() if p.requires_grad}
    assert trainable
    assert all(p.grad is not None for p in trainable.values())
    assert not any(name.startswith("backbone") for name in trainable)


@pytest.mark.parametrize("kind", KINDS)
def test_backbone_stays_in_eval(kind, backbone):
    d, _ = discriminator(kind, backbone)
    d.train()
    assert d.training
    assert not any(m.training for m in d.backbone.modules())
    assert not d.eval().training


@pytest.mark.parametrize("kind", KINDS)
def test_forward_has_no_state_and_two_forwards_fit_one_backward(kind, backbone, draws):
    d, logits_of = discriminator(kind, backbone)
    before = {k: v.clone() for k, v in d.state_dict().items()}
    x = pictures()
    first, second = logits_of(x, draws(4)), logits_of(x, draws(4))
    assert torch.equal(first, second)
    Hinge().discriminator(Scores(first), Scores(logits_of(-x, draws(4, seed=1)))).backward()
    assert all(torch.equal(v, before[k]) for k, v in d.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_add_up_to_the_whole_batch(kind, backbone, draws):
    d, logits_of = discriminator(kind, backbone)
    x = pictures(8)
    labels = torch.arange(8) % 3

    def logits(rows):
        if kind == "projected":
            return d(x[rows], Given(labels=labels[rows]), draws(rows))
        return compared(d, x[rows], x[rows].flip(2), draws(rows))

    F.softplus(logits(list(range(8)))).mean().backward()
    whole = [p.grad.clone() for p in d.parameters() if p.requires_grad]
    d.zero_grad()
    for row in range(8):
        (F.softplus(logits([row])).mean() / 8).backward()
    for a, b in zip(whole, (p.grad for p in d.parameters() if p.requires_grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_spectral_norms_hold_after_updates(kind, backbone, draws):
    d, logits_of = discriminator(kind, backbone)
    optimizer = torch.optim.Adam([p for p in d.parameters() if p.requires_grad], lr=1e-2)
    x = pictures()
    losses = []
    for step in range(60):
        real, fake = logits_of(x, draws(4, step)), logits_of(x.tanh() + 0.5, draws(4, step + 1))
        loss = Hinge().discriminator(Scores(real), Scores(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        d.after_update()
        losses.append(loss.item())
    for layer in d.modules():
        if isinstance(layer, SpectralConv2d):
            matrix = layer.weight.detach().flatten(1)
            sigma = layer.u @ matrix @ layer.v
            assert torch.linalg.matrix_norm(matrix / sigma, 2) <= 1.05
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])  # it learns all the same


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_gives_float32_logits(kind, draws):
    d, logits_of = discriminator(kind, SmallConvNet(in_channels=3, widths=(8, 16), pretrain="none"))
    d.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = logits_of(pictures().float(), draws(4))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, logits_of(pictures().float(), draws(4)), rtol=0.1, atol=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_state_dicts(kind, backbone, draws):
    d, logits_of = discriminator(kind, backbone)
    other = copy.deepcopy(d)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    other.load_state_dict(d.state_dict())
    for a, b in zip(d.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_spectral_convolution_divides_by_the_largest_singular_value():
    layer = SpectralConv2d(3, 5, 1).double()
    for _ in range(200):
        layer.advance()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    weight = layer.weight / torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
    torch.testing.assert_close(layer(x), F.conv2d(x, weight, layer.bias))


def test_equal_heads_give_the_top_score_to_equal_images(backbone, draws):
    d = siamese(backbone, augment="")
    d.reference_heads = d.candidate_heads
    with torch.no_grad():
        d.bias += torch.tensor([1.0, 2.0])
    x = pictures()
    torch.testing.assert_close(
        compared(d, x, x, draws(4)), torch.full((4,), 11.5, dtype=torch.float64)
    )  # scale 10 + mean bias
    assert (compared(d, x, x.flip(0), draws(4)) < 11.5).all()


def test_scores_by_hand(backbone, draws):
    """Spatial: mean over positions of the cosine; pooled: cosine of the means; blocks are averaged."""
    d = siamese(backbone, augment="")
    a, r = pictures(), pictures().roll(1, 0)
    expected = torch.zeros(4, dtype=torch.float64)
    heads = zip(d.candidate_heads, d.reference_heads, backbone.maps(a), backbone.maps(r), strict=True)
    for h, g, map_a, map_r in heads:
        u, v = h(map_a), g(map_r)
        spatial = ((u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1))).mean((1, 2))
        u, v = u.mean((2, 3)), v.mean((2, 3))
        pooled = (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1))
        expected += 10 * (spatial + pooled) / 2 / 2
    torch.testing.assert_close(compared(d, a, r, draws(4)), expected)


def test_augmentations_of_candidate_and_reference_are_independent(backbone, draws):
    d = siamese(backbone)
    d.reference_heads = d.candidate_heads
    x = pictures()
    assert (compared(d, x, x, draws(4)) < 10).all()


def test_candidates_share_one_reference(backbone, draws):
    """Two candidates at once have the logits of each by itself; the heads of the reference run once."""
    d = siamese(backbone, augment="")
    a, b, r = pictures(), pictures().tanh(), pictures().roll(1, 0)
    given = Given(reference=d.features(r, Given(), draws(4)))
    candidates = [d.features(x, given, draws(4)) for x in (a, b)]
    runs = []
    d.reference_heads[0].register_forward_hook(lambda *_: runs.append(1))
    together = d.scores(candidates, given)
    assert len(runs) == 1
    for scores, features in zip(together, candidates, strict=True):
        assert scores.features is features
        torch.testing.assert_close(scores.logits, d.logits(features, given))


def test_reference_errors(backbone, draws):
    d = siamese(backbone)
    candidate = d.features(pictures(4), Given(), draws(4))
    for given in (Given(), Given(reference=[]), Given(reference=d.features(pictures(3), Given(), draws(3)))):
        with pytest.raises(ValueError, match="one reference for each candidate"):
            d.logits(candidate, given)


def test_class_projection_by_hand(backbone, draws):
    d = projected(backbone, num_classes=3, augment="")
    x, labels = pictures(), torch.tensor([0, 2, 1, 0])
    maps = [head(m) for head, m in zip(d.heads, backbone.maps(x), strict=True)]
    assert d.classes is not None
    expected = [torch.einsum("bkhw,bk->bhw", m, d.classes.weight[labels]).flatten(1) / math.sqrt(8) for m in maps]
    torch.testing.assert_close(d(x, Given(labels=labels), draws(4)), torch.cat(expected, 1))
    with pytest.raises(ValueError, match="labels"):
        d(x, Given(), draws(4))


def test_unconditional_projected_discriminator_ignores_labels(backbone, draws):
    d, x = projected(backbone), pictures()
    assert torch.equal(d(x, Given(), draws(4)), d(x, Given(labels=torch.arange(4)), draws(4)))


@pytest.mark.parametrize("kind", KINDS)
def test_r1_at_the_inputs_of_the_heads(kind, backbone, draws):
    """The penalty reaches the heads, its gradient agrees with finite differences along a random direction."""
    d, _ = discriminator(kind, backbone)
    maps = [m.detach().requires_grad_() for m in d.features(pictures(), Given(), draws(4))]
    given = Given(labels=torch.arange(4) % 3, reference=[m.detach().flip(0) for m in maps])

    def penalty():
        return r1_penalty(d.logits(maps, given), maps)

    heads = [p for p in d.parameters() if p.requires_grad]
    grads = torch.autograd.grad(penalty(), heads, allow_unused=True, materialize_grads=True)
    steps = [torch.randn_like(p) for p in heads]
    slope = sum((g * s).sum() for g, s in zip(grads, steps, strict=True))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, s in zip(heads, steps, strict=True):
                p.add_(s, alpha=sign * 1e-6)
        values.append(penalty().detach())
        with torch.no_grad():
            for p, s in zip(heads, steps, strict=True):
                p.sub_(s, alpha=sign * 1e-6)
    torch.testing.assert_close((values[0] - values[1]) / 2e-6, slope, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_images_larger_than_the_backbones_input_are_cropped_half_of_the_time(kind, backbone):
    """The backbone then gets images of its own size; with `crop=0` it resizes the whole image itself."""
    x, seen = pictures(32, size=24).float(), []
    backbone.float().image_size, maps = 8, backbone.maps
    backbone.maps = lambda images: seen.append(images) or maps(images)
    for crop, size in ((0.5, 8), (0.0, 24)):
        build = siamese if kind == "siamese" else projected
        d = build(backbone, augment="", crop=crop).float()
        d.features(x, Given(), Draws(0))
        assert seen[-1].shape[-2:] == (size, size)
    with pytest.raises(ValueError, match="`crop=1.5`"):
        build(backbone, crop=1.5)
