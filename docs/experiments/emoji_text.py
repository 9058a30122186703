"""A small text-to-image pipeline from scratch: captioned emoji at 32x32, trained, then tuned by ADT and by its control.

    python docs/experiments/emoji_text.py --images DATA --weights WEIGHTS

DATA holds noto_emoji-64.parquet (columns image, text, codepoints), WEIGHTS the CIFAR-10 ResNets resnet20-12fca82f.th
and resnet56-4bfd9763.th. Emoji that share their first code point are all trained on or all held out. The pipeline is
a small Stable Diffusion: a VAE (trained first), a tokenizer of the captions, a random frozen text encoder, a U-Net
with cross-attention. The holdout's captions are sampled once each and measured against its images in the features of
ResNet-56 (the discriminator sees through ResNet-20) and in pixels. *match* says whether captions are followed: the
share of held-out images that are farther from a sample than the image of its own caption (0.5: captions are ignored).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from sparring.backbones import Backbone, CifarResNet, Pixels
from sparring.cli.main import main
from sparring.cli.terminal import quiet
from sparring.data import BatchStream, HubData
from sparring.metrics import Reference, extract
from sparring.runs.checkpoint import steps_in
from sparring.samplers import Sampler, save_images

SPLIT = {"holdout_share": 0.2, "group_column": "codepoints", "group_separator": "-"}
SIZES = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, projection_dim=128)
LENGTH = 32
SETTINGS = [("ddim", 10, 1.0), ("ddim", 10, 3.0), ("ddim", 5, 3.0), ("ddim", 10, 5.0), ("dpm", 10, 3.0)]


def make_pipeline(data: HubData, folder: Path, vae_steps: int) -> None:
    """Writes the pipeline with a trained autoencoder and an untrained U-Net."""
    torch.manual_seed(0)
    vae = trained_vae(data, vae_steps)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder(),
        tokenizer=tokenizer(data.captions(), folder.with_name("words")),
        unet=UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 64),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=SIZES["hidden_size"],
            attention_head_dim=4,
        ),
        scheduler=DDIMScheduler(
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            clip_sample=False,
            timestep_spacing="trailing",
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)


def trained_vae(data: HubData, steps: int) -> AutoencoderKL:
    """An autoencoder of 32x32 images with 4x16x16 latents, whose scale makes them unit variance."""
    vae: Any = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=32,
    )
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    stream = BatchStream(len(data), 32, seed=0)
    for step in range(steps):
        images, _ = data[stream.batch(step)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latents = vae.encode(images).latent_dist
            decoded = vae.decode(latents.sample()).sample
        loss = F.l1_loss(decoded.float(), images) + 1e-4 * latents.kl().float().mean() / latents.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"autoencoder {step}/{steps}  loss {loss.item():.3f}", file=sys.stderr)
    with torch.no_grad():
        vae.register_to_config(scaling_factor=1 / float(vae.encode(data.images(256)).latent_dist.mean.std()))
    return vae


def text_encoder() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            **SIZES, vocab_size=2000, max_position_embeddings=LENGTH, bos_token_id=0, eos_token_id=1, pad_token_id=1
        )
    )


def tokenizer(captions: list[str], folder: Path) -> Any:
    """Byte pairs of the captions, most of them whole words."""
    from tokenizers import CharBPETokenizer
    from transformers import CLIPTokenizer

    words = CharBPETokenizer(lowercase=True)
    words.train_from_iterator(captions, vocab_size=2000, min_frequency=1, special_tokens=["<|start|>", "<|end|>"])
    folder.mkdir(parents=True, exist_ok=True)
    words.save_model(str(folder))
    special = dict(bos_token="<|start|>", eos_token="<|end|>", pad_token="<|end|>", unk_token="<|end|>")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH, **special)


def fit(run: Path, arguments: list[str]) -> None:
    begun = ["--resume"] if steps_in(run / "checkpoints") else []
    if not (run / "report.html").is_file() and main(["fit", *arguments, "--out", str(run), *begun]) != 0:
        sys.exit(f"{run} failed")


def measure(run: Path, held: HubData, references: list[Reference], n: int) -> list[dict[str, Any]]:
    """Every setting of a run, on the first n captions; what is measured is kept beside it."""
    file = run / "measured.json"
    if file.is_file():
        return json.loads(file.read_text())
    found, sampler, captions = [], Sampler(run), held.captions()[:n]
    own = extract(references[0].features, held.images()[:n])
    for scheduler, calls, guidance in SETTINGS:
        images = sampler(n, calls, scheduler=scheduler, seed=0, prompts=captions, guidance=guidance).images
        line: dict[str, Any] = {"scheduler": scheduler, "nfe": calls, "guidance": guidance}
        for space in references:
            result = space.evaluate(images, pairs=0).to_json()
            line[space.name] = {key: result[key] for key in ("frechet", "precision", "recall", "floor")}
        line["match"] = match(extract(references[0].features, images), own)
        found.append(line)
        save_images(images[:64], run / "samples" / f"{scheduler}-{calls}-w{guidance:g}.png", scale=3)
    file.write_text(json.dumps(found, indent=1))
    return found


def match(fake: Tensor, real: Tensor) -> float:
    """Share of pairs (sample, real image) in which the real image is farther than that of the sample's own caption."""
    distance = torch.cdist(fake, real)
    return float((distance > distance.diagonal()[:, None]).sum() / (len(real) * (len(real) - 1)))


def table(measured: dict[str, list[dict[str, Any]]], space: str) -> str:
    heads = [f"{line['scheduler']} {line['nfe']} w{line['guidance']:g}" for line in next(iter(measured.values()))]
    rows = ["| arm | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(heads)]
    for arm, lines in measured.items():
        if space == "match":
            cells = [f"{line['match']:.3f}" for line in lines]
        else:
            cells = ["{frechet:.3g} ({precision:.2f}/{recall:.2f})".format(**line[space]) for line in lines]
        rows.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=Path("data"), help="folder of the parquet file")
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="folder of the ResNets")
    parser.add_argument("--out", type=Path, default=Path("runs/emoji"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the tuning; one base for all")
    parser.add_argument("--arms", nargs="*", default=["plain", "adt", "adt-paired"], help="these alone (all three)")
    parser.add_argument("--n", type=int, default=352, help="held-out captions that are sampled (352)")
    parser.add_argument("--steps", type=int, default=3000, help="of the base (3000)")
    parser.add_argument("--tuning-steps", type=int, default=200, help="of ADT (200)")
    options = parser.parse_args()
    quiet()
    parquet = options.images / "noto_emoji-64.parquet"
    data = HubData(str(parquet), text_column="text", size=32, **SPLIT)  # type: ignore[arg-type]
    held = data.holdout()
    start, base = options.out / "start", options.out / "base"
    if not (start / "model_index.json").is_file():
        make_pipeline(data, start, vae_steps=options.steps // 2)
    words = [f"--data={parquet}", "--data.text_column=text", "--data.size=32", "--trainer.precision=bf16"]
    words += [f"--data.{name}={value}" for name, value in SPLIT.items()]
    words += ["--trainer.batch_size=32", "--trainer.tracker=null", "--denoiser.condition_dropout=0.1"]
    first = ["--method.times=LogNormal", "--method.times.mean=-0.4", "--method.times.std=1.2"]
    optimizer = {"lr": 1e-3, "decay": "cosine", "warmup_steps": 100}
    first += [f"--trainer.generator_optimizer.{name}={value}" for name, value in optimizer.items()]
    trainer = {"ema_decay": 0.999, "ema_warmup": "true", "checkpoint_every": 500, "steps": options.steps}
    first += [f"--trainer.{name}={value}" for name, value in trainer.items()]
    fit(base, ["diffusion", *words, *first, "--init", str(start)])
    discriminator = [
        "--method.discriminator.init_args.backbone=CifarResNet",
        f"--method.discriminator.init_args.backbone.path={options.weights / 'resnet20-12fca82f.th'}",
        *("--method.scheduler=ddim", "--method.num_steps=10", "--method.guidance=3"),
        f"--trainer.steps={options.tuning_steps}",
    ]
    arms = {
        "plain": ["diffusion", "--on", "digits", f"--trainer.steps={options.tuning_steps * 8}"],
        "adt": ["adt", "--on", "digits", *discriminator],
        "adt-paired": ["adt", "--on", "digits", *discriminator, "--method.reference=paired"],
    }
    networks: list[Backbone] = [CifarResNet(path=str(options.weights / "resnet56-4bfd9763.th")), Pixels()]
    references = [Reference(held.images(), network, train=data.images()) for network in networks]
    measured = {"base": measure(base, held, references, options.n)}
    for seed in options.seeds:
        for name in options.arms:
            run = options.out / f"{name}-s{seed}"
            rate = ["--trainer.generator_optimizer.lr=2e-4", "--trainer.ema_decay=0.99", f"--trainer.seed={seed}"]
            fit(run, [*arms[name], *words, *rate, "--init", str(base)])
            measured[f"{name}, seed {seed}"] = measure(run, held, references, options.n)
    for space in (*(reference.name for reference in references), "match"):
        print(f"\n{space}; n = {options.n} held-out captions\n\n{table(measured, space)}")
