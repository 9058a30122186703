"""The length of a step for networks that take one time: nothing at first, then told by samplers and pipelines."""

import pytest
import torch
from diffusers import UNet2DModel

from sparring.generators import Denoiser
from sparring.generators.level import Level
from sparring.generators.loading import load_pipeline
from sparring.generators.loop import Walk
from sparring.generators.pretrained import Pretrained
from sparring.networks import MLP
from sparring.networks.latent_slot import TimeSlot
from sparring.process import EDM, VP, RectifiedFlow


def unet():
    torch.manual_seed(0)
    sizes = dict(sample_size=4, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8))
    blocks = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    return UNet2DModel(**sizes, **blocks, norm_num_groups=4, add_attention=False)


def told(denoiser):
    """Another one that listens."""
    for parameter in denoiser.time_slot.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return denoiser


X, T = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(2)), torch.full((3,), 0.7)


def test_a_new_slot_changes_nothing_and_a_trained_one_does():
    plain = Denoiser(unet(), VP(), "v")(X, T).output
    denoiser = Denoiser(unet(), VP(), "v", second_time=True)
    lengths = torch.tensor([0.1, 0.5, 0.7])
    assert torch.equal(denoiser(X, T, None, None, lengths).output, plain)
    made = told(denoiser)(X, T, None, None, lengths).output
    assert not torch.isclose(made, plain).all()
    whole = torch.cat([denoiser(X[i : i + 1], T[:1], None, None, lengths[i : i + 1]).output for i in range(3)])
    torch.testing.assert_close(made, whole)
    assert torch.equal(denoiser(X, T).output, denoiser(X, T, None, None, torch.zeros(3)).output)


@pytest.mark.parametrize(("process", "kind"), [(VP(), "v"), (RectifiedFlow(shift=2.0), "flow")])
def test_a_walk_says_how_far_each_step_goes(process, kind):
    walk = Walk(process.scheduler("ddim", kind), 4)
    lengths = [walk.level(call, process).length.item() for call in range(4)]
    assert sum(lengths) == pytest.approx(1)
    if isinstance(process, VP):
        assert lengths == pytest.approx([0.25] * 4)
    assert Level.at(process, torch.tensor(0.3)).length.item() == pytest.approx(0.3)


@pytest.mark.parametrize(("process", "kind"), [(VP(), "v"), (RectifiedFlow(shift=2.0), "flow")])
@pytest.mark.parametrize("steps", [1, 3])
def test_its_pipeline_draws_what_the_library_draws(tmp_path, process, kind, steps):
    denoiser = told(Denoiser(unet(), process, kind, second_time=True))
    denoiser.check_shape((1, 4, 4))
    expected = denoiser.sample(3, steps, scheduler="euler" if kind == "flow" else "ddim", seed=5)
    assert denoiser.save(tmp_path / "pipeline", "ddim")
    loaded, _ = load_pipeline(tmp_path / "pipeline")
    torch.testing.assert_close(loaded.sample(3, steps, seed=5), expected)
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(tmp_path / "pipeline", trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    random = torch.Generator().manual_seed(5)
    made = pipe(batch_size=3, num_inference_steps=steps, generator=random, output_type="pt").images
    torch.testing.assert_close(2 * made - 1, expected, rtol=1e-4, atol=1e-4)
    again = Pretrained(str(tmp_path / "pipeline"), second_time=True)
    assert torch.equal(again.time_slot.layers[2].weight, denoiser.time_slot.layers[2].weight)


def test_what_is_refused():
    with pytest.raises(ValueError, match="takes no second time"):
        Denoiser(unet(), VP(), "v")(X, T, None, None, T)
    with pytest.raises(ValueError, match="second_time=True.*EDM"):
        Denoiser(unet(), EDM(), "edm", second_time=True)
    with pytest.raises(ValueError, match="no place for it is known in a Conv2d"):
        TimeSlot.on(torch.nn.Conv2d(1, 1, 1))
    for refused in ("enable_gradient_checkpointing", "network_to_shard"):
        with pytest.raises(ValueError, match="a second time"):
            getattr(Denoiser(MLP(), VP(), "v", second_time=True), refused)()
