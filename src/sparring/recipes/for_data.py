"""The setting that suits the user's own data: network, backbone of a discriminator, and scale of the training."""

import json
from pathlib import Path
from typing import Any

import yaml

from sparring.recipes.compose import compose, names_data, names_network, read
from sparring.recipes.recipe import one_line

SMALL = 64  # pixels a side; up to here a tuning learns at the rates of the shipped settings
DROPOUT = 0.1  # of classes, so that guidance works
GAN_PARTS = ("latent_generator", "plain_discriminator", "step_discriminator")
GAN_VALUES = ("num_classes", "channels", "size")  # of the images, for networks that a recipe names itself


def suited(recipe: dict[str, Any], name: str, flags: list[str], init: str | None) -> tuple[dict[str, Any], list[str]]:
    """The recipe of a method on what suits the user's own data, and what was chosen, in words.

    Args:
        recipe: as composed without a setting, with the `data` that the user named.
        name: of the method, or its file.
        flags: overrides from the command line; a class that is named there is not chosen.
        init: run or pipeline folder that is tuned.

    Raises:
        ValueError: nothing suits the data, and which flag helps; data that cannot be opened.
    """
    if not names_data(recipe, flags) or (init is None and recipe.get("start") == "trained"):
        return recipe, []  # `build` refuses it
    missing = recipe["missing"].split("`")[1].split(", ") if "missing" in recipe else []
    parts = {part for part in (*GAN_PARTS, *GAN_VALUES) if part in missing}
    if "backbone" in missing and not named("backbone", "encoder", flags=flags):
        parts.add("backbone")
    if not (init is not None or "generator" in recipe or named("net", flags=flags) or names_network(read(name))):
        parts.add("denoiser")
    setting, chosen = setting_for(open_data(recipe.get("data"), of_data(flags)), init, parts)
    given = {"data": recipe["data"]} if "data" in recipe else {}
    return compose(name, tuned=init is not None, suited=setting) | given, chosen


def setting_for(data: Any, init: str | None, needs: set[str]) -> tuple[dict[str, Any], list[str]]:
    """What a setting for the data says, and what was chosen, in words.

    Args:
        data: the data set.
        init: run or pipeline folder that is tuned.
        needs: what has to be chosen: "denoiser", the network of one; "backbone", of a discriminator; `GAN_PARTS`;
            `GAN_VALUES`.
    """
    from sparring.networks.for_data import built, gan_settings, network_in_words, network_settings

    shape, classes = data.image_shape, data.num_classes
    made: dict[str, Any] = {"parts": {}}
    chosen = []
    if "denoiser" in needs:
        settings = network_settings(shape, classes)
        made["denoiser"] = {"net": settings}
        conditional = "num_class_embeds" in settings["init_args"]
        if conditional:
            made["denoiser"]["condition_dropout"] = DROPOUT
        words = network_in_words(built(settings), shape, classes if conditional else None)
        chosen.append(f"network: {words}{' + none' if conditional else ''}")
    if "backbone" in needs:
        from sparring.backbones.for_data import backbone_in_words, backbone_settings

        made["parts"]["backbone"] = backbone_settings(shape, classes)
        chosen.append(f"backbone: {backbone_in_words(made['parts']['backbone'])}")
    if needs & {*GAN_PARTS, *GAN_VALUES}:
        shape = shape if init is None else diffused_shape(Path(init), shape)
        made["parts"] |= gan_settings(shape, classes)
        for part in [part for part in GAN_PARTS if part in needs]:
            of_part = made["parts"][part]["init_args"]["net"]
            conditional = of_part["init_args"].get("num_classes") is not None
            words = network_in_words(built(of_part), shape, classes if conditional else None)
            chosen.append(f"{part.split('_')[1]}: {words}")
    shape = data.image_shape
    if max(shape[1:]) <= SMALL and (init is None or of_pixels(Path(init))):
        made["trainer"] = scale(max(shape[1:]), shape[0], init is not None)
    return made, chosen


SCALES: list[tuple[int, int, int, float, float, int, float, float]] = [
    # up to this size: steps, batch, rate, EMA; steps, rate and EMA of a tuning
    (1, 2000, 256, 1e-3, 0.998, 300, 5e-4, 0.99),
    (8, 2000, 128, 2e-3, 0.998, 300, 5e-4, 0.99),
    (16, 4000, 128, 2e-3, 0.999, 600, 2e-4, 0.995),
    (32, 5000, 64, 1e-3, 0.999, 600, 2e-4, 0.995),
    (64, 10000, 32, 5e-4, 0.999, 1000, 1e-4, 0.995),
]


def scale(size: int, channels: int, tuned: bool) -> dict[str, Any]:
    """Settings of the trainer for images of `size` pixels a side, after the shipped settings; between them our choice.

    Args:
        size: the longer side; 1: points.
        channels: of the images; for colour images heads learn on a pretrained backbone, and more slowly.
        tuned: from a trained start.
    """
    steps, batch, rate, ema, *tuning = next(row for limit, *row in SCALES if size <= limit)
    heads = {"lr": 2e-4 if channels == 3 else 1e-3, "betas": [0.5, 0.999]}
    made: dict[str, Any] = {"batch_size": batch, "discriminator_optimizer": heads}
    if size == 1:
        made["num_samples"] = 1000
    if size > 8:
        made["precision"] = "bf16"
    if tuned:
        optimizer = {"lr": tuning[1], "betas": [0.5, 0.99], "decay": "cosine"}
        return made | {"steps": tuning[0], "generator_optimizer": optimizer, "ema_decay": tuning[2]}
    optimizer = {"lr": rate, "decay": "cosine", "warmup_steps": 100}
    return made | {"steps": steps, "generator_optimizer": optimizer, "ema_decay": ema, "ema_warmup": True}


def of_pixels(folder: Path) -> bool:
    """Whether a run or pipeline folder has neither an autoencoder nor text encoders."""
    files = [folder / "pipeline" / "model_index.json", folder / "model_index.json"]
    found = next((file for file in files if file.is_file()), None)
    try:
        parts = {} if found is None else json.loads(found.read_text(encoding="utf-8"))
    except ValueError:  # whoever opens the pipeline says so
        return False
    return all(parts.get(name) in (None, [None, None]) for name in ("vae", "text_encoder"))


def diffused_shape(folder: Path, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(c, h, w) of what a run or pipeline folder diffuses for images (C, H, W): latents, if it has an AutoencoderKL."""
    files = [folder / "pipeline" / "vae" / "config.json", folder / "vae" / "config.json"]
    found = next((file for file in files if file.is_file()), None)
    known = {} if found is None else json.loads(found.read_text(encoding="utf-8"))
    if known.get("_class_name") != "AutoencoderKL":
        return image_shape
    factor = 2 ** (len(known["block_out_channels"]) - 1)
    return known["latent_channels"], image_shape[1] // factor, image_shape[2] // factor


def open_data(section: dict[str, Any] | None, flags: list[str]) -> Any:
    """The data set of a recipe's section and the flags laid over it."""
    from jsonargparse import ArgumentParser

    from sparring.data import ImageData

    options = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    options.add_argument("--config", action="config")
    options.add_subclass_arguments(ImageData, "data", required=True)
    config = [] if section is None else [f"--config={yaml.safe_dump({'data': section})}"]
    try:
        return options.instantiate(options.parse_args([*config, *flags])).data
    except Exception as error:  # jsonargparse raises many kinds
        raise ValueError(one_line(error)) from None


def of_data(flags: list[str]) -> list[str]:
    """The flags that are about the data, each with the words that follow it."""
    found, ours = [], False
    for flag in flags:
        if flag.startswith("--"):
            ours = flag.partition("=")[0].partition(".")[0] == "--data"
        if ours:
            found.append(flag)
    return found


def named(*parts: str, flags: list[str]) -> bool:
    """Whether a flag names the class of a part: `--method.discriminator.backbone DINOv2`, `--denoiser.net=…`."""
    names = [flag.partition("=")[0].removesuffix(".class_path") for flag in flags if flag.startswith("--")]
    return any(name.rpartition(".")[2] in parts for name in names)
