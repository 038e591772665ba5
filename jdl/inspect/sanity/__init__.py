"""Sanity checks before training: does this run train at all, and what would be wrong?"""

from jdl.inspect.sanity.finding import Finding as Finding
from jdl.inspect.sanity.report import SanityReport as SanityReport
from jdl.inspect.sanity.report import sanity_check as sanity_check
