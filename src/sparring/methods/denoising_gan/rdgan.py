"""RDGAN: a robust diffusion GAN by semi-unbalanced optimal transport (Dao et al., arXiv 2311.17101).

Status: no gain over DDGAN, on the ring and with outliers among digits (docs/results/gans.md).

A DDGAN whose objective is the dual of unbalanced transport. With the cost c of bringing x_t to the prediction xhat,

    c = tau |xhat - x_t|^2,        L_D = phi2*(-D(x_s, x_t, t)) + phi1*(D(x_s', x_t, t) - c) + gamma/2 R1 in x_s
    L_G = c - D(x_s', x_t, t)

Fake and discriminator: those of DDGAN. A convex conjugate with bounded slope, such as softplus, lets the model leave
reals unmatched that lie far from all others: the pull of such a real on D is at most 1. With phi1 linear only the data
is relaxed, which is the semi-unbalanced form; with both linear nothing is, and the objective is that of OTM. The
paper's code has softplus for both. The sum in the cost runs over pixels, so tau is smaller for larger images.
"""

from sparring.discriminators import Discriminator
from sparring.generators import Denoiser
from sparring.methods.denoising_gan.ddgan import DDGAN
from sparring.objectives import Penalty, Transport
from sparring.objectives.transport import Conjugate


class RDGAN(DDGAN):
    """A `DDGAN` with the transport objective, for data that holds outliers.

    Args:
        generator: a denoiser of a VP process, with `latent_dim` above 0.
        discriminator: of a step, as for `DDGAN`.
        num_steps: T, the steps of the chain, and network calls of an image.
        tau: factor of the squared distance from x_t to the predicted image, a sum over pixels.
        phi1: conjugate on fakes.
        phi2: conjugate on reals; "linear" matches every one of them.
        penalty: one penalty or several on the discriminator.
    """

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator,
        *,
        num_steps: int = 4,
        tau: float = 1e-3,
        phi1: Conjugate = "softplus",
        phi2: Conjugate = "softplus",
        penalty: Penalty | list[Penalty] | None = None,
    ):
        objective = Transport(weight=tau, phi1=phi1, phi2=phi2)
        super().__init__(generator, discriminator, num_steps=num_steps, objective=objective, penalty=penalty)
