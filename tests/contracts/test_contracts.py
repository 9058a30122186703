"""What every method must keep, on every recipe that there is: a new one is tested by existing."""

import shutil

import pytest
import torch
from contract_parts import PHASES, ROWS, Case, PermutedDraws, build, tensors_in, total

from sparring.data import Draws
from sparring.generators import Denoiser, JointDenoiser
from sparring.methods.method import Method
from sparring.recipes import recipe
from sparring.recipes.compose import compose, decides_process, read, shipped
from sparring.runs.checkpoint import read_checkpoint
from sparring.samplers import Sampler
from sparring.training import Trainer

EACH = pytest.mark.parametrize("name", shipped("methods"))


@EACH
def test_equal_draws_give_equal_steps_and_others_do_not(name, start, tmp_path):
    case = Case(name, start, tmp_path)
    first, second = (tensors_in(case.method.rollout(case.batch("rollout"))) for _ in range(2))
    assert first
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(x.dtype == torch.float64 for x in first if x.ndim == 4)
    draws = Draws(1, phase="rollout", device=case.images.device)
    other = tensors_in(case.method.rollout(case.batch("rollout", draws)))
    used = {"_per_row", "_shared"} & vars(draws).keys()  # GLO draws nothing
    assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True)) == (not used)
    losses = [case.losses(*map(case.batch, PHASES)) for _ in range(2)]
    assert all(torch.equal(losses[0][key], losses[1][key]) for key in losses[0])
    assert all(loss.shape == () and loss.dtype == torch.float64 for loss in losses[0].values())


@EACH
def test_only_the_player_whose_turn_it_is_learns_and_all_of_it(name, start, tmp_path):
    """The discriminator's loss detaches the fake by itself; for the generator's, the discriminator is frozen."""
    case = Case(name, start, tmp_path)
    method, players = case.method, {role: case.trained(role) for role in ("generator", "discriminator")}
    before = {key: value.clone() for key, value in method.state_dict().items()}
    rollout = method.rollout(case.batch("rollout"))
    if method.discriminator is not None:
        total(method.discriminator_loss(case.batch("discriminator"), rollout)).backward()
        assert {key for key, p in method.named_parameters() if p.grad is not None} == set(players["discriminator"])
        method.zero_grad()
    for parameter in players["discriminator"].values():
        parameter.requires_grad_(False)
    if method.generator_first:  # the graph above is the generator's
        rollout = method.rollout(case.batch("rollout"))
    total(method.generator_loss(case.batch("generator"), rollout)).backward()
    assert {key for key, p in method.named_parameters() if p.grad is not None} == set(players["generator"])
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())  # buffers, too


@EACH
def test_micro_batches_make_the_losses_of_the_whole_batch(name, start, tmp_path):
    case = Case(name, start, tmp_path)
    whole = case.losses(*map(case.batch, PHASES))
    parts = []
    for rows in (slice(0, 4), slice(4, ROWS)):
        draws = [Draws(0, phase=phase, rows=rows, total=ROWS) for phase in PHASES]
        parts.append(case.losses(*(case.batch(p, d, rows) for p, d in zip(PHASES, draws, strict=True))))
    for key, loss in whole.items():
        mean = (4 * parts[0][key] + 2 * parts[1][key]) / 6
        torch.testing.assert_close(mean, loss, rtol=1e-9, atol=1e-9)


@EACH
def test_a_common_permutation_of_rows_and_draws_changes_no_loss(name, start, tmp_path):
    """In whole pairs, for what couples the rows of a pair."""
    case = Case(name, start, tmp_path)
    expected = case.losses(*map(case.batch, PHASES))
    order = torch.tensor([3, 2, 4, 5, 0, 1])
    losses = case.losses(
        *(case.batch(phase, PermutedDraws(order, phase, case.images.device), order) for phase in PHASES)
    )
    for key, loss in expected.items():
        torch.testing.assert_close(losses[key], loss, rtol=1e-9, atol=1e-9)


@EACH
def test_what_is_frozen_stays_in_eval_mode(name, start, tmp_path):
    method = Case(name, start, tmp_path).method
    for part in (method.train(), method.eval().train()):
        for module in part.modules():
            own = list(module.parameters())
            if own and not any(p.requires_grad for p in own):
                assert not module.training
    assert method.training


def told_case(name, start, folder, discriminator, *flags, tuned=False):
    """A case with a class-conditional denoiser, whose discriminator is told the classes if the method asks for that."""
    try:
        return Case(name, start, folder, *flags, tuned=tuned)
    except ValueError as error:
        if "takes no classes" not in str(error):
            raise
    there = "--method.discriminator.init_args"
    if "given" in discriminator["init_args"]:
        given = ["labels", *discriminator["init_args"]["given"]]
        flags = (*flags, f"{there}.given={given}", f"{there}.net.init_args.num_classes=11")
    else:
        flags = (*flags, f"{there}.num_classes=11")
    return Case(name, start, folder, *flags, tuned=tuned)


@EACH
def test_labels_reach_every_denoiser_with_their_images(name, start_with_classes, tmp_path):
    made = compose(name, "tiny")
    if "generator" in made:
        pytest.skip("of another kind")
    if made["denoiser"]["net"]["class_path"].endswith((".SourceUNet", ".CodeUNet", ".GraphTransformer")):
        pytest.skip("conditioned on a source instead: see the next one")
    if made["denoiser"].get("start") is not None:
        pytest.skip("a density of all images knows no classes, and is refused")
    sizes = made["denoiser"]["net"]["init_args"]
    stock = sizes.get("in_channels", 1) == sizes.get("out_channels", 1) == 1
    discriminator, own = made["method"].get("init_args", {}).get("discriminator"), read(name).get("denoiser", {})
    if made["denoiser"]["net"]["class_path"].endswith(".DiTTransformer2DModel"):
        case = Case(name, start_with_classes, tmp_path)
    elif stock and not decides_process(read(name)) and "class_path" not in own.get("process", {}):
        case = told_case(name, start_with_classes, tmp_path, discriminator, tuned=True)
    else:  # its network does not take the images themselves, or has another process than the start
        classes = "--denoiser.net.init_args.num_class_embeds=11"
        case = told_case(name, start_with_classes, tmp_path, discriminator, classes)
    denoisers = case.method.generators()
    if getattr(denoisers[0].net, "class_embedding", None) is None:
        pytest.skip("a DiT, which has its classes in each block, or a network beside the start, which takes none")
    for denoiser in denoisers:
        denoiser.condition_dropout = 0.0  # a row that is left out has another label by right
    seen = [[] for _ in denoisers]
    for denoiser, labels in zip(denoisers, seen, strict=True):
        denoiser.net.class_embedding.register_forward_pre_hook(lambda _, given, labels=labels: labels.append(given[0]))
    case.losses(*map(case.batch, PHASES))
    for labels in seen:
        assert any(torch.equal(given, case.labels) for given in labels)
        assert all(given.shape == case.labels.shape for given in labels)


@EACH
def test_sources_reach_every_denoiser_with_their_images(name, start, tmp_path):
    case = Case(name, start, tmp_path)
    if case.sources is None:
        pytest.skip("has no source")
    if not case.paired or case.method.updates_per_rollout > 1:
        pytest.skip("its sources belong to no image, or it walks to its own")
    denoisers = case.method.generators()
    seen = [[] for _ in denoisers]
    for denoiser, sources in zip(denoisers, seen, strict=True):
        keep = lambda _, args, given, sources=sources: sources.append(given["source"])  # noqa: E731
        denoiser.net.register_forward_pre_hook(keep, with_kwargs=True)
    case.losses(*map(case.batch, PHASES))
    for sources in seen:
        assert sources
        assert all(torch.equal(given, case.sources) for given in sources)


@EACH
def test_nothing_is_twice_in_a_checkpoint(name, start, tmp_path):
    kept = Case(name, start, tmp_path).method.state_dict(keep_vars=True).values()
    places = [tensor.data_ptr() for tensor in kept if tensor.numel() > 0]
    assert len(set(places)) == len(places)


@EACH
def test_a_batch_of_none_is_refused(name, start, tmp_path):
    with pytest.raises(ValueError, match="batch_size=0"):
        Case(name, start, tmp_path).method.check(0)


def raising(error):
    def call(*_):
        raise error

    return call


def check_equal(run, other):
    (tensors, state), (tensors_2, state_2) = (read_checkpoint(one / "checkpoints" / "000004") for one in (run, other))
    for group in tensors.keys() | tensors_2.keys():
        assert tensors[group].keys() == tensors_2[group].keys()
        assert all(torch.equal(tensor, tensors_2[group][key]) for key, tensor in tensors[group].items()), group
    assert {k: v for k, v in state.items() if k not in ("seconds", "digest")} == {
        k: v for k, v in state_2.items() if k not in ("seconds", "digest")
    }


@EACH
def test_a_run_goes_on_bit_for_bit_and_its_generator_opens(name, start, tmp_path):
    """From a checkpoint; and, if something is made before the first step, after a stop without one."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    settings = ("--trainer.steps=4", "--trainer.checkpoint_every=2")
    build(name, start, whole, *settings).fit()
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "checkpoints" / "000004")
    recipe.rebuild(stopped, []).fit(resume=True)
    check_equal(whole, stopped)
    killed = build(name, start, tmp_path / "killed", *settings)
    generator = killed.method.generator
    own = [getattr(generator, name, None) for name in ("own_source", "start")]
    if type(killed.method).prepare is not Method.prepare or own != [None, None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "loop", raising(MemoryError))
            with pytest.raises(MemoryError):
                killed.fit()
        recipe.rebuild(tmp_path / "killed", []).fit(resume=True)
        check_equal(whole, tmp_path / "killed")
    before, after = (read_checkpoint(whole / "checkpoints" / step)[0]["generator"] for step in ("000002", "000004"))
    assert any(not torch.equal(tensor, before[key]) for key, tensor in after.items())  # it learns

    sampler = Sampler(whole)
    if not sampler.generator.makes_images:
        with pytest.raises(ValueError, match="makes no images: sample the denoiser that it guides"):
            sampler(3, 2)
        return
    data = recipe.rebuild(whole, []).data
    given = {"sources": data.source_images(3)} if sampler.generator.takes_source else {}
    images = sampler(3, 2, **given).images
    assert images.shape == (3, *data.image_shape)
    assert images.isfinite().all()
    generator = sampler.generator
    own = isinstance(generator, JointDenoiser) or generator.takes_source  # these have no pipeline
    if isinstance(generator, Denoiser) and not own and generator.own_source is None:
        from diffusers import DiffusionPipeline

        pipe = DiffusionPipeline.from_pretrained(whole / "pipeline", trust_remote_code=True)
        pipe.set_progress_bar_config(disable=True)
        assert pipe(batch_size=2, num_inference_steps=2, output_type="np").images.shape == (2, 8, 8, 1)
