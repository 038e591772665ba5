"""A server of exported models over HTTP: predictions with dynamic batching, limits and health."""

from jdl.serve.app import app as app
from jdl.serve.limits import Limits as Limits
