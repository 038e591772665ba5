"""Objectives: one task a file, each a function from a model to the pair (init, loss)."""

from jdl.objectives.adversarial import adversarial as adversarial
from jdl.objectives.adversarial import hinge_game as hinge_game
from jdl.objectives.adversarial import non_saturating as non_saturating
from jdl.objectives.adversarial import wasserstein as wasserstein
from jdl.objectives.autoencode import autoencode as autoencode
from jdl.objectives.autoencode import bernoulli as bernoulli
from jdl.objectives.autoencode import elbo as elbo
from jdl.objectives.autoencode import gaussian as gaussian
from jdl.objectives.classify import classify as classify
from jdl.objectives.classify import classify_binary as classify_binary
from jdl.objectives.classify import hinge as hinge
from jdl.objectives.classify import perceptron as perceptron
from jdl.objectives.cluster import cluster as cluster
from jdl.objectives.diffuse import cosine as cosine
from jdl.objectives.diffuse import diffuse as diffuse
from jdl.objectives.diffuse import straight as straight
from jdl.objectives.forecast import forecast as forecast
from jdl.objectives.freeze import freeze as freeze
from jdl.objectives.link import link as link
from jdl.objectives.play import play as play
from jdl.objectives.play import reinforce as reinforce
from jdl.objectives.regress import regress as regress
from jdl.objectives.seq2seq import ctc as ctc
from jdl.objectives.seq2seq import seq2seq as seq2seq
from jdl.objectives.tokens import masked_token as masked_token
from jdl.objectives.tokens import next_token as next_token
