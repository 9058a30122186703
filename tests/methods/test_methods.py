"""The seam of the methods: weighted errors, copies, ramps, preparation, refused settings; contracts/ has the rest."""

from copy import deepcopy
from inspect import signature

import pytest
import torch
from method_parts import (
    Net,
    backbone,
    batch_of,
    denoiser,
    structure,
)

from sparring.backbones import Backbone, SmallConvNet
from sparring.data import Digits, StoredImages
from sparring.discriminators import ProjectedDiscriminator, SiameseDiscriminator, StructureDiscriminator
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.distillation.add import ADD
from sparring.methods.distillation.dmd2 import DMD2
from sparring.methods.gan.gan_em import GANEM
from sparring.methods.method import frozen_copy
from sparring.methods.translation.acd import ACD
from sparring.methods.tuning.adt import ADT
from sparring.methods.tuning.adt_turbo import ADTTurbo
from sparring.methods.tuning.cafm import CAFM
from sparring.methods.tuning.ddo import DDO
from sparring.methods.tuning.sadm import SADM
from sparring.methods.tuning.self_perceptual import SelfPerceptual
from sparring.process import EDM, SNR, VP, Constant, MinSNR, RectifiedFlow, Uniform
from sparring.rollout import denoising_error, one_step


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


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (SADM, "mode"), (SADM, "discriminator_input"), (ADT, "choose"), (ADT, "start"), (ADT, "reference"),
        (ADT, "discriminator_input"), (ADTTurbo, "shown"), (ADTTurbo, "discriminator_input"),
        (ADD, "discriminator_input"), (SelfPerceptual, "through"), (SelfPerceptual, "noise"), (ACD, "pairs"),
        (GANEM, "start"), (DMD2, "features"), (CAFM, "derivative"),
    ],
)  # fmt: skip
def test_a_word_that_a_setting_does_not_know_is_refused_from_python_too(kind, setting):
    needed = [p for p in signature(kind).parameters.values() if p.default is p.empty]
    with pytest.raises(ValueError, match=f"`{setting}=elsewhere` must be .* or "):
        kind(*[None] * len(needed), **{setting: "elsewhere"})


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


def test_negative_settings_are_refused():
    for settings in ({"warmup_steps": -1}, {"ramp_steps": -5}):
        with pytest.raises(ValueError, match=f"`{next(iter(settings))}=-"):
            ADT(denoiser(), SiameseDiscriminator(backbone=backbone()), **settings)
    with pytest.raises(ValueError, match="`delay_steps=-3` must be 0 or more"):
        SADM(denoiser(), structure(), delay_steps=-3)
    with pytest.raises(ValueError, match="`beta=-1` must be above 0"):
        DDO(denoiser(), beta=-1)
    with pytest.raises(ValueError, match="`width=0` must be at least 1"):
        SiameseDiscriminator(backbone=backbone(), width=0)
