"""The memory of features: what is read when, in which order, and what it is good for."""

import pytest
import torch
from torch import nn

from sparring.discriminators import FeatureMemory, Past, SmallConvNet, structure_distance

SIZE, BATCH, DIM = 6, 4, 3


def features(step):
    """Features of the batch of a step: they say which row of the run they are."""
    return (step * BATCH + torch.arange(BATCH)).float()[:, None].expand(BATCH, DIM)


def stored(memory, step, parts=((0, 1, 2, 3),)):
    for rows in map(torch.tensor, parts):
        z = features(step)[rows]
        memory.store(step, BATCH, rows, z, -z, z[:, 0] / 100, z[:, 0].long())
    return memory


def numbers(past):
    return None if past is None else past.real[:, 0].tolist()


def test_what_a_step_stores_is_read_from_the_next_step_on_and_the_oldest_goes():
    memory = FeatureMemory(size=SIZE, dim=DIM)
    expected = [None, [0, 1, 2, 3], [2, 3, 4, 5, 6, 7], [6, 7, 8, 9, 10, 11]]
    for step, seen in enumerate(expected):
        assert numbers(memory.past(step, BATCH)) == seen
        stored(memory, step)
        assert numbers(memory.past(step, BATCH)) == seen  # the other micro-batches of the step see the same
    past = memory.past(4, BATCH)
    assert torch.equal(past.fake, -past.real)
    assert torch.equal(past.weight, past.real[:, 0] / 100)
    assert past.labels.tolist() == past.real[:, 0].tolist()


def test_parts_in_any_order_are_stored_as_the_whole():
    whole, parts = FeatureMemory(size=SIZE, dim=DIM), FeatureMemory(size=SIZE, dim=DIM)
    for step in range(3):
        stored(whole, step)
        stored(parts, step, parts=((3, 1), (2,), (0,)))
    assert all(torch.equal(v, parts.state_dict()[k]) for k, v in whole.state_dict().items())


def test_a_step_that_was_not_taken_leaves_no_images():
    memory = FeatureMemory(size=SIZE, dim=DIM)
    for step in (0, 1, 3):
        stored(memory, step)
    assert numbers(memory.past(3, BATCH)) == [6, 7]
    assert numbers(memory.past(4, BATCH)) == [12, 13, 14, 15]


def test_it_is_saved_whole():
    memory, again = stored(FeatureMemory(size=SIZE, dim=DIM), 0), FeatureMemory(size=SIZE, dim=DIM)
    again.load_state_dict(memory.state_dict())
    assert numbers(again.past(1, BATCH)) == [0, 1, 2, 3]


def test_user_errors():
    z = torch.zeros(8, DIM)
    with pytest.raises(ValueError, match="`memory=6` must hold at least the 8 images"):
        FeatureMemory(size=SIZE, dim=DIM).store(0, 8, torch.arange(8), z, z, z[:, 0])
    with pytest.raises(ValueError, match="`memory=8` needs the attribute `dim` of Flatten"):
        FeatureMemory.of(nn.Flatten(), 8)
    encoder = SmallConvNet(in_channels=1, widths=(4, 5), pretrain="none")
    with pytest.raises(ValueError, match="`memory=-1` must be 0 or more"):
        FeatureMemory.of(encoder, -1)
    assert FeatureMemory.of(encoder, 8).real.shape == (16, 5)


def draw(n, generator):
    """Features of n real images and of their fakes, which lie nearer to the mean."""
    real = torch.randn(n, 8, generator=generator, dtype=torch.float64) + 1
    return real, 0.5 + 0.5 * real + 0.3 * torch.randn(n, 8, generator=generator, dtype=torch.float64)


def test_a_small_batch_with_a_memory_sees_each_image_as_a_large_batch_does():
    """Signal over noise of the gradient at one fake, over draws of all other images. Each partner of a pair adds to it
    alike: 15 partners in a batch of 16, 127 in one of 128. With 112 remembered images there are 127 too, of which 112
    count half (their own fakes take no gradient): (30 + 112)^2 / (60 + 112) = 117 partners' worth."""
    first = draw(1, torch.Generator().manual_seed(1))
    noise = {}
    for name, size, remembered in (("16", 16, 0), ("16 + 112", 16, 112), ("128", 128, 0)):
        generator, gradients, distances = torch.Generator().manual_seed(0), [], []
        for _ in range(200):
            real, fake = (torch.cat(pair) for pair in zip(first, draw(size - 1, generator), strict=True))
            past = Past(*draw(remembered, generator), torch.ones(remembered)) if remembered else None
            fake.requires_grad_()
            distance = structure_distance(real, fake, torch.ones(size), past=past)
            gradients.append(torch.autograd.grad(distance, fake)[0][0])
            distances.append(distance.detach())
        g = torch.stack(gradients)
        noise[name] = (g.var(0).sum() / g.mean(0).square().sum()).item(), torch.stack(distances).std().item()
    partners = {name: noise["128"][0] / found * 127 for name, (found, _) in noise.items()}
    assert partners["16"] == pytest.approx(15, rel=0.2)
    assert partners["16 + 112"] == pytest.approx(117, rel=0.2)
    spread = {name: found for name, (_, found) in noise.items()}
    # S itself stays the mean over 16 rows: less noisy than that of 16 images alone, not as quiet as that of 128
    assert 1.2 * spread["128"] < spread["16 + 112"] < spread["16"] / 1.2
