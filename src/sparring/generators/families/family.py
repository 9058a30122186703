"""What has to be known of a text-to-image pipeline to train its network and to draw what it draws."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparring.data import ImageData
from sparring.generators.condition import TextCondition
from sparring.networks.adapters.lora import ATTENTION
from sparring.networks.device import lent
from sparring.networks.kept import Kept

TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")  # as pipelines call theirs
CAPTIONS_LOOKED_AT = 1000  # of a data set, for those that are cut (our choice)
NOTHING = b"\xff"  # under which no caption is kept: no text in UTF-8


class Family(ABC):
    """Captions to embeddings by a pipeline's own `encode_prompt`, and its network called as the pipeline calls it.

    It is no module on purpose: the text encoders are never trained, averaged, sharded or saved in a checkpoint. Copies
    of a denoiser share it. The encoders follow the images to the device and compute in the precision of their weights.

    Args:
        pipe: the pipeline; its text encoders are frozen.

    Attributes:
        pipelines: names of diffusers' classes of this family.
        part: what the pipeline calls the network that is trained.
        patch: side of the squares of latents that it sees as one place.
        images_first: whether images come before captions in a network that has both in one sequence.
        last: its last layer, whose input a discriminator may read.
        attention: endings of the names of its layers that get an adapter by default.
        filled: whether captions of different lengths are filled up to the longest of their batch.
        offload: whether the encoders leave the device when captions are embedded.
    """

    pipelines: ClassVar[tuple[str, ...]] = ()
    part: ClassVar[str] = "transformer"
    patch: ClassVar[int] = 1
    images_first: ClassVar[bool] = False
    last: ClassVar[str] = "proj_out"
    attention: ClassVar[tuple[str, ...]] = ATTENTION
    filled: ClassVar[bool] = False

    def __init__(self, pipe: Any):
        self.pipe = pipe
        encoders = [getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2", "text_encoder_3")]
        self.encoders: list[Any] = [encoder.eval().requires_grad_(False) for encoder in encoders if encoder is not None]
        self._empty: TextCondition | None = None
        self.kept: Kept | None = None
        self.offload = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "Family":
        return self

    # -- captions ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def encode(self, texts: list[str], device: torch.device) -> TextCondition:
        """The captions, as the pipeline embeds them; the encoders are on the device."""

    def encode_nothing(self, device: torch.device) -> TextCondition:
        """One row: no caption, as the pipeline embeds it for guidance."""
        return self.encode([""], device)

    def sizes(self, n: int, size: tuple[int, int], device: torch.device) -> Tensor | None:
        """What the network takes of images of `size` (height, width), for n of them; None: nothing."""
        return None

    def limits(self) -> dict[str, int]:
        """Tokens of a caption that are seen, by the name of the tokenizer."""
        names = [name for name in TOKENIZERS if getattr(self.pipe, name, None)]
        return {name: getattr(self.pipe, name).model_max_length for name in names}

    def default_length(self) -> int:
        """The most tokens that `encode_prompt` takes if it is not told."""
        return signature(self.pipe.encode_prompt).parameters["max_sequence_length"].default

    def written(self, text: str) -> str:
        """The caption as the tokenizer gets it: in a template, if there is one."""
        return text

    @torch.no_grad()
    def __call__(self, texts: list[str], size: tuple[int, int], device: torch.device | str) -> TextCondition:
        """The condition of captions for images of `size` (height, width), which are whole and not crops."""
        device = torch.device(device)
        contents = [text.encode() for text in texts]
        told = self._embedded(contents, lambda: self.encode([*texts], device), device)
        return told.with_sizes(self.sizes(len(texts), size, device))

    def _embedded(
        self, contents: list[bytes], encode: Callable[[], TextCondition], device: torch.device
    ) -> TextCondition:
        """What `encode` makes of captions, or what is kept of their contents."""

        def made() -> TextCondition:
            with lent(self.encoders, device, back=self.offload), torch.autocast(device.type, enabled=False):
                return encode()

        if self.kept is None:
            return made()
        mask = "mask" if self.filled else None
        return TextCondition(**self.kept(contents, lambda: made().tensors(), device, mask))

    def keep(self, folder: str) -> None:
        """Keeps embedded captions in a folder, and reads them there the next time."""
        tokenizers = [part for name in TOKENIZERS if (part := getattr(self.pipe, name, None)) is not None]
        words = [f"{part} {sorted(getattr(part, 'tokenizer', part).get_vocab().items())}" for part in tokenizers]
        self.kept = Kept(folder, type(self.pipe).__name__, *words, *self.encoders)

    @torch.no_grad()
    def empty(self, like: TextCondition) -> TextCondition:
        """The condition of no caption, as the pipeline makes it for guidance; sizes are kept."""
        device, n = like.tokens.device, len(like)
        if self._empty is None or self._empty.tokens.device != device:
            self._empty = self._embedded([NOTHING], lambda: self.encode_nothing(device), device)
        return self._empty.map(lambda x: x.expand(n, *x.shape[1:])).with_sizes(like.sizes)

    def warn_of_cut(self, texts: list[str], what: str) -> None:
        """Warns once, with their number, of texts whose end no encoder sees; `what` they are called.

        A caption counts if every tokenizer has more tokens of it than are seen: 77 of CLIP, 256 of SD3's T5.
        """
        cut, limits, written = [True] * len(texts), self.limits(), [self.written(text) for text in texts]
        for name, limit in limits.items():
            tokens = getattr(self.pipe, name)(written, verbose=False)["input_ids"] if texts else []
            lengths = [len(ids) for ids in tokens]
            cut = [before and length > limit for before, length in zip(cut, lengths, strict=True)]
        if any(cut):
            warnings.warn(
                f"{sum(cut)} of {len(texts)} {what} are longer than the {max(limits.values())} tokens that the text "
                "encoder takes: their ends are not seen",
                stacklevel=2,
            )

    def check(self, data: ImageData, name: str) -> None:
        """Raises ValueError if data for the network of this name has no captions; warns of those that are cut."""
        if not data.text:
            raise ValueError(
                f"{name} takes captions and `{data.name}` has none: name their column (--data.text_column), or "
                "for a folder of images give --data.captions true"
            )
        self.warn_of_cut(data.captions(min(len(data), CAPTIONS_LOOKED_AT)) or [], "captions of the data")

    def in_turn(self, prompts: list[str] | None, n: int) -> list[str]:
        """n prompts, the given ones in turn; raises ValueError if there are none."""
        if not prompts:
            raise ValueError('`prompt`: a text-to-image pipeline needs captions: give --prompt "a red apple"')
        self.warn_of_cut(prompts, "prompts")
        return [prompts[i % len(prompts)] for i in range(n)]

    # -- the network ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def output(self, net: nn.Module, x: Tensor, time: Tensor, condition: TextCondition) -> Tensor:
        """What the pipeline gives its scheduler: the network's output [B, c, h, w], or with a learned variance 2c.

        Args:
            net: the network, or a copy of it.
            x: [B, c, h, w] noisy latents, in the network's precision.
            time: [B] times of the scheduler, at least float32.
            condition: of the rows, in the network's precision.
        """

    def channels(self, net: Any) -> tuple[int, int]:
        """Channels of the latents that the network takes and gives."""
        return net.config.in_channels, net.config.get("out_channels") or net.config.in_channels

    def renormed(self, guided: Tensor, told: Tensor) -> Tensor:
        """What the pipeline makes of outputs [B, c, h, w] after guidance, with those on the caption beside them."""
        return guided

    def shipped(self, scheduler: Any) -> Any:
        """The scheduler that the pipeline gets beside a tuned network: the one that its method made it for."""
        return scheduler

    def parts(self) -> dict[str, Any]:
        """The parts of the pipeline as they are shipped, by name."""
        return self.pipe.components

    # -- sizes ---------------------------------------------------------------------------------------------------------

    @property
    def pixels(self) -> int:
        """Side of the images, if the configuration of the network does not say."""
        return 1024

    def places(self, shape: tuple[int, int, int]) -> int:
        """Size of latents (c, h, w) as the shift of the sampler counts it: squares of 2x2."""
        return (shape[1] // 2) * (shape[2] // 2)

    def mu(self, places: int, num_steps: int) -> float:
        """The scheduler's `mu` for a size and a number of steps, if it has `use_dynamic_shifting`."""
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        config = self.pipe.scheduler.config
        sizes = (config["base_image_seq_len"], config["max_image_seq_len"])
        return calculate_shift(places, *sizes, config["base_shift"], config["max_shift"])
