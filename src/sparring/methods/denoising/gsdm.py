"""GSDM: graphically structured diffusion models (Weilbach et al., arXiv 2210.11633).

Status: proven; with the graph 0.997 of Sudokus are solved and 0.60 sorted, without it none (docs/results/training.md).

The variables of a problem are tokens, and attention is masked by its graphical model: two variables see each other if a
factor of the problem holds both. Variables that are known are put in clean at every step. Fake: the one-step
prediction; there is no discriminator. Paper: the mask, the marks of known variables, x_0 with a softmax of discrete
ones, squared errors; the graphs of sorting and Sudoku, and more. Ours: Sudoku of 4x4 cells, whose graph has an edge if
two cells share a row, a column or a box; sorting of uniform numbers; sizes; the process of the setting.
"""

from sparring.data import Draws, ImageData, Sorting, Sudoku
from sparring.generators import Denoiser, Generator
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.method import held_out

MEASURED = 500


class GSDM(Diffusion):
    """Denoising training on problems with a graph, which counts what it solves. Its network has the graph.

    Args:
        generator: the denoiser to train; of a network that takes puzzles, such as `GraphTransformer`.
        times: distribution of the noise level; the process's own when None.
        weighting: weight of the squared x0-error over log-SNR; None: equal weight on the network's own output.
    """

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """Share of held-out problems that are `solved`, as the data counts it; of Sudoku also those `as_known`."""
        assert isinstance(generator, Denoiser)
        if not isinstance(data, Sudoku | Sorting):
            return {}
        batch = held_out(data, draws, MEASURED)
        found = generator.generate(
            generator.stepper(self.sampler),
            self.sample_steps,
            latents=draws.normal(tuple(batch.images.shape)),
            condition=batch.source,
        )
        assert batch.source is not None
        return data.counted(found, batch.images, batch.source)
