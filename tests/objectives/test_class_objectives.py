"""Class-wise objectives: by hand, their special cases, pixels, and what they refuse."""

import math

import pytest
import torch
from torch.nn.functional import softplus

from sparring.objectives import KPlusOne, NonSaturating, Scores, SemiSupervised, inverse_frequency


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def p(logits, place):
    return math.exp(logits[place]) / sum(math.exp(v) for v in logits)


def test_k_plus_one_by_hand():
    l_real, l_fake, y = normal(3, 4), normal(3, 4, seed=1), torch.tensor([0, 2, 1])
    real, fake = Scores(l_real, labels=y), Scores(l_fake, labels=y)
    r, f, labels = l_real.tolist(), l_fake.tolist(), y.tolist()
    expected = -sum(math.log(p(r[i], labels[i])) + math.log(p(f[i], 3)) for i in range(3)) / 3
    assert float(KPlusOne().discriminator(real, fake)) == pytest.approx(expected)
    expected = -sum(math.log(p(f[i], labels[i])) for i in range(3)) / 3
    assert float(KPlusOne().generator(fake)) == pytest.approx(expected)
    expected = -sum(math.log(max(p(row, k) for k in range(3))) for row in f) / 3  # the largest of the real classes
    assert float(KPlusOne(target="dynamic").generator(Scores(l_fake))) == pytest.approx(expected)


def test_with_one_class_it_is_the_non_saturating_objective():
    l_real, l_fake, y = normal(5, 2), normal(5, 2, seed=1), torch.zeros(5, dtype=torch.long)
    real, fake = Scores(l_real, labels=y), Scores(l_fake, labels=y)
    logits = Scores(l_real[:, 0] - l_real[:, 1]), Scores(l_fake[:, 0] - l_fake[:, 1])
    for target in ("given", "dynamic"):
        objective = KPlusOne(target=target)
        torch.testing.assert_close(objective.discriminator(real, fake), NonSaturating().discriminator(*logits))
        torch.testing.assert_close(objective.generator(fake), NonSaturating().generator(logits[1]))
    statistics = KPlusOne().statistics(real, fake)
    expected = NonSaturating().statistics(*logits)
    assert {k: float(v) for k, v in statistics.items()} == pytest.approx(
        {k: float(v) for k, v in expected.items()} | {"class_accuracy": 1.0}
    )


def test_pixels_are_decisions_of_their_own():
    """A map of 1x1 pixels is an image; the weight of a class multiplies its pixels, and never the fakes."""
    l_real, l_fake, y = normal(3, 4), normal(3, 4, seed=1), torch.tensor([0, 2, 1])
    for objective in (KPlusOne(), KPlusOne(target="dynamic")):
        flat = Scores(l_real, labels=y), Scores(l_fake, labels=y)
        maps = [Scores(s.logits[..., None, None], labels=y[:, None, None]) for s in flat]
        assert objective.discriminator(*maps) == objective.discriminator(*flat)
        assert objective.generator(maps[1]) == objective.generator(flat[1])
    l_map, labels = normal(2, 3, 2, 2), torch.tensor([[[0, 0], [0, 1]], [[0, 0], [0, 1]]])
    real, fake = Scores(l_map, labels=labels), Scores(normal(2, 3, 2, 2, seed=1), labels=labels)
    chosen = l_map.log_softmax(1).gather(1, labels[:, None])[:, 0]
    factors = torch.tensor([2 / 3, 2.0], dtype=torch.float64)[labels]
    called_fake = fake.logits.log_softmax(1)[:, 2].mean()
    found = KPlusOne(weights=inverse_frequency(labels, 2)).discriminator(real, fake)
    torch.testing.assert_close(found, -(factors * chosen).mean() - called_fake)


def test_inverse_frequencies():
    assert inverse_frequency(torch.tensor([0, 1, 2, 0, 1, 2]), 3) == [1.0, 1.0, 1.0]
    assert inverse_frequency(torch.tensor([[0, 0], [0, 1]]), 3) == pytest.approx([4 / 9, 4 / 3, 0])


def test_semi_supervised_by_hand():
    """Real is what has any class; only rows with a label are classified, over the number that is expected."""
    l_real, l_fake, y = normal(4, 3), normal(4, 3, seed=1), torch.tensor([2, -1 - 0, 0, -1 - 1])
    z_real, z_fake = l_real.exp().sum(1), l_fake.exp().sum(1)
    known = -(l_real[0].log_softmax(0)[2] + l_real[2].log_softmax(0)[0]) / 2
    expected = known - (z_real / (z_real + 1)).log().mean() - (1 / (z_fake + 1)).log().mean()
    objective = SemiSupervised(labelled=0.5)
    torch.testing.assert_close(objective.discriminator(Scores(l_real, labels=y), Scores(l_fake)), expected)
    torch.testing.assert_close(objective.generator(Scores(l_fake)), -(z_fake / (z_fake + 1)).log().mean())
    alone = SemiSupervised(labelled=0.5, unlabelled_weight=0)
    torch.testing.assert_close(alone.discriminator(Scores(l_real, labels=y), Scores(l_fake)), known)
    statistics = objective.statistics(Scores(torch.eye(3)[[2, 0, 1, 0]], labels=y), Scores(l_fake))
    assert statistics["hidden_class_accuracy"] == 0.5


def test_a_further_logit_of_zero_for_fakes_is_the_same():
    """1 - p_{K+1} = sigmoid(lse l), so that with all labels it is K + 1 classes."""
    logits = normal(5, 3)
    joined = torch.cat([logits, torch.zeros(5, 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(1 - joined.softmax(1)[:, 3], logits.logsumexp(1).sigmoid(), rtol=0, atol=1e-12)
    y = torch.tensor([0, 1, 2, 0, 1])
    both = [SemiSupervised().discriminator(Scores(logits, labels=y), Scores(logits))]
    both.append(KPlusOne().discriminator(Scores(joined, labels=y), Scores(joined)))
    torch.testing.assert_close(*both)
    torch.testing.assert_close(SemiSupervised().generator(Scores(logits)), softplus(-logits.logsumexp(1)).mean())


def test_what_is_refused():
    logits, y = normal(3, 4), torch.tensor([0, 2, 1])
    with pytest.raises(ValueError, match="the data has no labels"):
        KPlusOne().generator(Scores(logits))
    with pytest.raises(ValueError, match=r"logits \[B, K\+1, ...\] of labels \[B, ...\], and got \(3,\) of \(3,\)"):
        KPlusOne().discriminator(Scores(logits[:, 0], labels=y), Scores(logits, labels=y))
    with pytest.raises(ValueError, match="and got logits \\(3, 4\\) and no labels"):
        SemiSupervised().discriminator(Scores(logits), Scores(logits))
    with pytest.raises(ValueError, match="`labelled=0`"):
        SemiSupervised(labelled=0)
