"""Many devices: data parallel, fully sharded (FSDP), tensor parallel, pmap and elastic training."""

from jdl.parallel.axis_rules import parameter_rules as parameter_rules
from jdl.parallel.elastic import elastic as elastic
from jdl.parallel.mesh import build_mesh as build_mesh
from jdl.parallel.mesh import check_batch_size as check_batch_size
from jdl.parallel.mesh import data_parallel_devices as data_parallel_devices
from jdl.parallel.mesh import mesh_notes as mesh_notes
from jdl.parallel.mesh import pmap_mesh as pmap_mesh
from jdl.parallel.multihost import to_host as to_host
from jdl.parallel.multihost import to_local as to_local
from jdl.parallel.pmap import pmap_learner as pmap_learner
from jdl.parallel.sharding import abstract_state as abstract_state
from jdl.parallel.sharding import shard_data as shard_data
from jdl.parallel.sharding import shard_learner as shard_learner
