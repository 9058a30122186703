"""Where batches come from: data sets, the order of training, and the random numbers of a step."""

from sparring.data.adapter import TorchData
from sparring.data.base import Digits, ImageData, StoredImages
from sparring.data.canvases import DigitCanvases
from sparring.data.draws import Batch, Draws, derived_seed
from sparring.data.drifting import DriftingDigits
from sparring.data.edits import Edited, UnpairedEdits
from sparring.data.folder import ImageFolder
from sparring.data.hub import HubData
from sparring.data.ink import InkDigits
from sparring.data.layouts import DigitLayouts
from sparring.data.loading import from_spec, named
from sparring.data.low_resolution import LowResolution
from sparring.data.navigation import Navigation
from sparring.data.order import BatchStream, Indices
from sparring.data.outliers import WithOutliers
from sparring.data.pairs import PairedColumns, PairedFolders, UnpairedColumns, UnpairedData
from sparring.data.sorting import Sorting
from sparring.data.stream import StreamData
from sparring.data.sudoku import Sudoku
from sparring.data.toys import Checkerboard, GaussianGrid, GaussianMixture, Mixture, SwissRoll
from sparring.data.voices import Voices

__all__ = [
    "Batch",
    "BatchStream",
    "Checkerboard",
    "DigitCanvases",
    "DigitLayouts",
    "InkDigits",
    "Digits",
    "Draws",
    "DriftingDigits",
    "Edited",
    "GaussianGrid",
    "GaussianMixture",
    "HubData",
    "ImageData",
    "ImageFolder",
    "Indices",
    "LowResolution",
    "Mixture",
    "Navigation",
    "PairedColumns",
    "PairedFolders",
    "Sorting",
    "StoredImages",
    "StreamData",
    "Sudoku",
    "SwissRoll",
    "TorchData",
    "UnpairedColumns",
    "UnpairedData",
    "UnpairedEdits",
    "Voices",
    "WithOutliers",
    "derived_seed",
    "from_spec",
    "named",
]
