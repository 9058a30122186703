"""Levels and blocks that were searched for: exact no-ops, closed forms of few steps, and that evolution finds."""

import json

import pytest
import torch
from cases import pair, sampled, white
from diffusers import DiTTransformer2DModel, UNet2DModel

from sparring.cli.main import main
from sparring.experiments.evolution import Evolution, Schedule
from sparring.experiments.search_steps import described
from sparring.generators import Denoiser
from sparring.networks.skips import skippable, without
from sparring.process import EDM, VP, RectifiedFlow
from sparring.samplers.guidance.recycle import Recycle
from sparring.samplers.speed.auto_diffusion import AutoDiffusion


def unet() -> Denoiser:
    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        attention_head_dim=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return Denoiser(net, VP(), "v")


def drawn(denoiser, steps=4, scheduler="euler", batch_size=4, **settings):
    latents = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sampler = denoiser.process.scheduler(scheduler, denoiser.prediction)
    with torch.no_grad():
        return denoiser.generate(sampler, steps, latents=latents, batch_size=batch_size, **settings)


# -- levels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("process", "kind", "scheduler"), [
    (VP(), "v", "euler"), (VP(), "v", "dpm"), (VP(), "eps", "ddpm"), (RectifiedFlow(), "flow", "euler"),
])  # fmt: skip
def test_the_levels_of_the_scheduler_itself_give_its_samples_and_none_changes_nothing(process, kind, scheduler):
    own = [1.0, 0.75, 0.5, 0.25]
    noises = [torch.Generator().manual_seed(0) for _ in range(4)]
    plain, none, same, other = (
        sampled(pair(process, kind), scheduler, 4, d=2, generator=noise, using=using)
        for noise, using in zip(
            noises,
            ([], [AutoDiffusion()], [AutoDiffusion(times=own)], [AutoDiffusion(times=[0.9, 0.6, 0.3, 0.1])]),
            strict=True,
        )
    )
    assert torch.equal(none, plain)
    assert torch.equal(same, plain)
    assert (other - plain).abs().max() > 1e-3


def test_a_flow_of_two_chosen_steps_is_its_closed_form():
    """For N(0, 1), from 0.9 of the noise: x <- x + (s - t) f(t) x, velocity f = (2 t - 1) / ((1 - t)^2 + t^2)."""
    denoiser = pair(RectifiedFlow(), "flow", mean=0.0, variance=1.0)
    x = sampled(denoiser, "euler", 2, using=[AutoDiffusion(times=[0.9, 0.3])])
    expected = 0.9 * white(8)
    for t, s in ((0.9, 0.3), (0.3, 0.0)):
        expected = expected * (1 + (s - t) * (2 * t - 1) / ((1 - t) ** 2 + t**2))
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-5)


def test_a_flow_that_begins_later_ends_as_wide():
    """N(0, 1/4) from t = 0.9, where the noise has a deviation of 0.9: a deviation of 1 would end 11 % wider."""
    denoiser = pair(RectifiedFlow(), "flow", mean=0.0, variance=0.25)
    early, late = (
        sampled(denoiser, "euler", 40, using=[AutoDiffusion(times=[t * (1 - step / 40) for step in range(40)])]).std()
        for t in (1.0, 0.9)
    )
    assert (late / early).item() == pytest.approx(1, abs=0.01)


def test_a_vp_step_from_a_chosen_level_is_its_closed_form():
    """One step of DDIM from pure noise: the network's clean estimate at this level, of white noise alpha x."""
    denoiser = pair(mean=0.0, variance=1.0)
    x = sampled(denoiser, "euler", 1, using=[AutoDiffusion(times=[0.7])])
    t = torch.tensor(0.7, dtype=torch.float64)
    ratio = VP().sigma(t) / VP().alpha(t)
    torch.testing.assert_close(x, white(8) * VP().alpha(t) ** 2 * ratio, rtol=0, atol=1e-5)


def test_levels_that_cannot_be_walked_are_refused(tmp_path):
    times = AutoDiffusion(times=[0.9, 0.5])
    for process, kind, scheduler, message in (
        (VP(), "v", "ddim", "DDIMScheduler takes no levels of its own: take scheduler euler"),
        (VP(), "v", "heun", "HeunDiscreteScheduler takes no levels"),
        (EDM(), "edm", "euler", "EDMEulerScheduler takes no levels"),
        (RectifiedFlow(), "flow", "dpm", "of its own for a flow: take scheduler euler"),
    ):
        with pytest.raises(ValueError, match=message):
            sampled(pair(process, kind), scheduler, 2, d=2, using=[times])
    with pytest.raises(ValueError, match="`steps=3`: 2 levels were chosen; take as many steps, 2"):
        sampled(pair(), "euler", 3, d=2, using=[times])
    with pytest.raises(ValueError, match="two of the chosen levels are the same of 1000"):
        sampled(pair(), "euler", 2, d=2, using=[AutoDiffusion(times=[0.5002, 0.5001])])
    with pytest.raises(ValueError, match="both choose the levels: take one"):
        sampled(pair(), "euler", 2, d=2, using=[times, times])
    for wrong in ([0.5, 0.9], [1.2, 0.5], [0.5, 0.0]):
        with pytest.raises(ValueError, match="must fall, and lie in"):
            AutoDiffusion(times=wrong)
    with pytest.raises(ValueError, match=r"`skips` is for 1 steps and `times` for 2"):
        AutoDiffusion(times=[0.9, 0.5], skips=[["a"]])
    for given in (dict(times=[0.9, 0.5]), dict(skips=[["a"]])):
        with pytest.raises(
            ValueError, match=r"`schedule=x.json` says the `times` and `skips`: give the file, or these"
        ):
            AutoDiffusion(schedule="x.json", **given)
    for content in ("{}", "no", '{"times": ["a"], "skips": []}'):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(ValueError, match="is no file of `sparring search`"):
            AutoDiffusion(schedule=str(tmp_path / "x.json"))


def test_rows_do_not_see_each_other_and_moves_go_along():
    denoiser = unet()
    using = [AutoDiffusion(times=[0.9, 0.6, 0.3, 0.1], skips=[["mid_block.resnets.0"], [], [], []]), Recycle(steps=1)]
    whole, single = (drawn(denoiser, using=using, batch_size=size) for size in (4, 1))
    torch.testing.assert_close(single, whole, rtol=0, atol=1e-4)


# -- blocks ------------------------------------------------------------------------------------------------------------


def test_blocks_that_keep_their_shape_can_be_left_out_and_come_back():
    denoiser = unet()
    known = skippable(denoiser.net)
    attentions = ["down_blocks.1.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1"]
    middle = ["mid_block.attentions.0", "mid_block.resnets.0", "mid_block.resnets.1"]
    assert list(known) == ["down_blocks.0.resnets.0", *attentions, *middle]
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.full((2,), 0.5)
    with torch.no_grad():
        full = denoiser(x, t).output
        for block in known.values():
            with without([block]):
                assert (denoiser(x, t).output - full).abs().max() > 1e-6
        assert torch.equal(denoiser(x, t).output, full)
        seen = []
        known["mid_block.resnets.0"].register_forward_hook(lambda *_: seen.append(1))
        with without([known["mid_block.resnets.0"]]):
            given = torch.randn(2, 16, 4, 4)
            assert known["mid_block.resnets.0"](given, None) is given


def test_the_blocks_of_a_transformer_are_whole():
    net = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=1, out_channels=1, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=3,
    )  # fmt: skip
    assert list(skippable(net)) == ["transformer_blocks.0", "transformer_blocks.1"]


def test_each_step_leaves_out_its_own_blocks_and_none_is_the_plain_sampler():
    denoiser, ran = unet(), []
    for name in ("mid_block.resnets.0", "down_blocks.0.resnets.0"):
        block = skippable(denoiser.net)[name]
        block.norm1.register_forward_hook(lambda *_, name=name: ran.append(name))
    plain = drawn(denoiser)
    assert torch.equal(drawn(denoiser, using=[AutoDiffusion(skips=[[], [], [], []])]), plain)
    ran.clear()
    skips = [["mid_block.resnets.0"], [], ["mid_block.resnets.0", "down_blocks.0.resnets.0"], []]
    assert (drawn(denoiser, using=[AutoDiffusion(skips=skips)]) - plain).abs().max() > 1e-4
    first, second = "down_blocks.0.resnets.0", "mid_block.resnets.0"
    assert ran == [first, first, second, first, second]
    with pytest.raises(ValueError, match="`skips` is for 4 network calls, and this sampler makes 3"):
        drawn(denoiser, 3, using=[AutoDiffusion(skips=skips)])
    with pytest.raises(ValueError, match="`skips=conv_in` is no block of the UNet2DModel to leave out"):
        drawn(denoiser, using=[AutoDiffusion(skips=[["conv_in"], [], [], []])])


def test_a_block_that_is_left_out_twice_comes_back_and_so_does_the_forward_that_somebody_gave_it():
    block = skippable(unet().net)["mid_block.resnets.0"]
    x, time = torch.randn(2, 16, 4, 4), torch.randn(2, 32)
    whole = block(x, time)
    with without([block]):
        with without([block, block]):
            assert block(x, time) is x
        assert block(x, time) is x
    assert torch.equal(block(x, time), whole)
    block.forward = lambda *given: given[0] + 1
    with without([block]):
        assert block(x, time) is x
    assert torch.equal(block(x, time), x + 1)


# -- the search --------------------------------------------------------------------------------------------------------


def test_a_planted_schedule_is_found_by_evolution_and_hardly_by_chance():
    settings = dict(steps=8, grid=100, population=50, generations=20)
    hidden = (3, 11, 19, 41, 55, 62, 80, 97)

    def planted(schedule):
        return sum(abs(a - b) for a, b in zip(schedule.levels, hidden, strict=True))

    evolved, drawn_at_random = Evolution(**settings), Evolution(**settings, evolve=False)
    best, chance = evolved.run(planted)[0], drawn_at_random.run(planted)[0]
    assert len(evolved.scores) == len(drawn_at_random.scores) == 1000
    assert 2 * planted(best) < planted(chance)  # 5 and 14; 39 for evenly spaced levels
    again = Evolution(**settings)
    assert again.run(planted)[0] == best
    assert again.scores == evolved.scores


def test_blocks_come_in_the_second_half_and_are_exactly_as_many():
    hidden, blocks = (7, 31, 55, 90), {(1, "b"), (3, "a")}

    def planted(schedule):
        levels = sum(abs(a - b) for a, b in zip(schedule.levels, hidden, strict=True))
        return levels + 5 * len(blocks - set(schedule.skips))

    evolution, seen = Evolution(steps=4, grid=100, blocks=("a", "b", "c"), skipped=2, generations=20), []
    found = evolution.run(lambda one: seen.append(one) or planted(one))
    half = [len(one.skips) for one in seen]
    assert set(half[:500]) == {0}
    assert set(half[500:]) == {2}
    assert found[0].skips == ((1, "b"), (3, "a"))
    assert all(len(one.skips) == 2 for one in found)
    assert all(len(set(one.levels)) == 4 and one.levels == tuple(sorted(one.levels)) for one in seen)
    assert len(set(seen)) == len(seen)


def test_as_many_steps_as_levels_return_all_levels():
    assert Evolution(steps=5, grid=5).run(lambda one: 0.0) == [Schedule((1, 2, 3, 4, 5))]
    assert Evolution(steps=4, grid=100).uniform() == Schedule((25, 50, 75, 100))


def test_a_schedule_is_told_from_noise_on():
    found = described(Schedule((10, 50, 100), ((0, "late"), (2, "first"))), 100)
    assert found == {"times": [1.0, 0.5, 0.1], "skips": [["first"], [], ["late"]]}
    assert described(Schedule((10, 50)), 100)["skips"] == []


def test_settings_that_cannot_be_are_refused():
    for settings, message in (
        ({"steps": 0}, "`steps=0` must lie in 1 to `grid=10`"),
        ({"steps": 11}, "`steps=11` must lie in 1 to"),
        ({"skipped": 3}, "`skip=3` must lie in 0 to 0, the blocks of all steps"),
        ({"kept": 0}, "must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Evolution(**{"steps": 2, "grid": 10} | settings)


def test_a_run_is_searched_and_sampled_by_what_was_found(tmp_path, capsys):
    run, file = tmp_path / "run", tmp_path / "found.json"
    fit = ["fit", "diffusion", "--on", "tiny", "--out", str(run), "--trainer.steps=2", "--trainer.tracker=null"]
    assert main(fit) == 0
    words = ["search", str(run), "--steps", "3", "--out", str(file), "--n", "20", "--features", "pixels"]
    small = ["--population", "4", "--generations", "2", "--kept", "2", "--skip", "1"]
    assert main([*words, *small]) == 0
    said = capsys.readouterr().out
    assert "Frechet distance in pixels" in said
    found = json.loads(file.read_text())
    assert len(found["times"]) == len(found["skips"]) == 3
    assert sum(map(len, found["skips"])) == 1
    sample = ["sample", str(run), "--n", "4", "--scheduler", "euler", "--with", "auto_diffusion"]
    assert main([*sample, "--with.schedule", str(file), "--steps", "3", "--out", str(tmp_path / "x.png")]) == 0
    assert main([*sample, "--with.schedule", str(file), "--steps", "4", "--out", str(tmp_path / "y.png")]) == 2
    assert main(["search", str(tmp_path), "--steps", "3", "--out", str(file)]) == 2
