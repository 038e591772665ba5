"""Metrics that merge over batches, and scores of whole texts and clusterings."""

from jdl.metrics.classification import Confusion as Confusion
from jdl.metrics.classification import MeanIoU as MeanIoU
from jdl.metrics.classification import accuracy as accuracy
from jdl.metrics.classification import top_k as top_k
from jdl.metrics.clusters import cluster_metrics as cluster_metrics
from jdl.metrics.merge import PerMember as PerMember
from jdl.metrics.merge import merge as merge
from jdl.metrics.merge import scalars as scalars
from jdl.metrics.multi_label import MultiLabelF1 as MultiLabelF1
from jdl.metrics.sequence import Perplexity as Perplexity
from jdl.metrics.sequence import edit_distance as edit_distance
from jdl.metrics.sequence import error_rate as error_rate
from jdl.metrics.text import bleu as bleu
from jdl.metrics.text import rouge as rouge
