"""Many devices: how a state, a batch and a step are laid out on a mesh of them."""

from jdl.parallel.elastic import elastic as elastic
from jdl.parallel.mesh import build as build
from jdl.parallel.mesh import check_rows as check_rows
from jdl.parallel.mesh import devices_of as devices_of
from jdl.parallel.mesh import line as line
from jdl.parallel.placed import placed as placed
from jdl.parallel.placed import sharded as sharded
from jdl.parallel.placed import spread as spread
from jdl.parallel.pmapped import pmapped as pmapped
from jdl.parallel.sharing import here as here
