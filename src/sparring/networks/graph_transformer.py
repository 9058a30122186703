"""A transformer of variables, each of which looks only at its neighbours in a graph."""

from collections.abc import Sequence
from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn

from sparring.data import sorting, sudoku


class GraphTransformer(ModelMixin, ConfigMixin):
    """`net(x, time, source=puzzle)`: the expected values of variables, for images [B, 1, variables, values].

    A row is a variable, one token; `edges` says which tokens it attends to. Variables that the source knows are put in
    clean, are marked by a learned vector, and are given back as they are. Of the others the output is
    `2 softmax - 1`, the expected row of +1 and -1, or, of continuous ones, a number in the first column. Source:
    Weilbach et al., graphically structured diffusion models (arXiv 2210.11633); layers as in torch, sizes are ours.

    Args:
        variables: Rows.
        values: Columns.
        edges: [variables, variables] as lists of 0 and 1: the graphical model, made symmetric and with every variable
            its own neighbour. None: those of `Sudoku`; "sorting": those of `Sorting`.
        continuous: The variables that are numbers; of "sorting" always those of the problem.
        mask: What attention is masked by: the "graph"; "full", nothing; "self", each variable sees itself only;
            "random", the graph with its variables mixed up.
        width: Of a token.
        heads: Of the attention; they divide the width.
        blocks: Layers; information goes one edge a layer.
        places: Each variable has a learned vector of its own; off, only the mask tells them apart.

    Raises:
        ValueError: Edges that do not fit the variables, or an unknown mask.
    """

    allowed: Tensor
    used: Tensor

    @register_to_config
    def __init__(
        self,
        variables: int = 16,
        values: int = 4,
        edges: list[list[int]] | Literal["sorting"] | None = None,
        continuous: Sequence[int] = (),
        mask: Literal["graph", "full", "self", "random"] = "graph",
        width: int = 64,
        heads: int = 4,
        blocks: int = 4,
        places: bool = True,
    ) -> None:
        super().__init__()
        if edges is None:
            edges = sudoku.graph().tolist()
        elif edges == "sorting":
            n = sorting.numbers_of(variables)
            edges, continuous = sorting.graph(n).tolist(), sorting.continuous(n)
        if isinstance(edges, str) or len(edges) != variables or any(len(row) != variables for row in edges):
            raise ValueError(f"`edges` must be sorting, or {variables} lists of {variables} numbers, for `variables`")
        if mask not in ("graph", "full", "self", "random") or width % (2 * heads):
            raise ValueError(f"`mask={mask}` is graph, full, self or random; `width={width}` a multiple of 2 heads")
        own, given = torch.eye(variables, dtype=torch.bool), torch.tensor(edges).bool()
        model = given | given.T | own
        order = torch.randperm(variables, generator=torch.Generator().manual_seed(0))
        masks = {"graph": model, "full": torch.ones_like(model), "self": own, "random": model[order][:, order]}
        self.register_buffer("allowed", masks[mask])
        used = torch.ones(variables, values)
        used[list(continuous), 1:] = 0
        self.register_buffer("used", used, persistent=False)
        self.read_in = nn.Linear(values, width)
        self.observed = nn.Parameter(0.02 * torch.randn(width))
        self.place_codes = nn.Parameter(0.02 * torch.randn(variables if places else 1, width))
        self.time_steps = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(blocks)
        )
        self.read_out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, values))

    def forward(self, x: Tensor, time: Tensor | float, source: Tensor) -> Tensor:
        """The expected x_0 [B, 1, variables, values] for x at times (a number or [B]) and puzzles of the shape of x.

        Rows of a puzzle that are 0 are unknown.
        """
        values = source[:, 0].to(x)
        known = (values != 0).any(2, keepdim=True)
        times = torch.as_tensor(time, device=x.device).expand(len(x))
        told = self.time_embedding(self.time_steps(times).to(x.dtype))
        tokens = self.read_in(torch.where(known, values, x[:, 0] * self.used)) + self.place_codes + told[:, None]
        tokens = tokens + known * self.observed
        for block in self.layers:
            tokens = block(tokens, src_mask=~self.allowed)
        output = self.read_out(tokens)
        expected = torch.where(self.used.all(1, keepdim=True), 2 * output.softmax(2) - 1, output * self.used)
        return torch.where(known, values, expected)[:, None]
