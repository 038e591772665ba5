"""Text of an exported language model, by greedy decoding: python predict.py PROMPT [TOKENS].

A prompt of numbers with commas between is of tokens. It needs jax, numpy, safetensors and
flatbuffers alone, and the library tokenizers where the folder has a tokenizer.json.
"""

import json
import sys
from pathlib import Path

import jax
import jax.export
import numpy as np
from safetensors.numpy import load_file


def load(folder, name):
    """The manifest, and a program: a function of arrays by name that gives such."""
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    about, weights = manifest["programs"][name], load_file(folder / "weights.safetensors")
    weights = jax.device_put({path: weights[path] for path in about["weights"]})
    program = jax.export.deserialize(bytearray((folder / about["file"]).read_bytes()))
    call = jax.jit(program.call)
    return manifest, lambda inputs: call(weights, inputs)


def greedy(logits):
    """The most likely next token of each row, (B, 1): replace it to sample otherwise."""
    return np.asarray(logits.argmax(-1), np.int32)[:, None]


def generate(folder, prompt, count):
    """Up to `count` tokens after a prompt (P,), until the end token or the KV cache is full.

    The prompt is read at once, padded to a power of two, as each size is compiled once; of a model
    that knows no padding, a power of two of tokens is, and the others are read one by one.
    """
    manifest, prefill = load(folder, "prefill")
    _, decode = load(folder, "decode")
    prompt, eos_id = np.asarray(prompt, np.int32), (manifest["tokenizer"] or {}).get("eos_id")
    about, limit = manifest["programs"]["prefill"], manifest["max_length"]
    most = min(len(prompt), about["max_time"])
    if "length" in about["inputs"]:
        first, padded = most, min(1 << (most - 1).bit_length(), about["max_time"])
        tokens = np.pad(prompt[None, :first], ((0, 0), (0, padded - first)))
        state = dict(prefill({"tokens": tokens, "length": np.asarray([first], np.int32)}))
    else:
        first = 1 << (most.bit_length() - 1)
        state = dict(prefill({"tokens": prompt[None, :first]}))
    for n in range(first, min(len(prompt) + count, (limit or len(prompt) + count) + 1)):
        token = prompt[None, n : n + 1] if n < len(prompt) else greedy(state["logits"])
        if n >= len(prompt):
            if int(token[0, 0]) == eos_id:
                return
            yield int(token[0, 0])
        if n + 1 < len(prompt) + count and n != limit:
            cache = {name: array for name, array in state.items() if name != "logits"}
            state = dict(decode({"tokens": token, **cache}))


def main(prompt, count="100"):
    """Prints the prompt and what follows it."""
    folder = Path(__file__).parent
    tokenizer = json.loads((folder / "manifest.json").read_text("utf-8"))["tokenizer"]
    if tokenizer is None or prompt.replace(",", "").isdigit():
        print(*generate(folder, [int(token) for token in prompt.split(",")], int(count)))
    elif tokenizer["file"]:
        from tokenizers import Tokenizer

        library = Tokenizer.from_file(str(folder / tokenizer["file"]))
        tokens = library.encode(prompt, add_special_tokens=False).ids
        text = generate(folder, [tokenizer["eos_id"], *tokens], int(count))
        print(prompt + library.decode(list(text)))
    else:  # a token is a byte of UTF-8
        text = generate(folder, [tokenizer["eos_id"], *prompt.encode()], int(count))
        print(prompt + bytes(t for t in text if t < 256).decode(errors="replace"))


if __name__ == "__main__":
    main(*sys.argv[1:])
