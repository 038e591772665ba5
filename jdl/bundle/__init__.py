"""A run bundled with its code, versions and data, so that it repeats on another machine."""

from jdl.bundle.folder import write as write
from jdl.bundle.repetition import repeat as repeat
