"""The structure distance against matrices worked out by hand, and the discipline of its encoder."""

import math

import pytest
import torch
from torch import nn

from sparring.backbones import SmallConvNet, freeze
from sparring.discriminators import StructureDiscriminator
from sparring.objectives import structure_distance


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
    judge = StructureDiscriminator(encoder=small_encoder())
    real, fake, weight = images()
    start = judge(real, fake, weight).item()
    with torch.no_grad():
        for p in judge.encoder.parameters():
            p += 0.1 * torch.randn_like(p)
    now = judge(real, fake, weight).item()
    with torch.no_grad(), judge.at_start():
        assert judge(real, fake, weight).item() == start
    assert judge(real, fake, weight).item() == now != start
    assert judge.knows_its_start
    assert not StructureDiscriminator(encoder=small_encoder(), pull=0.0).knows_its_start


def small_encoder():
    return SmallConvNet(in_channels=1, widths=(8, 16), pretrain="none", num_classes=3)


def images(seed=0, b=8):
    return torch.randn(2, b, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).unbind() + (torch.ones(b),)


def test_each_player_gets_its_own_gradient_only():
    judge = StructureDiscriminator(encoder=small_encoder())
    real, fake, weight = images()
    fake.requires_grad_()
    judge.losses(judge(real, fake.detach(), weight))["structure"].backward()
    assert fake.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in judge.parameters() if p.requires_grad)
    judge.zero_grad()
    judge.requires_grad_(False)
    judge(real, fake, weight).backward()
    assert fake.grad is not None
    assert fake.grad.abs().sum() > 0
    assert all(p.grad is None for p in judge.parameters())


def test_the_encoder_climbs_but_not_above_the_ceiling():
    real, fake, weight = images()
    judge = StructureDiscriminator(encoder=small_encoder(), pull=0.0, ceiling=0.2)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3)
    start = judge(real, fake, weight).item()
    for _ in range(40):
        loss = judge.losses(s := judge(real, fake, weight))["structure"]
        optimizer.zero_grad()
        loss.backward()
        if s > 0.2:
            assert loss == -0.2
            assert all(p.grad.abs().sum() == 0 for p in judge.parameters() if p.grad is not None)
            break
        optimizer.step()
    assert start < 0.2 < s


def test_pull_back_and_anchor():
    judge = StructureDiscriminator(encoder=nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), pull=0.25, anchor=0.1)
    start = judge.encoder[1].weight.detach().clone()
    with torch.no_grad():
        judge.encoder[1].weight += 2.0
    assert judge.anchor_penalty().item() == pytest.approx(4.0 * 256)
    real, fake, weight = images()
    assert judge.losses(judge(real, fake, weight))["anchor"].item() == pytest.approx(0.1 * 4.0 * 256)
    judge.after_update()
    torch.testing.assert_close(judge.encoder[1].weight, start + 1.5)
    assert not StructureDiscriminator(encoder=small_encoder(), pull=0.0).state_dict().keys() & {
        "start_stages_0_conv_weight"
    }


def test_start_survives_saving_and_freezing():
    """The start is in the state dict, and the pull does not stop when a trainer switches requires_grad off."""
    judge, other = (StructureDiscriminator(encoder=nn.Sequential(nn.Flatten(), nn.Linear(64, 4))) for _ in range(2))
    with torch.no_grad():
        judge.encoder[1].weight += 1.0
    other.load_state_dict(judge.state_dict())
    other.requires_grad_(False)
    assert float(other.anchor_penalty()) == pytest.approx(256)
    other.after_update()
    assert float(other.anchor_penalty()) == pytest.approx(256 * 0.98**2)


def test_gather_joins_the_features_of_other_processes():
    judge = StructureDiscriminator(encoder=small_encoder())
    real, fake, weight = images()
    weight = torch.rand(8)
    whole = judge(real, fake, weight)
    rest = [judge.encode(real[3:]).detach(), judge.encode(fake[3:]).detach(), weight[3:]]
    judge.gather = lambda x: torch.cat([x, rest.pop(0)])
    torch.testing.assert_close(judge(real[:3], fake[:3], weight[:3]), whole)


def test_gradients_of_local_shards_add_up_to_that_of_the_joined_batch():
    """Two processes, each with the whole S but gradient to its own rows only (an all-gather that sums adds them up)."""
    judge = StructureDiscriminator(encoder=small_encoder().double())
    real, fake, weight = (x.double() for x in images())
    parameters = [p for p in judge.parameters() if p.requires_grad]
    whole = torch.autograd.grad(judge(real, fake, weight), parameters)
    shards = [slice(0, 4), slice(4, 8)]
    parts = []
    for rank, rows in enumerate(shards):
        other = shards[1 - rank]
        queue = [judge.encode(real[other]).detach(), judge.encode(fake[other]).detach(), weight[other]]
        judge.gather = lambda x, queue=queue, rank=rank: torch.cat(
            [x, queue.pop(0)] if rank == 0 else [queue.pop(0), x]
        )
        parts.append(torch.autograd.grad(judge(real[rows], fake[rows], weight[rows]), parameters))
    for a, b, c in zip(*parts, whole, strict=True):
        torch.testing.assert_close(a + b, c)


def test_batch_norm_stays_in_eval_mode_and_half_precision_images_are_taken():
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    judge = StructureDiscriminator(encoder=encoder).train()
    assert judge.training
    assert not encoder[1].training
    real, fake, weight = images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert judge(real.bfloat16(), fake.bfloat16(), weight).dtype == torch.float32
        torch.testing.assert_close(judge(real, real, weight), torch.tensor(0.0))


def test_frozen_encoder_is_left_alone():
    judge = StructureDiscriminator(encoder=freeze(small_encoder()))
    before = {k: v.clone() for k, v in judge.state_dict().items()}
    judge.after_update()
    assert all(torch.equal(v, before[k]) for k, v in judge.state_dict().items())


@pytest.mark.parametrize("setting", [{"pull": 1.0}, {"pull": -0.1}, {"anchor": -1.0}])
def test_constructor_errors(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        StructureDiscriminator(encoder=small_encoder(), **setting)


def test_structure_batch_is_the_mean_over_its_matrices():
    encoder = torch.nn.Flatten()
    real, fake, weight = torch.rand(12, 1, 4, 4), torch.rand(12, 1, 4, 4), torch.rand(12)
    fixed = StructureDiscriminator(encoder=encoder, structure_batch=4)
    free = StructureDiscriminator(encoder=encoder)
    parts = [free(real[i : i + 4], fake[i : i + 4], weight[i : i + 4]) for i in (0, 4, 8)]
    torch.testing.assert_close(fixed(real, fake, weight), torch.stack(parts).mean())
    with pytest.raises(ValueError, match="`structure_batch=4` does not divide the 6 images"):
        fixed(real[:6], fake[:6], weight[:6])
    with pytest.raises(ValueError, match="`structure_batch=1`"):
        StructureDiscriminator(encoder=encoder, structure_batch=1)
