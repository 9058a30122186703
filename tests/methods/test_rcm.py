"""rCM: its tangent at both ends of rho and between, its score term against DMD2's, when each of them counts."""

import pytest
import torch
from few_step_parts import STD, At, Formula, end, gaussian_batch, mean
from method_parts import batch_of, denoiser, evaluated, opponent_frozen, touched
from torch.nn.functional import softplus

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.methods.distillation.dmd2 import DMD2
from sparring.methods.distillation.rcm import RCM
from sparring.methods.distillation.scm import SCM
from sparring.networks import MLP
from sparring.process import EDM, VP

COSINE = VP(schedule="cosine")
T = 0.50037


def method_of(formula, **settings):
    chosen = {"data_std": STD, "warmup": 0.0, "consistency_times": At(T), "derivative": "forward"} | settings
    return RCM(Formula(COSINE, "x0", formula), **chosen)


def test_with_rho_at_one_the_consistency_is_that_of_scm():
    """For a copy of the teacher, whose slope is not 0, and for the solution, where both are nearly 0."""
    scm = SCM(Formula(COSINE, "x0", mean), data_std=STD, warmup=0.0, times=At(T), derivative="forward")
    step = scm.rollout(gaussian_batch())
    expected = (step.output - step.target).square().mean()
    torch.testing.assert_close(method_of(mean).consistency(gaussian_batch()), expected)
    assert expected > 0.1
    solved = method_of(end)
    solved.teacher.formula = mean
    assert solved.consistency(gaussian_batch()) < 1e-5


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_the_tangent_before(rho):
    """A student with F = -tan(a / 2) x / s and a teacher with F' = 0; df/da of the student is 0."""
    method = method_of(end)
    method.teacher.formula = mean
    method.ramp = lambda steps: rho
    batch, angle = gaussian_batch(), method.trigflow.angle(torch.tensor(T).double())
    eps = batch.draws.normal(tuple(batch.x_0.shape)).double()
    x = angle.cos() * batch.x_0 + angle.sin() * STD * eps
    pull = angle.cos() * ((1 - (rho * angle.sin()) ** 2).sqrt() - rho * angle.cos())
    tangent = pull * (angle / 2).tan() * x
    size = tangent.square().mean((1, 2, 3), keepdim=True).sqrt()
    expected = (tangent / (size + 0.1)).square().mean()
    torch.testing.assert_close(method.consistency(gaussian_batch()), expected, rtol=1e-3, atol=1e-4)


def test_a_copy_stays_as_it_is_without_rho_and_is_pulled_to_the_teacher():
    method = method_of(mean, warmup=0.5)
    method.steps = 10**9
    assert method.consistency(gaussian_batch()) < 1e-8
    method.generator.net.weight.data.fill_(0.9)
    method.consistency(gaussian_batch()).backward()
    assert method.generator.net.weight.grad < 0


def test_without_consistency_it_is_the_score_term_of_dmd2():
    settings = dict(num_steps=1, times=At(0.4), score_times=At(0.5))
    rcm = RCM(denoiser(), consistency_weight=0.0, score_weight=0.5, **settings)
    dmd = DMD2(denoiser(), adversarial_weight=0.0, score_weight=0.5, **settings)
    for one in (rcm, dmd):
        one.fake_score.net.load_state_dict({k: 1.1 * v for k, v in one.fake_score.net.state_dict().items()})
    (losses, scores), (others, other_scores) = (
        (
            evaluated(one.generator_loss(batch_of(phase="generator"), one.rollout(batch_of()))),
            evaluated(one.discriminator_loss(batch_of(phase="discriminator"), one.rollout(batch_of()))),
        )
        for one in (rcm, dmd)
    )
    assert list(losses) == list(others) == ["scores"]
    assert losses["scores"] > 0
    assert torch.equal(losses["scores"], others["scores"])
    assert torch.equal(scores["fake_score"], other_scores["fake_score"])


def test_the_scores_wait_for_the_warm_up():
    method = RCM(denoiser(), warmup=0.25, consistency_weight=3.0)
    method.steps, names = 8, []
    for method.step in range(4):
        losses = evaluated(method.generator_loss(batch_of(phase="generator"), method.rollout(batch_of())))
        names.append(sorted(losses))
    assert names == [["consistency"]] * 2 + [["consistency", "scores"]] * 2
    method.step = 0
    first = method.consistency(batch_of(phase="consistency"))
    losses = method.generator_loss(batch_of(phase="consistency"), method.rollout(batch_of()))
    torch.testing.assert_close(losses["consistency"](), 3 * first)


def points(phase="rollout"):
    real = torch.randn(6, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(real, draws=Draws(0, phase=phase))


def of_points(**settings):
    torch.manual_seed(0)
    return RCM(Denoiser(MLP(width=16, depth=1), COSINE, "v"), **settings).double()


def test_losses_of_both_players_have_weighted_terms_of_the_head_beside_their_own():
    method, plain = of_points(adversarial_weight=0.25, class_weight=0.5, warmup=0.0), of_points(warmup=0.0)
    rollout, head = method.rollout(points()), method.discriminator.head
    real, fake = (head.logits(x, rollout.views.given) for x in (rollout.views.real, rollout.views.fake))
    mine = evaluated(method.generator_loss(points("generator"), rollout))
    theirs = evaluated(method.discriminator_loss(points("discriminator"), rollout))
    torch.testing.assert_close(mine["adversarial"], 0.25 * softplus(-fake).mean())
    torch.testing.assert_close(theirs["adversarial"], 0.5 * (softplus(-real).mean() + softplus(fake).mean()))
    alone = plain.rollout(points())
    assert plain.discriminator.head is None
    assert torch.equal(alone.x_0, rollout.x_0)
    assert evaluated(plain.generator_loss(points("generator"), alone)) == {
        name: mine[name] for name in ("consistency", "scores")
    }
    assert evaluated(plain.discriminator_loss(points("discriminator"), alone)) == {"fake_score": theirs["fake_score"]}


def test_the_head_reads_the_fake_score_and_sees_the_fake_without_its_graph():
    method = of_points(adversarial_weight=0.25, warmup=0.0)
    method.discriminator_loss(points("discriminator"), method.rollout(points()))["adversarial"].backward()
    assert {name.split(".")[1] for name in touched(method)} == {"denoiser", "head"}
    method.zero_grad()
    with opponent_frozen(method):
        losses = method.generator_loss(points("generator"), method.rollout(points()))
        losses["adversarial"].backward()
    assert {name.split(".")[0] for name in touched(method)} == {"generator"}


def test_the_adversarial_term_waits_with_the_scores_while_the_head_learns():
    method = of_points(adversarial_weight=0.25, warmup=0.5)
    method.steps, names = 4, []
    for method.step in (1, 2):
        rollout = method.rollout(points())
        names.append(set(method.generator_loss(points("generator"), rollout)))
        assert set(method.discriminator_loss(points("discriminator"), rollout)) == {"fake_score", "adversarial"}
    assert names == [{"consistency"}, {"consistency", "scores", "adversarial"}]


def test_a_network_without_a_clean_end_is_refused_before_it_is_trained():
    with pytest.raises(ValueError, match="prediction=x0.*v or eps"):
        RCM(denoiser(kind="x0")).check(6)


def test_what_it_refuses():
    for settings, message in [
        (dict(score_weight=0.0), "score_weight=0.0.*`scm`"),
        (dict(consistency_weight=-1.0), "consistency_weight=-1"),
        (dict(adversarial_weight=-1.0), "adversarial_weight=-1"),
        (dict(class_weight=-1.0), "class_weight=-1"),
        (dict(warmup=1.0), "warmup=1.0.*share of the run"),
        (dict(data_std=0.0), "data_std=0"),
        (dict(interval=0.5), "interval=0.5"),
        (dict(guidance=2.0), "guidance=2.0.*neither captions"),
    ]:
        with pytest.raises(ValueError, match=message):
            RCM(denoiser(), **settings)
    with pytest.raises(ValueError, match="'lcm' does not exist for EDM"):
        RCM(denoiser(process=EDM(), kind="edm"), num_steps=1)
