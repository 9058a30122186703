"""What every method must keep: equal draws give equal steps, each loss trains its own player, rows stay apart."""

from copy import deepcopy

import pytest
import torch
from method_parts import (
    METHODS,
    ClassNet,
    Net,
    PermutedDraws,
    backbone,
    batch_of,
    denoiser,
    images_of,
    opponent_frozen,
    step_losses,
    structure,
    tensors_in,
    total,
    touched,
    trained,
)

from sparring.backbones import Backbone, SmallConvNet
from sparring.data import Batch, Digits, Draws, StoredImages
from sparring.discriminators import ProjectedDiscriminator, SiameseDiscriminator, StructureDiscriminator
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.distillation.add import ADD
from sparring.methods.method import frozen_copy
from sparring.methods.tuning.adt import ADT
from sparring.methods.tuning.ddo import DDO
from sparring.methods.tuning.sadm import SADM
from sparring.process import EDM, SNR, VP, Constant, MinSNR, RectifiedFlow, Uniform
from sparring.rollout import denoising_error, one_step

EACH = pytest.mark.parametrize("name", METHODS)


@EACH
def test_equal_draws_give_the_same_rollout_and_losses(name):
    method = METHODS[name](denoiser())
    first, second = (tensors_in(method.rollout(batch_of())) for _ in range(2))
    assert len(first) >= 2
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(x.dtype == torch.float64 for x in first if x.ndim == 4)
    other = tensors_in(method.rollout(batch_of(draws=Draws(1, phase="rollout"))))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    phases = [lambda phase=phase: batch_of(phase=phase) for phase in ("rollout", "discriminator", "generator")]
    losses = [step_losses(method, *(make() for make in phases)) for _ in range(2)]
    assert all(torch.equal(losses[0][k], losses[1][k]) for k in losses[0])
    assert all(loss.shape == () and loss.dtype == torch.float64 for loss in losses[0].values())


@EACH
def test_each_loss_trains_its_own_player_and_all_of_it(name):
    """The discriminator's loss detaches the fake by itself; for the generator's, the discriminator is frozen."""
    method = METHODS[name](denoiser())
    method.train()
    frozen = {k: v.clone() for k, v in method.state_dict().items()}
    rollout = method.rollout(batch_of())
    if method.discriminator is not None:
        total(method.discriminator_loss(batch_of(phase="discriminator"), rollout)).backward()
        assert touched(method.generator) == set()
        assert touched(method.discriminator) == trained(method.discriminator)
        method.zero_grad()
    with opponent_frozen(method):
        total(method.generator_loss(batch_of(phase="generator"), rollout)).backward()
    assert touched(method.generator) == trained(method.generator) == {k for k, _ in method.generator.named_parameters()}
    assert touched(method) == {f"generator.{k}" for k in trained(method.generator)}
    assert all(torch.equal(v, frozen[k]) for k, v in method.state_dict().items())  # buffers too: nothing moved


@EACH
def test_labels_reach_every_network_with_their_images(name):
    """Of the reals in every call; for DDO's generated images, their own labels."""
    net = ClassNet()
    method = METHODS[name](denoiser(net))
    nets = [part.net for part in method.generators()]
    step_losses(method, *(batch_of(phase=phase, labels=True) for phase in ("rollout", "discriminator", "generator")))
    expected = [torch.arange(6)]
    if name == "ddo":  # first the reals, then the fakes
        expected += [method.fake_labels[Draws(0, phase="rollout").integers(12, (6,))]]
    for n in nets:
        assert n.labels
        for i, given in enumerate(n.labels):
            assert torch.equal(given, expected[i % len(expected)])
    assert len(nets) == (2 if name in ("ddo", "add") else 1)


@EACH
def test_frozen_parts_stay_in_eval_mode_and_out_of_the_optimizers(name):
    method = METHODS[name](denoiser(Net(dropout=0.5)))
    for part in (method.train(), method.eval().train()):
        for module in part.modules():
            own = list(module.parameters())
            if own and not any(p.requires_grad for p in own):
                assert not module.training
    assert method.generator.training == (name != "ddo")
    assert method.training


@EACH
def test_nothing_is_twice_in_a_checkpoint(name):
    tensors = [v for v in METHODS[name](denoiser()).state_dict(keep_vars=True).values() if v.numel() > 0]
    assert len({v.data_ptr() for v in tensors}) == len(tensors)


@pytest.mark.parametrize("name", ["diffusion", "adt", "ddo", "add", "sadm in pairs"])
def test_micro_batches_make_the_losses_of_the_whole_batch(name):
    """Rows do not influence each other, so the losses of two parts average to that of the whole.

    SADM's do, within each of its matrices: here of two rows each.
    """
    pairs = {"sadm in pairs": lambda generator: SADM(generator, structure(structure_batch=2))}
    method = (METHODS | pairs)[name](denoiser())
    whole = step_losses(method, *(batch_of(phase=phase) for phase in ("rollout", "discriminator", "generator")))
    halves = []
    for rows in (slice(0, 4), slice(4, 6)):
        parts = [
            Batch(images_of()[rows], None, Draws(0, phase=phase, rows=rows, total=6))
            for phase in ("rollout", "discriminator", "generator")
        ]
        halves.append(step_losses(method, *parts))
    for key, loss in whole.items():
        torch.testing.assert_close((4 * halves[0][key] + 2 * halves[1][key]) / 6, loss, rtol=1e-12, atol=1e-12)


@EACH
def test_a_common_permutation_of_rows_and_draws_changes_no_loss(name):
    """SADM couples the rows, but by their pairs alone: it does not change either."""
    method = METHODS[name](denoiser())
    phases = ("rollout", "discriminator", "generator")
    expected = step_losses(method, *(batch_of(phase=phase) for phase in phases))
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    permuted = [Batch(images_of()[order], None, PermutedDraws(order, phase)) for phase in phases]
    losses = step_losses(method, *permuted)
    for key, loss in expected.items():
        torch.testing.assert_close(losses[key], loss, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["diffusion", "adt", "ddo", "add"])
def test_the_fake_of_a_row_does_not_depend_on_the_other_rows(name):
    method = METHODS[name](denoiser())
    images = images_of()
    images[0] = 0.3
    first = tensors_in(method.rollout(batch_of()))
    changed = tensors_in(method.rollout(Batch(images, None, Draws(0, phase="rollout"))))
    rows = [(a, b) for a, b in zip(first, changed, strict=True) if a.ndim >= 1 and len(a) == 6]
    assert rows
    assert any(not torch.equal(a[0], b[0]) for a, b in rows)
    for a, b in rows:
        torch.testing.assert_close(a[1:], b[1:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("process", "kind"),
    [*[(VP(), k) for k in ("eps", "x0", "v")], (RectifiedFlow(), "flow"), (EDM(), "edm"), (EDM(), "eps")],
)
@pytest.mark.parametrize("weighting", [Constant(), SNR(), MinSNR()])
def test_a_weighted_error_is_the_weight_times_the_squared_error_of_the_clean_image(process, kind, weighting):
    model, batch = denoiser(process=process, kind=kind), batch_of()
    fake = one_step(model, batch, Uniform())
    error = denoising_error(model, fake, weighting)
    expected = (fake.prediction.x0 - batch.images).square().mean((1, 2, 3)) * weighting(process.log_snr(fake.noised.t))
    torch.testing.assert_close(error, expected, rtol=1e-5, atol=0)  # t is float32
    plain = denoising_error(model, fake)
    target = model.target(batch.images, fake.noised.eps, fake.noised.t)
    torch.testing.assert_close(plain, (fake.prediction.output - target).square().mean((1, 2, 3)))


def test_diffusion_is_the_mean_denoising_error_of_one_step():
    method = Diffusion(denoiser(), weighting=SNR())
    rollout = method.rollout(batch_of())
    losses = method.generator_loss(batch_of(phase="generator"), rollout)
    assert list(losses) == ["diffusion"]
    assert method.discriminator is None
    torch.testing.assert_close(losses["diffusion"], denoising_error(method.generator, rollout, SNR()).mean())


def test_a_frozen_copy_shares_nothing_and_learns_nothing():
    model = denoiser(Net(dropout=0.5))
    copy = frozen_copy(model)
    assert not any(p.requires_grad for p in copy.parameters())
    assert not copy.training
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    before = deepcopy(copy.state_dict())
    for parameter in model.parameters():
        parameter.data += 1
    assert all(torch.equal(before[k], v) for k, v in copy.state_dict().items())


def test_ramp_rises_after_its_delay():
    method = Diffusion(denoiser())
    values = []
    for method.step in range(7):
        values.append(method.ramp(4, delay=2))
    assert values == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    method.step = 0
    assert method.ramp(0) == 1


class Counted(SmallConvNet):
    def __init__(self):
        super().__init__(in_channels=1, widths=(4,), pretrain="none")
        self.needs_images, self.seen = True, []

    def prepare(self, images, labels, seed=0):
        self.seen.append((images, labels))
        return False


def test_prepare_gives_the_data_to_each_part_once():
    discriminator = structure()
    discriminator.encoder = Counted()
    data = Digits("validation")
    SADM(denoiser(), discriminator).prepare(data)
    ((images, labels),) = discriminator.encoder.seen
    assert torch.equal(images, data.images())
    assert torch.equal(labels, data.labels())


class Unreadable(Digits):
    def __getitem__(self, indices):
        raise AssertionError("read")


def test_prepare_reads_no_image_for_backbones_that_learn_nothing():
    class Pretrained(Backbone):
        channels, dim, name = [4], 4, "pretrained"

        def maps(self, images):
            return [images.expand(-1, 4, -1, -1)]

        def features(self, images):
            return self.maps(images)[0].mean((2, 3))

    learning = SmallConvNet(in_channels=1, widths=(4,), pretrain="self-supervised")
    kinds = {SiameseDiscriminator: "backbone", ProjectedDiscriminator: "backbone", StructureDiscriminator: "encoder"}
    for kind, name in kinds.items():
        ADD(denoiser(), kind(**{name: Pretrained()})).prepare(Unreadable())
        with pytest.raises(AssertionError, match="read"):
            ADD(denoiser(), kind(**{name: learning})).prepare(Unreadable())


def test_prepare_reads_at_most_20_000_images():
    discriminator = structure()
    discriminator.encoder = Counted()
    SADM(denoiser(), discriminator).prepare(
        StoredImages(torch.zeros(20_001, 1, 1, 1), torch.zeros(20_001, dtype=torch.int64))
    )
    ((images, labels),) = discriminator.encoder.seen
    assert len(images) == len(labels) == 20_000


@EACH
def test_a_batch_of_none_is_refused(name):
    with pytest.raises(ValueError, match="batch_size=0"):
        METHODS[name](denoiser()).check(0)


def test_negative_settings_are_refused():
    for settings in ({"warmup_steps": -1}, {"ramp_steps": -5}):
        with pytest.raises(ValueError, match=f"`{next(iter(settings))}=-"):
            ADT(denoiser(), SiameseDiscriminator(backbone=backbone()), **settings)
    with pytest.raises(ValueError, match="`delay_steps=-3` must be 0 or more"):
        SADM(denoiser(), structure(), delay_steps=-3)
    with pytest.raises(ValueError, match="`beta=-1` must be 0 or more"):
        DDO(denoiser(), beta=-1)
    with pytest.raises(ValueError, match="`width=0` must be at least 1"):
        SiameseDiscriminator(backbone=backbone(), width=0)
