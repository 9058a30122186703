"""One file per method; a recipe names the class."""

from sparring.methods.add import ADD
from sparring.methods.adt import ADT
from sparring.methods.ddo import DDO
from sparring.methods.diffusion import Diffusion
from sparring.methods.method import Losses, Method, denoising_error, frozen_copy
from sparring.methods.sadm import SADM

__all__ = ["ADD", "ADT", "DDO", "SADM", "Diffusion", "Losses", "Method", "denoising_error", "frozen_copy"]
