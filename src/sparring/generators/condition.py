"""What a network is conditioned on: class labels as they are, captions as embeddings."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextCondition:
    """Captions as a text-to-image network takes them; a batch of B rows that is cut and joined like a tensor.

    Attributes:
        tokens: [B, length, width] embedding of every token.
        pooled: [B, width] embedding of the whole caption (SDXL, SD3), or None.
        sizes: [B, 6] original height and width, top and left of the crop, height and width (SDXL), or None.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    sizes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Tensor) -> "TextCondition":
        return self.map(lambda x: x[rows])

    def map(self, change: Callable[[Tensor], Tensor]) -> "TextCondition":
        """The same with every tensor changed."""
        pooled = None if self.pooled is None else change(self.pooled)
        return TextCondition(change(self.tokens), pooled, None if self.sizes is None else change(self.sizes))

    def arguments(self, dtype: torch.dtype) -> dict[str, Any]:
        """The network's own keyword arguments."""
        kwargs: dict[str, Any] = {"encoder_hidden_states": self.tokens.to(dtype)}
        if self.sizes is not None and self.pooled is not None:
            kwargs["added_cond_kwargs"] = {"text_embeds": self.pooled.to(dtype), "time_ids": self.sizes}
        elif self.pooled is not None:
            kwargs["pooled_projections"] = self.pooled.to(dtype)
        return kwargs


Condition = Tensor | TextCondition | None


def concatenate(first: Condition, second: Condition) -> Condition:
    """The rows of one condition, then those of another of the same kind."""
    if isinstance(first, TextCondition) and isinstance(second, TextCondition):
        pooled = None if first.pooled is None or second.pooled is None else torch.cat([first.pooled, second.pooled])
        sizes = None if first.sizes is None or second.sizes is None else torch.cat([first.sizes, second.sizes])
        return TextCondition(torch.cat([first.tokens, second.tokens]), pooled, sizes)
    assert isinstance(first, Tensor)
    assert isinstance(second, Tensor)
    return torch.cat([first, second])


def select_rows(mask: Tensor, first: Condition, second: Condition) -> Condition:
    """Row by row `first` where the [B] mask is true, and `second` elsewhere."""
    rows = torch.arange(len(mask), device=mask.device)
    both = concatenate(first, second)
    assert both is not None
    return both[torch.where(mask, rows, rows + len(rows))]


def in_turn(labels: list[int] | None, total: int | None, n: int, device: torch.device) -> Tensor:
    """[n] class numbers: the given ones, or all `total` of them, in turn.

    Raises:
        ValueError: a label that is none of the classes.
    """
    chosen = labels if labels is not None else list(range(total or 1))
    for label in chosen:
        if label < 0 or (total is not None and label >= total):
            raise ValueError(f"`label={label}`: the network has the classes 0 to {(total or 1) - 1}")
    return torch.tensor([chosen[i % len(chosen)] for i in range(n)], device=device)


class Prompts:
    """Captions to embeddings, by a diffusers text-to-image pipeline's own `encode_prompt`.

    It is no module on purpose: the text encoders are never trained, averaged, sharded or saved in a checkpoint. Copies
    of a denoiser share it. The encoders follow the images to the device and compute in the precision of their weights.

    Args:
        pipe: StableDiffusionPipeline, StableDiffusionXLPipeline or StableDiffusion3Pipeline; its encoders are frozen.

    Raises:
        ValueError: another pipeline.
    """

    def __init__(self, pipe: Any):
        from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

        known = (StableDiffusionPipeline, StableDiffusionXLPipeline, StableDiffusion3Pipeline)
        if type(pipe) not in known:
            names = ", ".join(kind.__name__ for kind in known)
            raise ValueError(
                f"a {type(pipe).__name__} takes its captions in a way that is unknown here; known: {names}"
            )
        self.pipe = pipe
        self.wants_sizes = isinstance(pipe, StableDiffusionXLPipeline)
        encoders = [getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2", "text_encoder_3")]
        self.encoders: list[Any] = [encoder.eval().requires_grad_(False) for encoder in encoders if encoder is not None]
        self._empty: TextCondition | None = None

    def warn_of_cut(self, texts: list[str], what: str) -> None:
        """Warns once, with their number, of texts whose end no encoder sees; `what` they are called.

        A caption counts if every tokenizer has more tokens of it than its encoder takes: 77 of CLIP, 256 of SD3's T5.
        """
        parts = self.pipe.components
        names = [name for name in ("tokenizer", "tokenizer_2", "tokenizer_3") if parts.get(name) is not None]
        for_t5 = signature(self.pipe.encode_prompt).parameters.get("max_sequence_length")
        cut, limits = [True] * len(texts), []
        for name in names:
            tokenizer = parts[name]
            limits.append(for_t5.default if name == "tokenizer_3" and for_t5 else tokenizer.model_max_length)
            lengths = [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]] if texts else []
            cut = [before and length > limits[-1] for before, length in zip(cut, lengths, strict=True)]
        if any(cut):
            warnings.warn(
                f"{sum(cut)} of {len(texts)} {what} are longer than the {max(limits)} tokens that the text encoder "
                "takes: their ends are not seen",
                stacklevel=2,
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> "Prompts":
        return self

    @torch.no_grad()
    def __call__(self, texts: list[str], size: tuple[int, int], device: torch.device | str) -> TextCondition:
        """The condition of captions for images of `size` (height, width), which are whole and not crops."""
        tokens, _, pooled, _ = self._encoded(texts, device, guided=False)
        return TextCondition(tokens, pooled, self._sizes(len(texts), size, device))

    @torch.no_grad()
    def empty(self, like: TextCondition) -> TextCondition:
        """The condition of no caption, as the pipeline makes it for guidance; sizes are kept."""
        device, n = like.tokens.device, len(like)
        if self._empty is None or self._empty.tokens.device != device:
            _, tokens, _, pooled = self._encoded([""], device, guided=True)
            self._empty = TextCondition(tokens, pooled)
        empty = self._empty.map(lambda x: x.expand(n, *x.shape[1:]))
        return TextCondition(empty.tokens, empty.pooled, like.sizes)

    def _encoded(self, texts: list[str], device: torch.device | str, guided: bool) -> tuple[Any, Any, Any, Any]:
        """(tokens, tokens of no caption, pooled, pooled of no caption), with None where there is none."""
        for encoder in self.encoders:
            encoder.to(device)
        encode = self.pipe.encode_prompt
        further = {name: None for name in ("prompt_2", "prompt_3") if name in signature(encode).parameters}
        settings = dict(num_images_per_prompt=1, do_classifier_free_guidance=guided, **further)
        with torch.autocast(torch.device(device).type, enabled=False):
            found = encode(prompt=texts, device=torch.device(device), **settings)
        return (*found, None, None) if len(found) == 2 else found

    def _sizes(self, n: int, size: tuple[int, int], device: torch.device | str) -> Tensor | None:
        if not self.wants_sizes:
            return None
        return torch.tensor([*size, 0, 0, *size], dtype=torch.float32, device=device).expand(n, 6)
