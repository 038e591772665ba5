"""Look inside a trained model: what its predictions rest on, where it errs, what it has learned."""

from jdl.explain.attribution import integrated_gradients as integrated_gradients
from jdl.explain.attribution import map_correlation as map_correlation
from jdl.explain.attribution import occlusion as occlusion
from jdl.explain.attribution import saliency as saliency
from jdl.explain.attribution import shuffle_parameters as shuffle_parameters
from jdl.explain.attribution import smooth_grad as smooth_grad
from jdl.explain.layers import grad_cam as grad_cam
from jdl.explain.layers import layer_outputs as layer_outputs
from jdl.explain.score import score as score
