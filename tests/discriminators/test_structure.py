"""The structure distance against matrices worked out by hand, and the discipline of its encoder."""

import math

import pytest
import torch
from torch import nn

from sparring.backbones import SmallConvNet, freeze
from sparring.data import Draws
from sparring.discriminators import Given, StructureDiscriminator
from sparring.objectives import Wasserstein, structure_distance


def batches(b=6, d=5):
    return torch.randn(2, b, d, dtype=torch.float64).unbind() + (torch.rand(b, dtype=torch.float64),)


def test_zero_for_equal_batches_and_positive_otherwise():
    real, fake, weight = batches()
    assert structure_distance(real, real, weight) == 0
    assert structure_distance(real, fake, weight) > 0


def test_invariant_to_a_common_permutation_and_to_the_scale_of_each_batch():
    real, fake, weight = batches()
    expected = structure_distance(real, fake, weight)
    order = torch.randperm(len(real))
    torch.testing.assert_close(structure_distance(real[order], fake[order], weight[order]), expected)
    torch.testing.assert_close(structure_distance(0.01 * real, 100 * fake, weight), expected)
    with pytest.raises(AssertionError):  # the pairing of real i with fake i matters
        torch.testing.assert_close(structure_distance(real, fake[order.roll(1)], weight), expected)


def test_bounded_however_far_the_features_are():
    for scale in (1e-3, 1.0, 1e3):
        real, fake = torch.randn(8, 3), scale * torch.randn(8, 3) ** 3
        assert structure_distance(real, fake, torch.ones(8)) <= 2
    line = torch.tensor([[1.0], [-1.0]])  # the bound is reached: opposite against equal
    assert structure_distance(line, line.abs(), torch.ones(2)) == 2


def test_cosine_by_hand():
    real = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]], dtype=torch.float64)  # cosines 0, s, s with s = sqrt(1/2)
    fake = torch.tensor([[5.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)  # cosines 1, 0, 0
    s = math.sqrt(0.5)
    weight = torch.tensor([0.25, 1.0, 1.0], dtype=torch.float64)
    assert float(structure_distance(real, fake, torch.ones(3))) == pytest.approx((1 + 2 * s) / 3)
    assert float(structure_distance(real, fake, weight)) == pytest.approx((0.5 * 1 + 0.5 * s + s) / 3)


def test_the_weight_is_not_divided_out():
    real, fake, _ = batches()
    full = structure_distance(real, fake, torch.ones(6))
    torch.testing.assert_close(structure_distance(real, fake, torch.full((6,), 0.3)), 0.3 * full)
    assert structure_distance(real, fake, torch.zeros(6)) == 0


def test_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    real, fake, weight = batches(b=4, d=3)
    inputs = (real.requires_grad_(), fake.requires_grad_())
    assert torch.autograd.gradcheck(lambda r, f: structure_distance(r, f, weight), inputs)


def test_collapsed_and_zero_features_give_finite_gradients():
    for fill in (0.0, 1.0):
        fake = torch.full((4, 3), fill, requires_grad=True)
        structure_distance(torch.randn(4, 3), fake, torch.ones(4)).backward()
        assert fake.grad is not None
        assert fake.grad.isfinite().all()


def test_half_precision_is_computed_in_float32():
    real, fake, weight = (x.bfloat16() for x in batches())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        s = structure_distance(real, fake, weight)
    assert s.dtype == torch.float32
    torch.testing.assert_close(s, structure_distance(real.float(), fake.float(), weight.float()))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 3), (1, 3), (1,)), "at least 2"),
        (((4, 3), (5, 3), (4,)), "shapes"),
        (((4, 3), (4, 3), (4, 1)), "shapes"),
    ],
)
def test_user_errors(shapes, message):
    with pytest.raises(ValueError, match=message) as error:
        structure_distance(*(torch.rand(s) for s in shapes))
    assert "\n" not in str(error.value)


def test_the_encoder_at_its_start_and_back():
    discriminator = StructureDiscriminator(encoder=small_encoder())
    real, fake, weight = images()
    start = distance(discriminator, real, fake, weight).item()
    with torch.no_grad():
        for p in discriminator.encoder.parameters():
            p += 0.1 * torch.randn_like(p)
    now = distance(discriminator, real, fake, weight).item()
    with torch.no_grad(), discriminator.at_start():
        assert distance(discriminator, real, fake, weight).item() == start
    assert distance(discriminator, real, fake, weight).item() == now != start


def test_what_the_start_would_have_said_is_logged_every_tenth_step():
    real, fake, weight = images()
    for pull, step, expected in ((0.02, 0, True), (0.02, 5, False), (0.02, 10, True), (0.0, 0, False)):
        discriminator = StructureDiscriminator(encoder=small_encoder(), pull=pull)
        given = Given(reference=[real], weight=weight)
        start = distance(discriminator, real, fake, weight)
        with torch.no_grad():
            for p in discriminator.encoder.parameters():
                p += 0.1
        found = discriminator.statistics(*discriminator.scores([[real], [fake]], given), given, step)
        assert found["structure"] == distance(discriminator, real, fake, weight) != start
        assert found.get("structure_start") == (start if expected else None)


def distance(discriminator, real, fake, weight):
    """S of a batch of fakes from the reals that they were made from."""
    draws = Draws(0)
    given = Given(reference=discriminator.features(real, Given(), draws), weight=weight)
    return -discriminator(fake, given, draws).mean()


def test_the_logits_are_minus_the_distance_of_each_matrix():
    real, fake, weight = images()
    weight = torch.rand(8)
    discriminator = StructureDiscriminator(encoder=small_encoder(), structure_batch=4)
    z_real, z_fake = discriminator.encode(real), discriminator.encode(fake)
    expected = [structure_distance(z_real[rows], z_fake[rows], weight[rows]) for rows in (slice(0, 4), slice(4, 8))]
    given = Given(reference=[real], weight=weight)
    torch.testing.assert_close(discriminator.logits([fake], given), -torch.stack(expected))
    assert torch.equal(discriminator.logits([real], given), torch.zeros(2))  # the reference itself
    assert torch.equal(
        discriminator.logits([fake], Given(reference=[real])),
        discriminator.logits([fake], Given(reference=[real], weight=torch.ones(8))),
    )
    with pytest.raises(ValueError, match="the real images it was made from"):
        discriminator.logits([fake], Given())


def test_the_reference_is_encoded_once():
    real, fake, weight = images()
    discriminator = StructureDiscriminator(encoder=small_encoder())
    seen = []
    discriminator.encoder.stages[0].register_forward_hook(lambda _, x, y: seen.append(x[0]))
    discriminator.scores([[real], [fake]], Given(reference=[real]))
    assert [x is y for x, y in zip(seen, (real, fake), strict=True)] == [True, True]


def small_encoder():
    return SmallConvNet(in_channels=1, widths=(8, 16), pretrain="none", num_classes=3)


def images(seed=0, b=8):
    return torch.randn(2, b, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).unbind() + (torch.ones(b),)


def test_each_player_gets_its_own_gradient_only():
    discriminator = StructureDiscriminator(encoder=small_encoder())
    real, fake, weight = images()
    fake.requires_grad_()
    (-distance(discriminator, real, fake.detach(), weight)).backward()
    assert fake.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in discriminator.parameters() if p.requires_grad)
    discriminator.zero_grad()
    discriminator.requires_grad_(False)
    distance(discriminator, real, fake, weight).backward()
    assert fake.grad is not None
    assert fake.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminator.parameters())


def test_the_encoder_climbs_but_not_above_the_ceiling_of_the_objective():
    real, fake, weight = images()
    discriminator, objective = StructureDiscriminator(encoder=small_encoder(), pull=0.0), Wasserstein(ceiling=0.2)
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=3e-3)
    start = distance(discriminator, real, fake, weight).item()
    for _ in range(40):
        scores = discriminator.scores([[real], [fake]], Given(reference=[real], weight=weight))
        loss = objective.discriminator(*scores)
        s = distance(discriminator, real, fake, weight)
        optimizer.zero_grad()
        loss.backward()
        if s > 0.2:
            assert loss == -0.2
            assert all(p.grad.abs().sum() == 0 for p in discriminator.parameters() if p.grad is not None)
            break
        assert loss == -s
        optimizer.step()
    assert start < 0.2 < s


def test_pull_back_and_anchor():
    discriminator = StructureDiscriminator(encoder=nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), pull=0.25, anchor=0.1)
    start = discriminator.encoder[1].weight.detach().clone()
    with torch.no_grad():
        discriminator.encoder[1].weight += 2.0
    assert discriminator.anchor_penalty().item() == pytest.approx(4.0 * 256)
    assert discriminator.losses()["anchor"].item() == pytest.approx(0.1 * 4.0 * 256)
    assert StructureDiscriminator(encoder=small_encoder()).losses() == {}
    discriminator.after_update()
    torch.testing.assert_close(discriminator.encoder[1].weight, start + 1.5)
    assert not StructureDiscriminator(encoder=small_encoder(), pull=0.0).state_dict().keys() & {
        "start_stages_0_conv_weight"
    }


def test_start_survives_saving_and_freezing():
    """The start is in the state dict, and the pull does not stop when a trainer switches requires_grad off."""
    discriminator, other = (
        StructureDiscriminator(encoder=nn.Sequential(nn.Flatten(), nn.Linear(64, 4))) for _ in range(2)
    )
    with torch.no_grad():
        discriminator.encoder[1].weight += 1.0
    other.load_state_dict(discriminator.state_dict())
    other.requires_grad_(False)
    assert float(other.anchor_penalty()) == pytest.approx(256)
    other.after_update()
    assert float(other.anchor_penalty()) == pytest.approx(256 * 0.98**2)


def test_gather_joins_the_features_of_other_processes():
    discriminator = StructureDiscriminator(encoder=small_encoder())
    real, fake, weight = images()
    weight = torch.rand(8)
    whole = distance(discriminator, real, fake, weight)
    rest = [discriminator.encode(real[3:]).detach(), discriminator.encode(fake[3:]).detach(), weight[3:]]
    discriminator.gather = lambda x: torch.cat([x, rest.pop(0)])
    torch.testing.assert_close(distance(discriminator, real[:3], fake[:3], weight[:3]), whole)


def test_gradients_of_local_shards_add_up_to_that_of_the_joined_batch():
    """Two processes, each with the whole S but gradient to its own rows only (an all-gather that sums adds them up)."""
    discriminator = StructureDiscriminator(encoder=small_encoder().double())
    real, fake, weight = (x.double() for x in images())
    parameters = [p for p in discriminator.parameters() if p.requires_grad]
    whole = torch.autograd.grad(distance(discriminator, real, fake, weight), parameters)
    shards = [slice(0, 4), slice(4, 8)]
    parts = []
    for rank, rows in enumerate(shards):
        other = shards[1 - rank]
        queue = [discriminator.encode(real[other]).detach(), discriminator.encode(fake[other]).detach(), weight[other]]
        discriminator.gather = lambda x, queue=queue, rank=rank: torch.cat(
            [x, queue.pop(0)] if rank == 0 else [queue.pop(0), x]
        )
        parts.append(torch.autograd.grad(distance(discriminator, real[rows], fake[rows], weight[rows]), parameters))
    for a, b, c in zip(*parts, whole, strict=True):
        torch.testing.assert_close(a + b, c)


def test_batch_norm_stays_in_eval_mode_and_half_precision_images_are_taken():
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    discriminator = StructureDiscriminator(encoder=encoder).train()
    assert discriminator.training
    assert not encoder[1].training
    real, fake, weight = images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert distance(discriminator, real.bfloat16(), fake.bfloat16(), weight).dtype == torch.float32
        torch.testing.assert_close(distance(discriminator, real, real, weight), torch.tensor(0.0))


def test_frozen_encoder_is_left_alone():
    discriminator = StructureDiscriminator(encoder=freeze(small_encoder()))
    before = {k: v.clone() for k, v in discriminator.state_dict().items()}
    discriminator.after_update()
    assert all(torch.equal(v, before[k]) for k, v in discriminator.state_dict().items())


@pytest.mark.parametrize("setting", [{"pull": 1.0}, {"pull": -0.1}, {"anchor": -1.0}])
def test_constructor_errors(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        StructureDiscriminator(encoder=small_encoder(), **setting)


def test_structure_batch_is_the_mean_over_its_matrices():
    encoder = torch.nn.Flatten()
    real, fake, weight = torch.rand(12, 1, 4, 4), torch.rand(12, 1, 4, 4), torch.rand(12)
    fixed = StructureDiscriminator(encoder=encoder, structure_batch=4)
    free = StructureDiscriminator(encoder=encoder)
    parts = [distance(free, real[i : i + 4], fake[i : i + 4], weight[i : i + 4]) for i in (0, 4, 8)]
    torch.testing.assert_close(distance(fixed, real, fake, weight), torch.stack(parts).mean())
    with pytest.raises(ValueError, match="`structure_batch=4` does not divide the 6 images"):
        distance(fixed, real[:6], fake[:6], weight[:6])
    with pytest.raises(ValueError, match="`structure_batch=1`"):
        StructureDiscriminator(encoder=encoder, structure_batch=1)
