"""A discriminator on the middle of a denoiser's network, which sees images at noise levels of its own."""

from torch import Tensor, nn

from sparring.data import Draws
from sparring.discriminators.discriminator import Discriminator, Features, Given
from sparring.discriminators.heads import Head, advance_spectral_norms
from sparring.generators import Denoiser
from sparring.generators.middle import middle_block, middle_channels, middle_map
from sparring.networks.precision import at_least_float32
from sparring.process import Times


class MiddleHead(Discriminator):
    """Logits [B, M] of noised images: a small head on the map in the middle of a denoiser's network, M places.

    The features are the noisy images [B, c, h, w] and their times [B], drawn for each image: reals and fakes have
    levels and noises of their own, as in DMD2 (Yin et al., arXiv 2405.14867). The head is `Head`, in place of the
    paper's strided convolutions, which fit one size only (ours).

    A method may give it images only, as features, with `Given.t` as their times, noisy or not (YOSO).

    The denoiser is no part of it: its owner decides whether it learns. It may be a frozen teacher, a fake score that
    learns, or a copy; see `DenoiserAndHead`.

    Args:
        denoiser: whose network is used; of latents, it takes latents.
        times: distribution of the levels; the process's own when None.
        width: channels of the head; 0: there is none, and a logit is the mean over the channels, within
            [-10, 10] (SiDA, Zhou et al., arXiv 2410.14919).

    Raises:
        ValueError: a network without a middle that is known, or one with a latent z.
    """

    def __init__(self, denoiser: Denoiser, *, times: Times | None = None, width: int = 64) -> None:
        super().__init__()
        if denoiser.slot is not None:
            raise ValueError("`discriminator`: a denoiser with a latent z has no middle without z; start from another")
        middle_block(denoiser.net)
        self._of = (denoiser,)  # in a tuple it is no part
        self.times = times or denoiser.process.default_times()
        self.head = Head(channels=middle_channels(denoiser.net), width=width, out_channels=1) if width else None

    def features(self, x: Tensor, given: Given, draws: Draws) -> Features:
        """The images at drawn levels, and these."""
        process = self._of[0].process
        t = self.times(process, draws, len(x))
        return [process.add_noise(x, draws.normal(tuple(x.shape)).to(x), t), t]

    def logits(self, features: Features, given: Given) -> Tensor:
        x_t, *times = features
        t = times[0] if times else given.t
        if t is None:
            raise ValueError("a MiddleHead needs the times of the images, and this method has none")
        map_ = middle_map(self._of[0], x_t, t, given.condition)
        places = map_.mean(1).clamp(-10, 10) if self.head is None else self.head(map_)
        return at_least_float32(places).flatten(1)

    def after_update(self) -> None:
        """One power iteration of the spectral norms."""
        advance_spectral_norms(self)


class DenoiserAndHead(nn.Module):
    """An opponent that is a denoiser which learns, perhaps with a discriminator on it.

    Args:
        denoiser: taken over; all of it is trained.
        head: on the middle of this denoiser or of another; None: there is no discriminator.
    """

    def __init__(self, denoiser: Denoiser, head: MiddleHead | None = None) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.head = head
