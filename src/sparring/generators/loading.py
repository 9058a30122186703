"""Generators from folders: what `--init`, `sample` and `evaluate` read."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch

from sparring.generators.bridge import Bridge
from sparring.generators.denoiser import Denoiser
from sparring.generators.families import family_of, family_of_class
from sparring.generators.families.family import TOKENIZERS
from sparring.generators.generator import Generator
from sparring.generators.guide import Guide
from sparring.generators.joint import JointDenoiser
from sparring.generators.labels import OWN_NETWORKS
from sparring.generators.latent import LatentGenerator
from sparring.generators.own import CONFIG, read_own
from sparring.generators.pipeline import OWN
from sparring.generators.start import Start, StudentTStart
from sparring.networks.latent_slot import LatentSlot
from sparring.networks.loading import first_line, load_network
from sparring.networks.wavelet import HaarWavelet
from sparring.process import FlowBySize, Latents, StudentT, from_scheduler, takes_variance, walked
from sparring.process.space import space_of
from sparring.runs import RunFolder

WORD_START = "▁"  # which SentencePiece always has


def load_generator(folder: str | Path, allow: Sequence[str] = ()) -> Generator:
    """What a run made, or a diffusers pipeline folder.

    Args:
        folder: run of sparring, its `pipeline/`, or a diffusers pipeline folder.
        allow: further packages whose networks the folder may name.

    Raises:
        ValueError: nothing there, of no known kind, or damaged.
    """
    path = pipeline_of(folder)
    if not (path / CONFIG).is_file():
        return load_pipeline(folder)[0]
    net, settings = read_own(path, allow)
    try:
        if "bridge" in settings:
            return bridge_of(net, settings)
        if "scheduler" not in settings:
            return LatentGenerator(
                net, settings["latent_dim"], settings["num_classes"], settings.get("prior"), settings.get("time", False)
            )
        scheduler = settings["scheduler"]
        scheduler = getattr(diffusers, scheduler["_class_name"]).from_config(scheduler)
        process, prediction = from_scheduler(scheduler)
        if "degrees" in settings:
            process.kernel = StudentT(dimension=settings["degrees"])
        if settings.get("guide"):
            guide = Guide(net, process, settings.get("channels"))
            guide.check_shape(tuple(settings["image_shape"]))
            return guide
        if settings.get("joint"):
            denoiser: Denoiser = JointDenoiser(net, process)  # type: ignore[arg-type]
        else:
            dropout, own_source = settings["condition_dropout"], settings.get("prior")
            denoiser = Denoiser(net, process, prediction, condition_dropout=dropout, own_source=own_source)
        denoiser.own_scheduler, denoiser.learned_variance = scheduler, takes_variance(scheduler)
        tell(denoiser, folder)
        if settings["image_shape"] is not None:
            denoiser.check_shape(tuple(settings["image_shape"]))
        return denoiser
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path / CONFIG} is damaged ({type(error).__name__}: {error})") from None


def bridge_of(net: Any, settings: dict[str, Any]) -> Bridge:
    """The bridge that `Bridge.save` wrote; its slot stands in the place of a prior."""
    made = Bridge(net, **settings["bridge"])
    made.slot.load_state_dict(settings["prior"].state_dict())
    if settings["image_shape"] is not None:
        made.check_shape(tuple(settings["image_shape"]))
    return made


def load_denoiser(folder: str | Path, frozen: torch.dtype = torch.float32, allow: Sequence[str] = ()) -> Denoiser:
    """The denoiser of a run or of a pipeline folder; see `load_generator` and `load_pipeline`."""
    if not (pipeline_of(folder) / CONFIG).is_file():
        return load_pipeline(folder, frozen)[0]
    generator = load_generator(folder, allow)
    if not isinstance(generator, Denoiser):
        raise ValueError(f"{folder} holds a {type(generator).__name__} and no denoiser")
    return generator


def opened(source: str | Path | Denoiser, allow: Sequence[str] = ()) -> Denoiser:
    """A denoiser as it is, or that of a run or pipeline folder.

    Raises:
        ValueError: what `load_denoiser` refuses.
    """
    return source if isinstance(source, Denoiser) else load_denoiser(source, allow=allow)


def holds_generator(folder: str | Path) -> bool:
    """Whether `load_generator` finds something to open in a folder that is no run."""
    return any((Path(folder) / name).is_file() for name in ("model_index.json", CONFIG))


def class_in(folder: str | Path) -> str:
    """The class of the pipeline in a run or a pipeline folder; "network without a pipeline" if it has none.

    Raises:
        ValueError: nothing there, or damaged.
    """
    path = pipeline_of(folder)
    if (path / CONFIG).is_file():
        return "network without a pipeline"
    name = read_index(path)["_class_name"]
    return name if isinstance(name, str) else name[-1]


def pipeline_of(folder: str | Path) -> Path:
    """The folder itself, or `pipeline/` in it if it is a run."""
    path = Path(folder)
    if (path / "config.yaml").is_file() and (path / "pipeline").is_dir():
        path = path / "pipeline"
    if not path.exists():
        on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", str(folder))
        first = (
            f" (a pipeline of the hub is downloaded first: hf download {folder} --local-dir FOLDER)" if on_hub else ""
        )
        raise ValueError(f"{folder} does not exist: give a run of sparring or a diffusers pipeline folder{first}")
    return path


def tell(denoiser: Denoiser, folder: str | Path) -> None:
    """What a run says of its denoiser beside its weights: classes and size of its data, and what it came from."""
    if pipeline_of(folder) != Path(folder):
        made_with = RunFolder(folder).read_config().get("made_with") or {}
        denoiser.conditioning.classes_of_data = made_with.get("classes") or 0
        denoiser.ancestors = made_with.get("ancestors") or ()
        shape = tuple(made_with.get("image_shape") or ())
        if denoiser.captioned and shape and shape != denoiser.image_shape:
            denoiser.check_shape(shape)  # a pipeline's configuration keeps the size that it was made for


def load_pipeline(folder: str | Path, frozen: torch.dtype = torch.float32) -> tuple[Denoiser, Any]:
    """The denoiser and the scheduler of a pipeline folder, or of a run's `pipeline/`.

    Known are pipelines of one UNet2DModel; of a DiT, with an autoencoder or without; and those of `families`.
    Code in a folder is never run.

    Args:
        folder: pipeline folder, or run.
        frozen: precision of the text encoders and the autoencoder; the network is read in float32.

    Raises:
        ValueError: nothing there, not a pipeline, a part that is missing or whose weights do not fit, or a pipeline
            whose network is of no known kind.
    """
    path = pipeline_of(folder)
    index = read_index(path)
    if "text_encoder" in index and isinstance(index["_class_name"], str):
        family_of_class(index["_class_name"])  # before its weights are read
    pipe = open_pipeline(path, index, frozen)
    net = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    if net is None:
        raise ValueError(f"{folder} is a {type(pipe).__name__} without a `unet` or `transformer`")
    if getattr(pipe, "vqvae", None) is not None:
        raise ValueError(f"{folder} is a {type(pipe).__name__}: an autoencoder with a codebook is unknown here")
    vae = getattr(pipe, "vae", None)
    text = family_of(pipe) if "text_encoder" in pipe.components else None
    space = None if vae is None else space_of(vae)
    channels = (net.config.in_channels, net.config.get("out_channels")) if text is None else text.channels(net)
    check_channels(net, channels, space, pipe.scheduler)
    process, prediction = from_scheduler(pipe.scheduler)
    if text is not None and pipe.scheduler.config.get("use_dynamic_shifting"):
        process = pipe.scheduler.by_size = FlowBySize(pipe.scheduler.config, text.mu, places=1)
    start = getattr(pipe, "start", None)
    if isinstance(start, StudentTStart):
        process.kernel = StudentT(dimension=start.config["dimension"])
    denoiser = Denoiser(net, process, prediction, space, text, start=start)
    if isinstance(process, FlowBySize):
        denoiser.see_size(denoiser.image_shape)
    denoiser.slot = getattr(pipe, "latent_slot", None)  # attached by the pipeline
    denoiser.time_slot = getattr(pipe, "time_slot", None)
    denoiser.own_scheduler = walked(pipe.scheduler)
    tell(denoiser, folder)
    denoiser.learned_variance = takes_variance(pipe.scheduler)
    return denoiser, pipe.scheduler


def read_index(path: Path) -> dict[str, Any]:
    """The model_index.json of a pipeline folder.

    Raises:
        ValueError: no such folder, or something else, with what would make a pipeline folder of it.
    """
    if path.is_file():
        raise ValueError(
            f"{path} is a single file: write it as a folder with StableDiffusionPipeline.from_single_file("
            f"{str(path)!r}).save_pretrained(FOLDER) (or StableDiffusionXLPipeline, StableDiffusion3Pipeline), and "
            "give FOLDER"
        )
    if (path / "model_index.json").is_file():
        try:
            index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} could not be opened as a diffusers pipeline ({first_line(error)})") from None
        if not isinstance(index, dict) or "_class_name" not in index:
            raise ValueError(f"{path} could not be opened as a diffusers pipeline: its model_index.json names no class")
        return index
    if (path / "pytorch_lora_weights.safetensors").is_file() or (path / "adapter_config.json").is_file():
        raise ValueError(
            f"{path} holds adapters (LoRA) and not their pipeline: open that, call load_lora_weights({str(path)!r}), "
            "fuse_lora() and unload_lora_weights(), save it with save_pretrained(FOLDER), and give FOLDER"
        )
    if (path.absolute().parent / "model_index.json").is_file():
        raise ValueError(f"{path} is one part of a pipeline: give the whole folder {path.absolute().parent}")
    if (path / "config.yaml").is_file():
        raise ValueError(
            f"{path} is a run whose network could not be kept: sample it in the program that made it, or give it "
            "attributes that are called like its arguments and train again"
        )
    parts = [name for name in ("unet", "transformer") if (path / name).is_dir()]
    lacks = f": it has a {parts[0]}/ and no model_index.json, which must lie beside it" if parts else ""
    raise ValueError(f"{path} is neither a run of sparring nor a diffusers pipeline folder{lacks}")


def open_pipeline(path: Path, index: dict[str, Any], frozen: torch.dtype) -> Any:
    """The pipeline of a folder; its networks in float32 (the denoising one) or `frozen`, every weight checked."""
    from sparring.generators.denoiser_pipeline import DenoiserPipeline

    cls = DenoiserPipeline if index["_class_name"] == [OWN, DenoiserPipeline.__name__] else None
    if cls is None:
        name = index["_class_name"]
        if not isinstance(name, str):
            raise ValueError(f"{path} is a pipeline with code of its own ({name[0]}.py), which is not run")
        cls = getattr(diffusers, name, None)
        if cls is None:
            raise ValueError(f"{path} is a {name}, which this version of diffusers does not have")
    parts: dict[str, Any] = {}
    for name, of in index.items():
        if name.startswith("_") or not (isinstance(of, list) and len(of) == 2):
            continue
        library, kind = of
        if library is None:
            parts[name] = None
            continue
        if not (path / name).is_dir():
            without = f", or put [null, null] in its place in {path / 'model_index.json'} to do without"
            optional = name in cls._optional_components
            raise ValueError(
                f"{path}: its part `{name}` ({kind}) is not there: download it{without if optional else ''}"
            )
        network = network_class(library, kind)
        if network is not None:
            dtype = torch.float32 if name in ("unet", "transformer") else frozen
            parts[name] = load_network(network, path / name, f"`{path / name}`", dtype)
    try:
        if cls is DenoiserPipeline:
            scheduler = getattr(diffusers, index["scheduler"][1])
            return DenoiserPipeline(scheduler.from_pretrained(path / "scheduler"), **parts)
        pipe = cls.from_pretrained(path, local_files_only=True, **parts)
    except Exception as error:  # whatever a damaged folder makes diffusers raise
        raise ValueError(f"{path} could not be opened as a diffusers pipeline ({first_line(error)})") from None
    for name in TOKENIZERS:
        check_vocabulary(getattr(pipe, name, None), path / name)
    return pipe


def check_vocabulary(tokenizer: Any, folder: Path) -> None:
    """Raises ValueError for a tokenizer that was read without its words, for which all captions would be alike."""
    if tokenizer is None:
        return
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
    special = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    if tokenizer.get_vocab().keys() <= special | {WORD_START}:
        raise ValueError(f"`{folder}` holds no vocabulary (tokenizer.json, vocab.json, spiece.model …): download it")


def network_class(library: str, kind: str) -> Any:
    """The class of a part if it is a network; None for tokenizers, schedulers and the like."""
    import transformers

    homes = {"diffusers": diffusers, "transformers": transformers}
    own = (*OWN_NETWORKS, LatentSlot, HaarWavelet, Start)
    homes |= {ours.__module__: sys.modules[ours.__module__] for ours in own}
    cls = getattr(homes.get(library) or getattr(diffusers.pipelines, library, None), kind, None)
    known = isinstance(cls, type) and issubclass(cls, (diffusers.ModelMixin, transformers.PreTrainedModel))
    return cls if known else None


def check_channels(net: Any, channels: tuple[int, int | None], space: Latents | None, scheduler: Any) -> None:
    """Raises ValueError if a network does not take what is diffused, or gives something else back.

    Args:
        net: the network.
        channels: that it takes and gives; None: as many.
        space: in which it works.
        scheduler: its own.
    """
    kind, (takes, gives) = type(net).__name__, channels
    gives = gives or takes
    diffused = takes if space is None else space.channels
    if takes != diffused:
        raise ValueError(
            f"{kind} takes {takes} channels and its autoencoder makes {diffused}: a network that sees more than the "
            "noisy image, as for inpainting, is unknown here"
        )
    if gives not in (takes, 2 * takes):
        raise ValueError(f"{kind} takes {takes} channels and gives {gives}: it must give as many, or twice as many")
    if takes_variance(scheduler) and gives == takes:
        raise ValueError(
            f"{type(scheduler).__name__} has variance_type={scheduler.config['variance_type']!r} and {kind} gives no "
            "variance (twice as many channels): write 'fixed_small' into scheduler/scheduler_config.json"
        )
