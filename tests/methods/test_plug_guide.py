"""Plug-in guide: what it leaves alone, its target by hand, one pass that learns to be two, another base."""

import pytest
import torch
from diffusers import UNet2DModel

from sparring.data import Batch, Draws
from sparring.generators import Denoiser, Guide
from sparring.methods.guides.plug_guide import PlugGuide
from sparring.networks import MLP, DecoderGuide
from sparring.networks.decoder_guide import DecoderMaps
from sparring.process import VP, RectifiedFlow
from sparring.samplers.guidance.plugged import Plugged


def unet(seed=0, classes=4, widths=(4, 8, 8)) -> Denoiser:
    torch.manual_seed(seed)
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=widths, norm_num_groups=4,
        down_block_types=("DownBlock2D",) * len(widths), up_block_types=("UpBlock2D",) * len(widths),
        add_attention=False, num_class_embeds=classes,
    )  # fmt: skip
    denoiser = Denoiser(net.double(), VP(), "v")
    denoiser.check_shape((1, 8, 8))
    denoiser.conditioning.classes_of_data = 3
    return denoiser


def guide(seed=None, widths=(4, 8, 8)) -> Guide:
    torch.manual_seed(1)
    made = Guide(DecoderGuide(1, widths, num_classes=4, width=8).double(), VP())
    made.check_shape((1, 8, 8))
    if seed is not None:
        for layer in made.net.maps:
            torch.nn.init.normal_(layer.weight, std=0.3, generator=torch.Generator().manual_seed(seed))
    return made


X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def batch(phase="rollout"):
    return Batch(X, LABELS, draws=Draws(0, phase=phase))


def test_a_new_guide_is_the_conditional_model_and_at_one_there_is_nothing_to_learn():
    method = PlugGuide(guide(), unet(), low=1.0, high=3.0)
    rollout = method.rollout(batch())
    assert torch.equal(rollout.guided, rollout.told)
    assert method.generator_loss(batch(), rollout)["guidance"] > 0
    trained = PlugGuide(guide(3), unet(), low=0.999999, high=1.000001)
    rollout = trained.rollout(batch())
    torch.testing.assert_close(rollout.guided, rollout.told, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rollout.target, rollout.told, rtol=1e-4, atol=1e-4)


def test_the_target_by_hand_and_at_zero_the_model_without_a_condition():
    base = unet()
    method = PlugGuide(guide(), base, low=0.0, high=0.0)
    rollout = method.rollout(batch())
    draws = batch().draws
    t = base.process.default_times()(base.process, draws, 6)
    x_t = base.process.add_noise(X, draws.normal((6, 1, 8, 8)).double(), t)
    none, told = (base(x_t, t, labels).output.detach() for labels in (torch.full((6,), 3), LABELS))
    torch.testing.assert_close(rollout.told, told)
    torch.testing.assert_close(rollout.target, none)
    assert not torch.isclose(none, told).all()
    method.low = method.high = 3.0
    torch.testing.assert_close(method.rollout(batch()).target, none + 3 * (told - none))


def test_maps_are_added_block_by_block_inside_only_and_rows_do_not_mix():
    base, model, t = unet(), guide(3), torch.full((6,), 0.5)
    maps, seen = DecoderMaps(base.net), []
    for block in base.net.up_blocks:
        block.register_forward_hook(lambda block, given, output: seen.append(output.detach().clone()))
    plain = base(X, t, LABELS).output
    numbers = model(X, t, labels=LABELS, scale=torch.full((6,), 2.0))
    assert numbers.shape == (6, 8 * 16 + 8 * 64 + 4 * 64)
    seen.clear()
    with maps.added(numbers):
        changed = base(X, t, LABELS).output
    with maps.added(0 * numbers):
        torch.testing.assert_close(base(X, t, LABELS).output, plain)
    assert torch.equal(base(X, t, LABELS).output, plain)
    assert not torch.isclose(changed, plain).all()
    with maps.added(numbers[2:3]):
        torch.testing.assert_close(base(X[2:3], t[:1], LABELS[2:3]).output, changed[2:3])
    double = model(X, t, labels=LABELS, scale=torch.ones(6))
    assert torch.equal(double, torch.zeros_like(double))


def test_one_pass_learns_to_be_two():
    torch.manual_seed(0)
    base = unet(widths=(4, 8))
    base.net.class_embedding.weight.data.mul_(2)  # a base that was not trained hardly looks at its classes
    method = PlugGuide(guide(widths=(4, 8)), base, low=2.0, high=2.0)
    optimizer, shares = torch.optim.Adam(method.generator.parameters(), 1e-2), []
    for _ in range(150):
        given = Batch(X, LABELS, draws=Draws(0, phase="rollout"))
        loss = method.generator_loss(given, method.rollout(given))["guidance"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shares.append(method.statistics["share_left"].item())
    assert shares[0] == pytest.approx(1)
    assert sum(shares[-5:]) / 5 < 0.5


def test_plugged_it_costs_one_pass_and_its_own_share_and_at_one_none():
    base, model = unet(), guide(3)
    settings = dict(scheduler="ddim", labels=[0, 1, 2])
    plain = base.sample(6, 4, **settings)
    assert torch.equal(base.sample(6, 4, using=[Plugged(model, scale=1.0)], **settings), plain)
    seen, plugged = base.images_seen, Plugged(model, scale=3.0)
    images = base.sample(6, 4, using=[plugged], **settings)
    assert base.images_seen - seen == 24
    weights = [sum(p.numel() for p in net.parameters()) for net in (model.net, base.net)]
    assert plugged.cost == round(24 * weights[0] / weights[1]) > 0
    assert not torch.isclose(images, plain).all()
    other = unet(seed=5)
    assert other.sample(6, 4, using=[Plugged(model)], **settings).isfinite().all()


def test_what_is_refused():
    for settings, message in [
        (dict(low=2.0, high=1.0), "low=2.0.*high=1.0"),
        (dict(low=1.0, high=1.0), "1 is none"),
    ]:
        with pytest.raises(ValueError, match=message):
            PlugGuide(guide(), unet(), **settings)
    with pytest.raises(ValueError, match="takes none: start from a run on digits-classes"):
        PlugGuide(guide(), unet(classes=None))
    with pytest.raises(ValueError, match=r"block_out_channels=\[4, 8\].*\[4, 8, 8\]"):
        PlugGuide(guide(widths=(4, 8)), unet())
    with pytest.raises(ValueError, match="generator.process`: VP noises in another way than the `denoiser`"):
        PlugGuide(guide(), Denoiser(unet().net, RectifiedFlow(), "flow"))
    with pytest.raises(ValueError, match="scale=-1"):
        Plugged(guide(), scale=-1.0)
    with pytest.raises(ValueError, match="takes neither classes nor captions"):
        unet(classes=None).sample(2, 2, using=[Plugged(guide())])
    with pytest.raises(ValueError, match="decoder of a UNet2DModel"):
        DecoderMaps(MLP())
