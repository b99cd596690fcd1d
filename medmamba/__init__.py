"""Medical image segmentation and registration with Mamba networks."""

from importlib.metadata import version

from medmamba.case import Case, Dataset, Split
from medmamba.labels import Label, Labels
from medmamba.volume import Geometry, Volume

__version__ = version("medmamba")
__all__ = ["Case", "Dataset", "Geometry", "Label", "Labels", "Split", "Volume", "__version__"]
