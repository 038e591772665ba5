"""Text generation with a KV cache: greedy decoding, top-k and nucleus sampling, and beam search."""

from jdl.sampling.beams import Beams as Beams
from jdl.sampling.beams import beam_search as beam_search
from jdl.sampling.decoder import WholeWindow as WholeWindow
from jdl.sampling.decoder import decoder_of as decoder_of
from jdl.sampling.detokenize import StreamDecoder as StreamDecoder
from jdl.sampling.detokenize import decode_stream as decode_stream
from jdl.sampling.detokenize import decode_until_end as decode_until_end
from jdl.sampling.generation import generate as generate
from jdl.sampling.generation import stream as stream
from jdl.sampling.samplers import RowSamplers as RowSamplers
from jdl.sampling.samplers import TokenSampler as TokenSampler
from jdl.sampling.samplers import greedy as greedy
from jdl.sampling.samplers import sample_token as sample_token
