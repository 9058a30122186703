"""ADT: starts, the steps that carry gradient, warm-up, who gets gradient, and the plain diffusion inside."""

from collections import Counter

import pytest
import torch
from diffusers import UNet2DModel
from method_parts import (
    ClassNet,
    Net,
    adt,
    batch_of,
    denoiser,
    evaluated,
    images_of,
    logits,
    opponent_frozen,
    projected,
    siamese,
    structure,
    total,
    touched,
)

from sparring.backbones import SmallConvNet
from sparring.data import Digits, Draws, StoredImages
from sparring.generators import Denoiser
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.tuning.adt import ADT
from sparring.objectives import R1, NonSaturating, Relativistic
from sparring.process import VP, RectifiedFlow
from sparring.rollout import coefficients, draw_path, equalised_scales, noise, simulate
from sparring.training import Trainer


class TimedNet(Net):
    """Remembers the times of its calls."""

    def __init__(self):
        super().__init__()
        self.times = []

    def forward(self, x, time):
        self.times.append(time)
        return super().forward(x, time)


def drawn(step):
    return batch_of(2, draws=Draws(0, step=step, phase="rollout"))


def test_the_start_is_uniform_on_the_path_and_equal_for_all_rows():
    """Chi-square with 3 degrees of freedom over 200 rollouts stays below 11.3 (p = 0.01; the seed is fixed)."""
    net = TimedNet()
    method = adt(denoiser(net), num_grad_steps=1)
    starts = Counter()
    for step in range(200):
        net.times.clear()
        with torch.no_grad():
            method.rollout(drawn(step))
        assert all((time == time[0]).all() for time in net.times)
        assert [time[0].item() for time in net.times] == [999, 749, 499, 249][-len(net.times) :]
        starts[4 - len(net.times)] += 1
    assert sum((starts[i] - 50) ** 2 / 50 for i in range(4)) < 11.3


def test_start_noise_always_walks_the_whole_path():
    net = TimedNet()
    method = adt(denoiser(net), start="noise", num_grad_steps=1)
    for step in range(5):
        method.rollout(drawn(step))
    assert len(net.times) == 20


@pytest.mark.parametrize(
    ("scheduler", "calls"), [("ddim", (4, 1)), ("dpm", (4, 1)), ("unipc", (4, 1)), ("euler", (4, 1)), ("heun", (7, 1))]
)
def test_every_deterministic_sampler_is_simulated_from_every_start(scheduler, calls):
    net = TimedNet()
    method = adt(denoiser(net), scheduler=scheduler, num_grad_steps=1)
    lengths = set()
    for step in range(20):
        net.times.clear()
        rollout = method.rollout(drawn(step))
        assert rollout.image.requires_grad
        total(method.generator_loss(batch_of(2, phase="generator"), rollout)).backward()
        lengths.add(len(net.times) - 1)  # one call is the denoising loss's
    assert (max(lengths), min(lengths)) == calls
    assert method.sampler == scheduler


def test_samplers_and_paths_that_cannot_be_simulated_are_refused():
    for scheduler in ("ddpm", "lcm"):
        with pytest.raises(ValueError, match=f"scheduler={scheduler}"):
            adt(denoiser(), scheduler=scheduler)
    with pytest.raises(ValueError, match="heunn"):
        adt(denoiser(), scheduler="heunn")
    with pytest.raises(ValueError, match="num_steps=101"):
        adt(denoiser(), num_steps=101)
    with pytest.raises(ValueError, match="num_grad_steps=5"):
        adt(denoiser(), num_grad_steps=5)
    with pytest.raises(ValueError, match="adversarial_weight=0"):
        adt(denoiser(), adversarial_weight=0, diffusion_weight=0)
    with pytest.raises(ValueError, match="adversarial_weight=-1"):
        adt(denoiser(), adversarial_weight=-1)
    with pytest.raises(ValueError, match="needs at least 2 images at once and gets 1"):
        adt(denoiser(), reference="unpaired").check(1)


def test_before_the_warm_up_only_the_discriminator_hears_of_the_fake():
    """Steps 0 and 1: no adversarial term and no graph of the rollout; then it rises over 4 steps."""
    method = adt(denoiser(), warmup_steps=2, ramp_steps=4, adversarial_weight=0.5)
    expected = None
    for method.step, share in reversed(list(enumerate([0, 0, 0.25, 0.5, 0.75, 1, 1]))):
        rollout = method.rollout(batch_of())
        losses = evaluated(method.generator_loss(batch_of(phase="generator"), rollout))
        assert "adversarial" in method.discriminator_loss(batch_of(phase="discriminator"), rollout)
        assert rollout.image.requires_grad == (share > 0)
        assert ("adversarial" in losses) == (share > 0)
        expected = losses["adversarial"] if share == 1 else expected
        if share > 0:
            torch.testing.assert_close(losses["adversarial"], share * expected)
    method = adt(denoiser(), warmup_steps=2, diffusion_weight=0)
    assert method.generator_loss(batch_of(), method.rollout(batch_of())) == {}


def test_the_adversarial_gradient_reaches_the_denoiser_and_no_part_of_the_discriminator():
    method = adt(denoiser(), diffusion_weight=0)
    with opponent_frozen(method):
        rollout = method.rollout(batch_of())
        total(method.generator_loss(batch_of(phase="generator"), rollout)).backward()
    assert touched(method) == {f"generator.{name}" for name, _ in method.generator.named_parameters()}
    assert not any(p.requires_grad for p in method.discriminator.backbone.parameters())
    assert any(p.requires_grad for p in method.discriminator.parameters())


def test_its_losses_are_hinge_on_pairs_of_candidate_and_reference():
    method = ADT(denoiser(), siamese(augment=""), num_steps=4, warmup_steps=0, ramp_steps=0, adversarial_weight=0.5)
    rollout = method.rollout(batch_of())
    real_logit, fake_logit = (logits(method.discriminator, x, images_of()) for x in (images_of(), rollout.image))
    hinge = (1 - real_logit).relu().mean() + (1 + fake_logit).relu().mean()
    loss = method.discriminator_loss(batch_of(), rollout)
    torch.testing.assert_close(loss["adversarial"], hinge)
    torch.testing.assert_close(method.statistics["logit_fake"].double(), fake_logit.mean().detach(), rtol=1e-5, atol=0)
    loss = evaluated(method.generator_loss(batch_of(), rollout))
    torch.testing.assert_close(loss["adversarial"], -0.5 * fake_logit.mean())


def test_the_backbone_sees_every_image_once_a_step(monkeypatch):
    """Real and reference without a graph, the fake with one; both updates use these maps."""
    seen, maps_of = [], SmallConvNet.maps
    monkeypatch.setattr(SmallConvNet, "maps", lambda self, x: seen.append(maps_of(self, x)) or seen[-1])
    method = adt(denoiser(), objective=Relativistic())
    rollout = method.rollout(batch_of())
    method.discriminator_loss(batch_of(phase="discriminator"), rollout)
    method.generator_loss(batch_of(phase="generator"), rollout)
    assert [maps[0].requires_grad for maps in seen] == [False, False, True]
    for maps, kept in zip(seen, (rollout.views.real, rollout.views.given.reference, rollout.views.fake), strict=True):
        assert maps is kept
    assert not torch.equal(rollout.views.real[0], rollout.views.given.reference[0])  # augmented each by itself
    assert ADT(denoiser(), projected(), num_steps=4).rollout(batch_of()).views.given.reference is None
    assert len(seen) == 5


def test_a_non_saturating_objective():
    method = ADT(denoiser(), siamese(augment=""), num_steps=4, warmup_steps=0, ramp_steps=0, objective=NonSaturating())
    rollout, softplus = method.rollout(batch_of()), torch.nn.functional.softplus
    logits_real, logits_fake = (logits(method.discriminator, x, images_of()) for x in (images_of(), rollout.image))
    losses = method.discriminator_loss(batch_of(), rollout)
    torch.testing.assert_close(losses["adversarial"], (softplus(-logits_real) + softplus(logits_fake)).mean())
    losses = evaluated(method.generator_loss(batch_of(), rollout))
    torch.testing.assert_close(losses["adversarial"], 0.1 * softplus(-logits_fake).mean())


def test_a_relativistic_objective_gets_the_logits_of_the_reals():
    method = ADT(denoiser(), siamese(augment=""), num_steps=4, warmup_steps=0, ramp_steps=0, objective=Relativistic())
    rollout = method.rollout(batch_of())
    losses = evaluated(method.generator_loss(batch_of(phase="generator"), rollout))
    gap = logits(method.discriminator, images_of(), images_of()) - logits(
        method.discriminator, rollout.image, images_of()
    )
    torch.testing.assert_close(losses["adversarial"], 0.1 * torch.nn.functional.softplus(gap).mean())


def test_unpaired_compares_with_another_image():
    method = ADT(denoiser(), siamese(augment=""), num_steps=4, reference="unpaired")
    others = images_of()[[5, 0, 1, 2, 3, 4]]
    rollout = method.rollout(batch_of())
    logits_real, logits_fake = (logits(method.discriminator, x, others) for x in (images_of(), rollout.image))
    hinge = (1 - logits_real).relu() + (1 + logits_fake).relu()
    torch.testing.assert_close(method.discriminator_loss(batch_of(), rollout)["adversarial"], hinge.mean())


def test_its_denoising_loss_is_that_of_plain_diffusion_with_the_same_draws():
    """In value and gradient, with the adversarial part off and with it on."""
    plain = Diffusion(denoiser())
    loss = plain.generator_loss(batch_of(phase="generator"), plain.rollout(batch_of()))["diffusion"]
    expected = torch.autograd.grad(loss, list(plain.generator.parameters()))
    for weight in (0, 0.1):
        method = adt(denoiser(), adversarial_weight=weight)
        rollout = method.rollout(batch_of())
        losses = evaluated(method.generator_loss(batch_of(phase="generator"), rollout))
        assert torch.equal(losses["diffusion"], loss)
        grads = torch.autograd.grad(losses["diffusion"], list(method.generator.parameters()))
        assert all(torch.equal(a, b) for a, b in zip(grads, expected, strict=True))
    off = adt(denoiser(), adversarial_weight=0)
    assert off.discriminator is None
    assert off.rollout(batch_of()).image is None
    assert off.generator.images_seen == 0  # nothing is simulated
    assert list(off.generator_loss(batch_of(), off.rollout(batch_of()))) == ["diffusion"]


def test_switched_off_the_trainer_makes_the_weights_of_plain_diffusion(tmp_path):
    def trained(method, folder):
        settings = dict(steps=3, batch_size=8, num_samples=1, tracker=None, log_every=3)
        Trainer(method, Digits("validation"), out=tmp_path / folder, **settings).fit()
        return method.generator.state_dict()

    def unet():
        torch.manual_seed(0)
        blocks = dict(down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"], block_out_channels=[8])
        sizes = dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4)
        return denoiser(UNet2DModel(**blocks, **sizes, add_attention=False, dropout=0.2))

    off = trained(ADT(unet(), siamese(), adversarial_weight=0), "adt")
    plain = trained(Diffusion(unet()), "plain")
    assert all(torch.equal(off[name], value) for name, value in plain.items())


def gradient_of(image, method):
    """d sum(image^3) / d parameters of the generator, as one vector."""
    grads = torch.autograd.grad(image.pow(3).sum(), list(method.generator.parameters()))
    return torch.cat([grad.flatten() for grad in grads])


def test_normalised_coefficients_give_every_step_the_same_share():
    """The gradient is mean|c| sum_i sign(c_i) df_i; for eps on DDIM c_i = sigma'/alpha' - sigma/alpha < 0."""
    settings = dict(start="noise", num_grad_steps=4)
    plain, even = (adt(denoiser(kind="eps"), **settings, normalise_coeff=on) for on in (False, True))
    image = even.rollout(batch_of()).image
    assert torch.equal(image, plain.rollout(batch_of()).image)
    t = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0], dtype=torch.float64)
    c = (VP().sigma(t) / VP().alpha(t)).diff()
    single = adt(denoiser(kind="eps"), start="noise", num_grad_steps=1)
    expected = torch.zeros(())
    for i in range(4):
        batch = batch_of()
        noise(VP(), batch, even.times(VP(), batch.draws, 6))
        x_0 = simulate(single.generator, batch, single.scheduler, num_steps=4, grad_steps=[i])
        expected = expected + gradient_of(x_0, single) * (c.abs().mean() / c[i].abs())
    gradient = gradient_of(image, even)
    assert (gradient - expected).norm() < 1e-5 * expected.norm()  # diffusers keeps alpha in float32


def test_normalised_coefficients_are_those_of_the_path_that_is_walked(monkeypatch):
    """From a later start the mean runs over fewer calls: the factors are mean|c| / |c_i| over i >= start."""
    seen = {}

    def watched(*arguments, **settings):
        seen[settings["start"]] = settings["grad_scales"]
        return simulate(*arguments, **settings)

    monkeypatch.setattr("sparring.methods.tuning.adt.simulate", watched)
    method = adt(denoiser(kind="eps"), normalise_coeff=True)
    for step in range(20):
        method.rollout(drawn(step))
    t = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0], dtype=torch.float64)
    c = (VP().sigma(t) / VP().alpha(t)).diff().abs()
    assert sorted(seen) == [0, 1, 2, 3]
    for start, scales in seen.items():
        expected = c[start:].mean() / c[start:]
        torch.testing.assert_close(torch.tensor(scales[start:]).double(), expected, rtol=1e-5, atol=0)


def test_labels_are_dropped_in_its_denoising_loss_and_not_in_its_rollout():
    """As in plain diffusion with the same draws; guidance is trained by it."""
    nets = ClassNet(), ClassNet()
    plain = Diffusion(Denoiser(nets[0], VP(), "v", condition_dropout=0.5))
    method = adt(Denoiser(nets[1], VP(), "v", condition_dropout=0.5))
    expected = plain.generator_loss(batch_of(), plain.rollout(batch_of(labels=True)))["diffusion"]
    (dropped,) = (labels == 9 for labels in nets[0].labels)
    assert 0 < dropped.sum() < 6
    rollout = method.rollout(batch_of(labels=True))
    assert nets[1].labels
    assert all(torch.equal(labels, torch.arange(6)) for labels in nets[1].labels)
    losses = evaluated(method.generator_loss(batch_of(labels=True, phase="generator"), rollout))
    assert torch.equal(nets[1].labels[-1], torch.arange(6).masked_fill(dropped, 9))
    assert torch.equal(losses["diffusion"], expected)


def test_guidance_is_drawn_for_each_batch():
    net = ClassNet()
    method = adt(denoiser(net), guidance=(1.0, 3.0), num_grad_steps=1)
    seen = set()
    for step in range(12):
        batch = batch_of(2, labels=True, draws=Draws(0, step=step, phase="rollout"))
        net.labels.clear()
        image = method.rollout(batch).image
        assert image.requires_grad
        calls = [labels.tolist() for labels in net.labels]  # none (the last class) and the labels, in one pass
        carrying = [[0, 1], [9, 9]]  # or, for gradient to the labels alone, in two
        guided = [9, 9] in calls
        assert not guided or all(labels == [9, 9, 0, 1] or labels in carrying for labels in calls)
        assert guided == any(9 in labels for labels in calls)
        seen.add(guided)
    assert seen == {False, True}
    with pytest.raises(ValueError, match="`guidance`.* takes neither classes nor captions"):
        adt(denoiser(), guidance=3.0)
    full = StoredImages(torch.zeros(10, 1, 4, 4), torch.arange(10))
    method.generator.check_condition(full)
    with pytest.raises(ValueError, match='none is left to say "none" by'):
        method.check(8)


def test_flow_models_are_tuned_as_well():
    method = adt(denoiser(process=RectifiedFlow(), kind="flow"), scheduler="euler")
    assert method.rollout(batch_of()).image.requires_grad


def test_a_network_that_predicts_the_image_gets_gradient_from_the_last_step_alone():
    """DDIM ends on the last prediction of x_0: steps before the last one teach such a network nothing."""
    net = Net()
    method = adt(denoiser(net, VP(), "x0"), start="noise", num_grad_steps=1, choose="last", diffusion_weight=0)
    total(method.generator_loss(batch_of(), method.rollout(batch_of()))).backward()
    assert all(p.grad.abs().max() > 0 for p in net.parameters())
    assert coefficients(method.scheduler, 4) == [0, 0, 0, 1]


def test_coefficients_are_those_of_the_path_that_is_walked():
    """From a start in the middle of the path the mean |c| runs over the steps from there on."""
    settings = dict(num_grad_steps=4, normalise_coeff=True)
    even = adt(denoiser(kind="eps"), **settings)
    for step in range(20):
        batch = drawn(step)
        noise(VP(), batch, even.times(VP(), batch.draws, 2))
        start = draw_path(batch.draws, 4, 4).start
        if start != 2:
            continue
        image = even.rollout(drawn(step)).image
        scales = equalised_scales(coefficients(even.scheduler, 4, 2))
        assert scales[2:] != equalised_scales(coefficients(even.scheduler, 4))[2:]
        again = simulate(even.generator, batch, even.scheduler, num_steps=4, start=2, grad_scales=scales)
        assert torch.equal(image, again)
        torch.testing.assert_close(gradient_of(image, even), gradient_of(again, even))
        break
    else:
        raise AssertionError("no rollout began at step 2")


def test_labels_are_dropped_in_the_denoising_loss_and_not_in_the_rollout():
    net = ClassNet()
    made = Denoiser(net, VP(), "v", condition_dropout=0.5)
    method = adt(made, num_grad_steps=1)
    method.train()
    rollout = method.rollout(batch_of(labels=True))
    assert all(torch.equal(labels, torch.arange(6)) for labels in net.labels)
    dropped = rollout.condition == 9  # the last class means none
    assert 0 < dropped.sum() < 6
    assert torch.equal(rollout.condition[~dropped], torch.arange(6)[~dropped])
    net.labels.clear()
    evaluated(method.generator_loss(batch_of(labels=True, phase="generator"), rollout))
    assert torch.equal(net.labels[-1], rollout.condition)


def test_the_weight_of_a_penalty_and_its_steps():
    """R1 on the maps of the backbone, the working regulariser of these heads, every second step and twice then."""
    plain, lazy = (adt(denoiser(), penalty=R1(weight=0.5, every=every)) for every in (1, 2))
    for method in (plain, lazy):
        method.discriminator.augment.policy = set()
    values = []
    for method in (plain, lazy):
        for method.step in (2, 3):
            losses = method.discriminator_loss(batch_of(phase="discriminator"), method.rollout(batch_of()))
            values.append(losses.get("r1"))
    assert values[3] is None
    torch.testing.assert_close(values[2], 2 * values[0])
    torch.testing.assert_close(values[1], values[0])


def test_an_unpaired_reference_for_a_discriminator_that_needs_the_image_itself_is_refused():
    with pytest.raises(ValueError, match="`reference=unpaired`: StructureDiscriminator compares a fake with the image"):
        ADT(denoiser(), structure(), num_steps=4, reference="unpaired")
    with pytest.raises(ValueError, match="needs 2 or more"):
        ADT(denoiser(), structure(), num_steps=4).check(1)
    ADT(denoiser(), projected(), num_steps=4, reference="unpaired").check(1)  # it compares with nothing
