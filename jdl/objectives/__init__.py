"""Objectives: one task a file, each a function from a model to the pair (init, loss)."""

from jdl.objectives.adversarial import adversarial as adversarial
from jdl.objectives.adversarial import hinge_gan as hinge_gan
from jdl.objectives.adversarial import non_saturating as non_saturating
from jdl.objectives.adversarial import wasserstein as wasserstein
from jdl.objectives.autoencoding import autoencode as autoencode
from jdl.objectives.autoencoding import bernoulli as bernoulli
from jdl.objectives.autoencoding import elbo as elbo
from jdl.objectives.autoencoding import gaussian as gaussian
from jdl.objectives.classification import classify as classify
from jdl.objectives.classification import classify_binary as classify_binary
from jdl.objectives.classification import hinge as hinge
from jdl.objectives.classification import perceptron as perceptron
from jdl.objectives.clustering import cluster as cluster
from jdl.objectives.diffusion import cosine as cosine
from jdl.objectives.diffusion import diffuse as diffuse
from jdl.objectives.diffusion import rectified_flow as rectified_flow
from jdl.objectives.forecasting import forecast as forecast
from jdl.objectives.freeze import freeze as freeze
from jdl.objectives.link_prediction import link as link
from jdl.objectives.episodes import episode_return as episode_return
from jdl.objectives.episodes import reinforce as reinforce
from jdl.objectives.regression import regress as regress
from jdl.objectives.seq2seq import ctc as ctc
from jdl.objectives.seq2seq import seq2seq as seq2seq
from jdl.objectives.language_modelling import masked_token as masked_token
from jdl.objectives.language_modelling import next_token as next_token
