"""Many devices: how a state, a batch and a step are laid out on a mesh of them."""

from jdl.parallel.elastic import elastic as elastic
from jdl.parallel.mesh import build_mesh as build_mesh
from jdl.parallel.mesh import check_rows as check_rows
from jdl.parallel.mesh import devices_of as devices_of
from jdl.parallel.mesh import pmap_mesh as pmap_mesh
from jdl.parallel.sharding import abstract_state as abstract_state
from jdl.parallel.sharding import sharded as sharded
from jdl.parallel.sharding import shard_data as shard_data
from jdl.parallel.pmap import pmapped as pmapped
from jdl.parallel.multihost import to_local as to_local
