"""LoRA: low-rank adapters (Hu et al., arXiv 2106.09685), made by peft."""

from torch import nn

from sparring.networks.adapters.tuning import Tuning, names_ending_in, no_match

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""diffusers' names of the projections of an attention layer; the last four are the text stream of SD3."""


ADAPTER = "default"


class LoRA(Tuning):
    """Low-rank adapters: W x becomes W x + (alpha / rank) B A x, and only A and B are trained (Hu et al., 2106.09685).

    B starts at 0. Made by peft; `Trainer` ships the weights with the adapters multiplied into them, and the adapters by
    themselves if diffusers' pipeline can load them.

    Args:
        rank: of B A.
        alpha: scale of the adapters times rank; rank when None.
        targets: endings of the names of the linear and convolutional layers that get one, such as [to_q, to_v]. None:
            the projections of attention layers; of a network without attention, its convolutions.
        ranks: of layers by their whole names, if it is another; their scale is 1 if no alpha is given.

    Attributes:
        attention: endings of the names of those projections.
    """

    def __init__(
        self,
        *,
        rank: int = 16,
        alpha: float | None = None,
        targets: list[str] | None = None,
        ranks: dict[str, int] | None = None,
    ):
        if rank < 1:
            raise ValueError(f"`rank={rank}` must be at least 1")
        if alpha is not None and not alpha > 0:
            raise ValueError(f"`alpha={alpha}` must be positive: at 0 the adapters would do nothing")
        self.rank = rank
        self.alpha = alpha
        self.targets = targets
        self.attention: tuple[str, ...] = ATTENTION
        self.ranks = ranks or {}

    def apply(self, net: nn.Module) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        net.requires_grad_(False)
        scale = self.rank if self.alpha is None else self.alpha
        layers = self.layers(net)
        own = {f"^{name}$": rank for name, rank in self.ranks.items()}
        scales = own if self.alpha is None else {}
        config = LoraConfig(
            r=self.rank,
            lora_alpha=scale,  # type: ignore[arg-type]
            target_modules=layers,
            rank_pattern=own,
            alpha_pattern=scales,
        )
        inject_adapter_in_model(config, net, ADAPTER)
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # beside a base in half precision, too

    def layers(self, net: nn.Module) -> list[str]:
        """Names of the layers that get an adapter."""
        names = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
        found = names_ending_in(names, self.targets or self.attention)
        if not found and self.targets is None:
            found = [name for name, layer in names.items() if isinstance(layer, nn.Conv2d)]
        if not found:
            raise no_match(f"`targets={self.targets}`", "linear or convolutional layer", net, names, self.targets or [])
        return found
