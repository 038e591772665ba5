"""Look inside a trained model: what its predictions rest on, where it errs, what it has learned."""

from jdl.explain.attention import attention_maps as attention_maps
from jdl.explain.attention import attention_rollout as attention_rollout
from jdl.explain.attribution import integrated_gradients as integrated_gradients
from jdl.explain.attribution import map_correlation as map_correlation
from jdl.explain.attribution import occlusion as occlusion
from jdl.explain.attribution import saliency as saliency
from jdl.explain.attribution import shuffle_parameters as shuffle_parameters
from jdl.explain.attribution import smooth_grad as smooth_grad
from jdl.explain.boundary import decision_grid as decision_grid
from jdl.explain.embeddings import pca as pca
from jdl.explain.embeddings import probe_layers as probe_layers
from jdl.explain.groups import by_group as by_group
from jdl.explain.groups import largest_gap as largest_gap
from jdl.explain.layers import grad_cam as grad_cam
from jdl.explain.layers import layer_outputs as layer_outputs
from jdl.explain.loss_line import barrier as barrier
from jdl.explain.loss_line import loss_line as loss_line
from jdl.explain.maps import first_filters as first_filters
from jdl.explain.mistakes import confusions as confusions
from jdl.explain.mistakes import top_losses as top_losses
from jdl.explain.report import explain as explain
from jdl.explain.score import score as score
from jdl.explain.subject import Subject as Subject
