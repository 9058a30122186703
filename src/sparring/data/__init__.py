"""Where batches come from: data sets, the order of training, and the random numbers of a step."""

from sparring.data.base import Digits, ImageData, StoredImages
from sparring.data.draws import Batch, Draws, derived_seed
from sparring.data.order import BatchStream, Indices

__all__ = ["Batch", "BatchStream", "Digits", "Draws", "ImageData", "Indices", "StoredImages", "derived_seed"]
