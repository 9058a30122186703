"""`--denoiser.cache`: what frozen encoders made is read again, and everything is bit for bit what it is without."""

import shutil

import pytest
import torch
from captioned_runs import method
from safetensors.torch import load_file
from small_runs import AdamW, Trainer, assert_same_checkpoint
from tiny_families import FAMILIES, SIZES
from tiny_pipelines import Captioned

from sparring.cli.main import main
from sparring.data import Draws
from sparring.generators import Pretrained
from sparring.generators.condition import TextCondition

WORDS = ["a red apple", "zebra"]


def keeps(denoiser):
    return [part.kept for part in (denoiser.space, denoiser.text) if part.kept is not None]


def embedded(denoiser, images):
    noise = Draws(seed=1).normal((len(images), *denoiser.latent_shape(tuple(images.shape[1:]))))
    return denoiser.space.encode(images, noise), denoiser.text(WORDS, tuple(images.shape[2:]), "cpu")


def same(ones, others):
    for one, other in zip(ones, others, strict=True):
        if isinstance(one, TextCondition):
            assert one.tensors().keys() == other.tensors().keys()
            same(one.tensors().values(), other.tensors().values())
        else:
            assert (one.dtype, one.stride()) == (other.dtype, other.stride())  # by which kernels are chosen
            assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["qwen_image", "z_image"])
def test_captions_of_other_lengths_are_kept_without_what_filled_them_up(tiny, tmp_path, kind):
    texts = ["a", "a red apple on a table", "zebra"]
    plain = Pretrained(str(tiny(kind))).text
    kept = Pretrained(str(tiny(kind)), cache=str(tmp_path)).text
    kept(texts, (16, 16), "cpu")
    lengths = sorted(load_file(file)["mask 0"].numel() for file in tmp_path.rglob("*.safetensors"))
    assert len(set(lengths)) == 3
    for some in (["zebra", "zebra", "a"], [*reversed(texts)], ["a", "a", "a"]):  # beside others, filled up anew
        same([kept(some, (16, 16), "cpu")], [plain(some, (16, 16), "cpu")])
    assert (kept.kept.made, kept.kept.read) == (3, 9)


@pytest.mark.parametrize(
    ("kind", "frozen"), [("sd15", "bf16"), *((kind, "fp32") for kind in ("sdxl", "sd3", *FAMILIES))]
)
def test_what_is_read_is_what_is_made(tiny, tmp_path, kind, frozen):
    size = SIZES.get(kind, 32)
    images = Draws(seed=0).normal((2, 3, size, size)).clamp(-1, 1)
    plain = embedded(Pretrained(str(tiny(kind)), frozen=frozen), images)
    for turn in range(2):
        denoiser = Pretrained(str(tiny(kind)), frozen=frozen, cache=str(tmp_path / "kept"))
        assert len(keeps(denoiser)) == 2
        same(embedded(denoiser, images), plain)
        assert [(kept.made, kept.read) for kept in keeps(denoiser)] == [(0, 2) if turn else (2, 0)] * len(
            keeps(denoiser)
        )
        if turn:  # a mirrored image is another one
            same(
                embedded(denoiser, images.flip(-1))[:1],
                embedded(Pretrained(str(tiny(kind)), frozen=frozen), images.flip(-1))[:1],
            )
            assert denoiser.space.kept.made == 2


def test_other_weights_are_other_rows(tiny, tmp_path):
    images = Draws(seed=0).normal((2, 3, 32, 32)).clamp(-1, 1)
    embedded(Pretrained(str(tiny("sd15")), cache=str(tmp_path)), images)
    denoiser = Pretrained(str(tiny("sd15")))
    for part in (denoiser.space.vae, *denoiser.text.encoders):
        with torch.no_grad():
            next(part.parameters()).mul_(2)
    plain = embedded(denoiser, images)
    denoiser.keep(str(tmp_path))
    same(embedded(denoiser, images), plain)
    assert all(kept.read == 0 for kept in keeps(denoiser))


@pytest.mark.parametrize(("kind", "recipe"), [("sd15", "adt"), ("qwen_image", "diffusion")])
def test_a_run_is_the_same_with_and_without(tiny, tmp_path, kind, recipe):
    def run(name, cache=None):
        made = method(tiny(kind), recipe)
        made.sample_steps = 2
        if cache is not None:
            made.generator.keep(str(cache))
        rate = AdamW(lr=1e-3)
        settings = dict(steps=4, batch_size=4, accumulation=2, num_samples=1, tracker=None, generator_optimizer=rate)
        return Trainer(made, Captioned(), out=tmp_path / name, **settings).fit(), keeps(made.generator)

    whole, _ = run("plain")
    for name in ("first", "second"):
        folder, kept = run(name, tmp_path / "kept")
        assert_same_checkpoint(whole, folder, 4)
        assert all(one.read > 0 for one in kept)
    assert kept[0].made == 0  # latents: the second run makes none


def test_a_run_is_the_same_with_encoders_that_leave(tiny, tmp_path):
    """There is no other device here, so that each of their moves makes copies on this one."""

    def run(name, offload):
        made, copies = method(tiny("sd15"), "adt"), []
        made.sample_steps, parts = 2, [made.generator.space, made.generator.text]
        for part, net in zip(parts, [made.generator.space.vae, made.generator.text.encoders[0]], strict=True):
            part.offload, at_home = offload, next(net.parameters()).data_ptr()
            net.to = lambda device, net=net: copies.append(net._apply(torch.clone))
        rate = AdamW(lr=1e-3)
        settings = dict(steps=2, batch_size=4, accumulation=2, num_samples=1, tracker=None, generator_optimizer=rate)
        folder = Trainer(made, Captioned(), out=tmp_path / name, **settings).fit()
        assert copies
        assert (next(net.parameters()).data_ptr() == at_home) == offload
        return folder

    assert_same_checkpoint(run("stay", False), run("leave", True), 2)


def test_what_is_damaged_or_cannot_be_kept_is_one_line(tiny, tmp_path, capsys):
    images = Draws(seed=0).normal((2, 3, 32, 32)).clamp(-1, 1)
    denoiser = Pretrained(str(tiny("sd15")), cache=str(tmp_path / "kept"))
    embedded(denoiser, images)
    for file in (tmp_path / "kept").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"`cache=.*kept`: .*\.safetensors cannot be read .*: delete it"):
        embedded(denoiser, images)
    shutil.rmtree(tmp_path / "kept")
    (tmp_path / "kept").touch()
    with pytest.raises(ValueError, match=r"`cache=.*kept` cannot be written"):
        embedded(denoiser, images)
    base = str(tmp_path / "base")
    assert (
        main(["fit", "diffusion", "--on", "tiny", "--out", base, "--trainer.steps=1", "--trainer.num_samples=1"]) == 0
    )
    tuned = ["fit", "diffusion", "--on", "tiny", "--init", base, "--out", str(tmp_path / "tuned")]
    assert main([*tuned, "--denoiser.cache", str(tmp_path / "other")]) == 2
    assert "so that nothing is encoded; leave it out" in capsys.readouterr().err
