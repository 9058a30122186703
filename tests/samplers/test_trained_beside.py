"""What is trained beside one denoiser is refused with another; with one that was trained on, as each kind allows."""

from pathlib import Path

import pytest
import torch
from cases import Bent
from diffusers import AutoencoderKL, UNet2DModel
from tiny_pipelines import VAE

from sparring.generators import Denoiser, Guide
from sparring.generators.families.stable_diffusion import StableDiffusion
from sparring.generators.families.stable_diffusion_xl import StableDiffusionXL
from sparring.generators.lineage import fingerprint, lineage
from sparring.generators.loading import load_denoiser
from sparring.networks import MLP
from sparring.process import EDM, VP, Kind, Latents, Process, RectifiedFlow, StudentT, same_noise
from sparring.recipes import recipe
from sparring.recipes.compose import compose
from sparring.samplers import Sampler
from sparring.samplers.denoisers import check_beside
from sparring.samplers.gradients import check_classes
from sparring.samplers.guidance.classifier import ClassifierGuidance
from sparring.samplers.guidance.discriminator import DiscriminatorGuidance
from sparring.samplers.guidance.inv_diff import InvDiff
from sparring.samplers.guidance.lacon import LaCon
from sparring.samplers.guidance.minority import MinorityGuidance
from sparring.samplers.guidance.plugged import Plugged
from sparring.samplers.trained import check_trained_beside

CLASSES = "--denoiser.net.init_args.num_class_embeds=11"
BESIDE = {
    "inv_diff_delta": InvDiff,
    "lacon_aligner": lambda run: LaCon(run, target="left"),
    "minority_classifier": MinorityGuidance,
    "noisy_discriminator": DiscriminatorGuidance,
    "plug_guide": Plugged,
}


def trained(name: str, out: Path, *flags: str, init: Path | None = None, resume: bool = False) -> str:
    """A run of a recipe on `tiny`."""
    header = {"recipe": name, "setting": "tiny", "init": None if init is None else str(init), "allow": []}
    if resume:
        trainer = recipe.rebuild(out, list(flags))
    else:
        composed = compose(name, "tiny", tuned=init is not None)
        start = None if init is None else str(init)
        trainer = recipe.build(composed, ["--trainer.steps=1", *flags], out=out, init=start, header=header)
    return str(trainer.fit(resume=resume))


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """For runs without classes and with: a base, one tuned from it, and one of another seed."""
    folder = tmp_path_factory.mktemp("bases")
    found = {}
    for kind, flags in {"plain": [], "classes": [CLASSES]}.items():
        at = folder / kind
        base = trained("diffusion", at / "base", *flags)
        tuned = trained("diffusion", at / "tuned", init=at / "base")
        other = trained("diffusion", at / "other", *flags, "--trainer.seed=1")
        found[kind] = (base, tuned, other)
    return found


@pytest.mark.parametrize("method", BESIDE)
def test_it_fits_the_denoiser_that_it_was_trained_beside(method, bases, tmp_path):
    base, tuned, other = bases["classes" if method == "plug_guide" else "plain"]
    using = BESIDE[method](trained(method, tmp_path / "guide", init=Path(base)))
    settings = dict(seed=3, using=[using], labels=[1, 2] if method == "plug_guide" else None)
    assert Sampler(base)(2, 2, **settings).images.isfinite().all()
    with pytest.raises(ValueError, match=r"guide` was trained beside another denoiser, .*: train it with --init"):
        Sampler(other)(2, 2, **settings)
    if method == "noisy_discriminator":  # its logit is of the samples of these weights
        with pytest.raises(ValueError, match="has other weights, if only by more training"):
            Sampler(tuned)(2, 2, **settings)
    else:
        assert Sampler(tuned)(2, 2, **settings).images.isfinite().all()


def test_a_classifier_of_noisy_images_guides_any_denoiser_of_its_noise_and_images(bases, tmp_path):
    run = trained("noisy_classifier", tmp_path / "classifier")
    for base in (*bases["plain"], *bases["classes"]):
        assert Sampler(base)(2, 2, using=[ClassifierGuidance(run)], labels=[3, 4]).images.isfinite().all()


def test_runs_note_what_they_were_trained_from(bases, tmp_path):
    base, tuned, other = (load_denoiser(run) for run in bases["plain"])
    assert lineage(base) == [fingerprint(base)]
    assert lineage(tuned) == [fingerprint(tuned), fingerprint(base)]
    assert len({fingerprint(one) for one in (base, tuned, other)}) == 3
    again = load_denoiser(trained("diffusion", tmp_path / "again", init=Path(bases["plain"][1])))
    assert lineage(again) == [fingerprint(again), *lineage(tuned)]
    later = tmp_path / "later"
    first = load_denoiser(trained("diffusion", later))
    assert fingerprint(first) == fingerprint(base)  # the same seed
    for steps in (2, 3):
        longer = load_denoiser(trained("diffusion", later, f"--trainer.steps={steps}", resume=True))
    known = lineage(longer)
    assert (len(known), known[-1]) == (3, fingerprint(first))


def test_what_does_not_say_beside_what_it_was_trained_is_taken(bases, tmp_path):
    base = load_denoiser(bases["plain"][0])
    for source in (bases["plain"][2], Path(bases["plain"][2]) / "pipeline", object()):
        check_trained_beside(source, "guide", base, tuned=False)


def test_noise_is_the_same_if_scales_and_times_are():
    different = [VP(), VP(schedule="cosine"), RectifiedFlow(), EDM(), EDM(sigma_max=40.0)]
    for number, one in enumerate(different):
        assert same_noise(one, one)
        assert not any(same_noise(one, other) for other in different[:number])


def test_models_of_noise_of_different_laws_are_not_mixed():
    kernels = [None, StudentT(dimension=64), StudentT(dimension=32)]
    light, heavy, heavier = (denoiser(None, process=EDM(kernel=kernel), kind="edm") for kernel in kernels)
    check_beside(heavy, heavy, "weak")
    for one, other in [(light, heavy), (heavy, light), (heavy, heavier)]:
        with pytest.raises(ValueError, match="`weak`: it differs in the law of its noise"):
            check_beside(one, other, "weak")


def test_models_of_other_latents_or_captions_are_not_mixed():
    def latents(**config):
        net = UNet2DModel(
            sample_size=4, in_channels=4, out_channels=4, block_out_channels=(8,), norm_num_groups=4,
            down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), layers_per_block=1,
        )  # fmt: skip
        made = Denoiser(net, VP(), "v", Latents(AutoencoderKL(latent_channels=4, **VAE, **config)))
        made.check_shape((3, 8, 8))
        return made

    ours, mean = latents(scaling_factor=0.5), dict(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    for same in (ours, latents(scaling_factor=0.5), latents(scaling_factor=0.5, **mean)):
        check_beside(same, ours, "weak")
    for other in (latents(scaling_factor=0.6), latents(scaling_factor=0.5, shift_factor=0.25)):
        with pytest.raises(ValueError, match="`weak`: it differs in a space of latents"):
            check_beside(other, ours, "weak")
    kin = latents(scaling_factor=0.5)
    kin.space.__class__ = type("OtherLatents", (Latents,), {})
    with pytest.raises(ValueError, match="`weak`: it differs in a space of latents"):
        check_beside(kin, ours, "weak")
    one, other, again = denoiser(None), denoiser(None), denoiser(None)
    kinds = (StableDiffusion, StableDiffusionXL, StableDiffusion)
    one.text, other.text, again.text = (kind.__new__(kind) for kind in kinds)
    check_beside(again, one, "weak")
    with pytest.raises(ValueError, match="`weak`: it differs in the family of text-to-image networks"):
        check_beside(other, one, "weak")


def denoiser(classes: int | None, of_data: int = 0, process: Process = VP(), kind: Kind = "v") -> Denoiser:  # noqa: B008
    torch.manual_seed(0)
    made = Denoiser(MLP(num_class_embeds=classes, width=8), process, kind)
    made.check_shape((2, 1, 1))
    made.conditioning.classes_of_data = of_data
    return made


def test_models_that_are_mixed_have_the_same_classes():
    for ours, theirs in [((4, 3), (4, 3)), ((4, 0), (4, 3)), ((4, 3), (None, 0)), ((3, 3), (3, 0))]:
        check_beside(denoiser(*theirs), denoiser(*ours), "weak")
    for ours, theirs in [((4, 3), (6, 5)), ((4, 0), (6, 0)), ((6, 3), (6, 5)), ((5, 5), (3, 3))]:
        with pytest.raises(ValueError, match="`weak`: it has .* classes and the model that is sampled"):
            check_beside(denoiser(*theirs), denoiser(*ours), "weak")
    check_beside(denoiser(6, 5), denoiser(4, 3), "other", own_classes=True)


def test_a_classifier_knows_the_classes_of_a_denoiser_that_takes_some():
    guide = Guide(Bent(VP(), 3), VP())
    guide.check_shape((2, 1, 1))
    for fits in (denoiser(4, 3), denoiser(3, 3), denoiser(4), denoiser(3), denoiser(None), denoiser(None, 5)):
        check_classes(guide, fits, "classifier")
    for other in (denoiser(6, 5), denoiser(3, 2), denoiser(6), denoiser(2)):
        with pytest.raises(
            ValueError, match="`classifier` was trained on 3 classes, and the model that is sampled has"
        ):
            check_classes(guide, other, "classifier")


def test_a_plugged_guide_is_no_run_of_another_method_and_guides_by_itself(bases, tmp_path):
    base = bases["classes"][0]
    run = trained("noisy_classifier", tmp_path / "classifier")
    with pytest.raises(ValueError, match="was trained by NoisyClassifier, and a run of `fit plug_guide` is needed"):
        Plugged(run)
    guide = trained("plug_guide", tmp_path / "guide", init=Path(base))
    with pytest.raises(ValueError, match="all guide by the condition, and would guide each other"):
        Sampler(base)(2, 2, using=[Plugged(guide)], guidance=3.0)
    with pytest.raises(ValueError, match="`label=10`"):
        Sampler(base)(2, 2, using=[Plugged(guide)], labels=[10])
