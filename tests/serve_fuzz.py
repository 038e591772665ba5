"""Requests as no client should send them: ragged, huge, deep, of a wrong kind, bombs."""

import gzip
import io
import json
import random
import struct
import wave
import zlib

import numpy as np
from PIL import Image

ROW = [[[0.5]] * 8] * 8  # of the model of digits
KINDS = (
    "application/json", "application/x-npy", "application/octet-stream", "image/png", "audio/wav",
    "image/jpeg", "text/plain", "application/zip", "multipart/form-data; boundary=x", "", "é",
    "a/b;",
)  # fmt: skip
MODELS = ("kitchen_sink", "words", "none", "%00", "..%2f..", "é", "a" * 3000)


def requests(seed):
    """Endless requests: (method, path, headers, body)."""
    draw = random.Random(seed)
    while True:
        body, kind = draw.choice(BODIES)(draw)
        if draw.random() < 0.2:
            body = mutated(draw, body)
        if draw.random() < 0.2:
            kind = draw.choice(KINDS)
        path_ = path(draw)
        method = draw.choice(["POST"] * 12 + ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
        headers = {"Content-Type": kind.encode()}
        if path_.startswith("/v2") and draw.random() < 0.2:
            headers["Inference-Header-Content-Length"] = draw.choice(LENGTHS)
        if draw.random() < 0.05:
            headers[draw.choice(["Accept", "Authorization", "Content-Encoding", "Range"])] = bytes(
                draw.choices(range(32, 127), k=draw.randrange(200))
            ).strip()
        yield method, path_, headers, body


def path(draw):
    model = draw.choice(MODELS[:2]) if draw.random() < 0.8 else draw.choice(MODELS)
    version = draw.choice(["", "", "", "/versions/0", "/versions/%ff"])
    if draw.random() < 0.3:
        return f"/v2/models/{model}{version}/{draw.choice(['infer', 'infer', 'ready', ''])}"
    end = draw.choice(["/predict"] * 8 + ["", "/none", "/predict/", "/generate"])
    return f"/v1/models/{model}{version}{end}"


def mutated(draw, body):
    """Some bytes changed, cut out or doubled."""
    body = bytearray(body[:20_000])
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(len(body) + 1)
        body[at : at + draw.randrange(3)] = bytes(draw.choices(range(256), k=draw.randrange(3)))
    return bytes(body)


def number(draw):
    return draw.choice(
        [0, 1, -1, 0.5, 255, 256, 1e30, 1e300, 10**400, 2**63, True, None, "1", [], {}, 0.1]
    )


def rows(draw):
    """Rows of which one or two numbers are of another kind, or lists ragged."""
    found = json.loads(json.dumps([ROW] * draw.choice([1, 2, 3, 19, 20, 21])))
    for _ in range(draw.randrange(3)):
        row = draw.choice(found)
        if isinstance(row, list) and row:
            draw.choice([row, found])[draw.randrange(len(row)) % len(found)] = number(draw)
    return encoded({draw.choice(["rows", "rows", "columns", "instances"]): found})


def encoded(document):
    return json.dumps(document).encode(), "application/json"


def document(draw, depth=0):
    """Any JSON."""
    kind = draw.randrange(4) if depth < 4 else 0
    if kind == 1:
        return [document(draw, depth + 1) for _ in range(draw.randrange(4))]
    if kind == 2:
        names = ["x", "length", "rows", "columns", "texts", "inputs", "name", "data", "shape", ""]
        return {draw.choice(names): document(draw, depth + 1) for _ in range(draw.randrange(4))}
    return number(draw)


def inference(draw):
    """A request of the Open Inference Protocol, right or nearly so."""
    tensor = {"name": "x", "shape": [1, 8, 8, 1], "datatype": "FP32", "data": [0.5] * 64}
    for _ in range(draw.randrange(3)):
        tensor[draw.choice(list(tensor))] = draw.choice(
            [
                number(draw),
                [-1, 8],
                [1 << 40] * 3,
                [0, 1 << 39, 1 << 39],
                "BYTES",
                "INT64",
                [[0.5] * 64],
                document(draw),
            ]
        )
    return encoded({"inputs": [tensor] * draw.choice([1, 1, 1, 0, 2])})


def npy(draw):
    dtype = draw.choice(["f4", "f8", "f2", "i8", "u1", "?", "c8", "M8[s]", "U5", "O", "i4,f4"])
    shape = draw.choice([(1, 8, 8, 1), (3, 8, 8, 1), (8, 8), (0, 8, 8, 1), (), (1, 8)])
    file = io.BytesIO()
    np.save(file, np.zeros(shape, dtype), allow_pickle=True)
    body = file.getvalue()
    if draw.random() < 0.3:  # a bomb: the header claims more than there is
        claim = draw.choice([b"(%d, 8" % draw.choice([10**12, 10**30, -1]), b"(0, 1" + b"0" * 30])
        body = body.replace(b"(1, 8", claim, 1)
    return body, "application/x-npy"


def image(draw):
    size = draw.choice([(8, 8), (8, 8), (9, 8), (1, 1), (300, 8)])
    mode = draw.choice(["L", "RGB", "RGBA", "1", "I;16", "P"])
    form = "PNG" if mode in ("RGBA", "I;16", "P") else draw.choice(["PNG", "JPEG", "GIF", "BMP"])
    file = io.BytesIO()
    Image.new(mode, size).save(file, form)
    return file.getvalue(), draw.choice(["image/png", "image/jpeg"])


def png_bomb(draw):
    """A PNG of 50,000 x 50,000 pixels, or of a text of 100 MB, in a few bytes."""

    def chunk(kind, data):
        sum_ = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", sum_)

    side = draw.choice([8, 50_000, 2**31 - 1])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    text = chunk(b"zTXt", b"a\0\0" + ZEROS) if draw.random() < 0.5 else b""
    body = b"\x89PNG\r\n\x1a\n" + header + text + chunk(b"IDAT", ZEROS) + chunk(b"IEND", b"")
    return body, "image/png"


ZEROS = zlib.compress(bytes(10_000_000), 9)


def zip_bomb(draw):
    return gzip.compress(bytes(1_000_000)), draw.choice(["application/zip", "application/json"])


def sound(draw):
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(draw.choice([1, 2, 7]))
        out.setsampwidth(draw.choice([1, 2, 3, 4]))
        out.setframerate(8000)
        out.writeframes(bytes(84))
    return file.getvalue(), "audio/wav"


def form(draw):
    """A form with a file or several, of any kind."""
    parts = b""
    for _ in range(draw.choice([1, 1, 1, 0, 2])):
        body, kind = draw.choice([image, npy, sound, rows])(draw)
        name = draw.choice(['"f"; filename="a"', '"f"', "", "a" * 3000])
        head = f"--x\r\nContent-Disposition: form-data; name={name}\r\nContent-Type: {kind}"
        parts += head.encode() + draw.choice([b"\r\n\r\n", b"\r\n"]) + body + b"\r\n"
    return parts + draw.choice([b"--x--\r\n", b"--x"]), "multipart/form-data; boundary=x"


def texts(draw):
    """Texts of any letters, among them halves of surrogate pairs."""
    letters = ["a", "é", "漢", "\ud800", "\0", "🙂", " " * 9, "", "x" * 70_000]
    found = ["".join(draw.choices(letters[:-1], k=draw.randrange(4))) for _ in range(3)]
    if draw.random() < 0.1:
        found.append(letters[-1])
    return encoded({"texts": found})


def sequences(draw):
    """Rows of tokens of different lengths."""
    found = [[number(draw) if draw.random() < 0.1 else 7] * draw.randrange(10) for _ in range(3)]
    return encoded({"columns": {"x": found, "length": [draw.choice([0, 3, 99, -1])] * 3}})


LENGTHS = (b"0", b"7", b"-1", b"1e3", b"0" * 30 + b"9", b"0" * 20 + b"9" * 5000)
NO_NUMBERS = (b"NaN", b"-Infinity", b"1e999", b"9" * 5000)
BODIES = (
    rows, inference, npy, image, png_bomb, zip_bomb, sound, form, texts, sequences,
    lambda draw: encoded(document(draw)),
    lambda draw: (b"[" * draw.choice([900, 100_000]), "application/json"),
    lambda draw: (b'{"rows":' * draw.choice([900, 10_000]), "application/json"),
    lambda draw: (b'{"rows": [%s]}' % draw.choice(NO_NUMBERS), "application/json"),
    lambda draw: (bytes(draw.choices(range(256), k=draw.randrange(300))), draw.choice(KINDS)),
    lambda draw: (bytes(draw.choice([0, 99_999, 100_001, 200_000])), "application/json"),
    lambda draw: encoded({"rows": [ROW]}),
)  # fmt: skip
