"""Estimators of information: arrays in, an estimate with its interval, kind of bound and warning out.

Arrays have shape (samples, features). Nats unless said otherwise. No number here is the information of a network; each
is a property of the network and of an estimator, whose name, settings and limits it carries.
"""

from gradscope.information.binning import binning, binning_sweep
from gradscope.information.cka import cka
from gradscope.information.estimate import Estimate
from gradscope.information.gaussian import gaussian
from gradscope.information.info_nce import info_nce
from gradscope.information.kde import kde_bounds
from gradscope.information.ksg import ksg
from gradscope.information.panel import panel
from gradscope.information.planes import planes
from gradscope.information.readout import probe_accuracy, reconstruction
from gradscope.information.renyi import matrix_entropy, renyi
from gradscope.information.similarity import similarity
from gradscope.information.sliced import sliced
from gradscope.information.spectrum import effective_rank, participation_ratio, pca_saturation

__all__ = [
    "Estimate",
    "binning",
    "binning_sweep",
    "cka",
    "effective_rank",
    "gaussian",
    "info_nce",
    "kde_bounds",
    "ksg",
    "matrix_entropy",
    "panel",
    "participation_ratio",
    "pca_saturation",
    "planes",
    "probe_accuracy",
    "reconstruction",
    "renyi",
    "similarity",
    "sliced",
]
