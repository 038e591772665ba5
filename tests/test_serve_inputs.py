"""What a server makes of a body: columns of the program's types and shapes, or a refusal.

Seen to fail: JSON that is nested without an end, arrays of any type, padding that nobody counted,
sizes of 0 beside endless ones, a length of 5,000 digits, a form that was cut off.
"""

import io
import json
import wave
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jdl.data.tokenizers import ByteTokenizer
from jdl.inspect.predict import readable_row
from jdl.serve import Limits
from jdl.serve.answers import answer_rows
from jdl.serve.inputs import columns_of, padded_size, parse_json
from jdl.serve.limits import RequestError
from jdl.serve.models import ServedModel, ServedProgram
from jdl.serve.requests import Memory, Share
from jdl.serve.tensors import read_inference
from jdl.serve.uploads import columns_of_file, file_of_form
from jdl.types import Error

NPY = "application/x-npy"
LIMITS = Limits(max_rows=5, max_body=10_000, max_memory=10_000)


def model(max_time=None, tokenizer=None, **inputs):
    """A model that takes inputs "name=(dtype, *shape)" and computes nothing."""
    about = {
        "inputs": {
            name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, *shape) in inputs.items()
        },
        "outputs": {},
        "max_time": max_time,
    }
    manifest = {"name": "fake", "tokenizer": tokenizer and {"special": [[], [256]], "eos_id": 256}}
    program = ServedProgram("predict", about, {}, None)
    return ServedModel(None, "0", manifest, {"predict": program}, tokenizer)


IMAGE = model(x=("float32", "b", 2, 3, 1))
BYTES = model(x=("uint8", "b", 2, 3, 3))
TABLE = model(age=("float32", "b"), town=("int32", "b"), sick=("bool", "b"))
SERIES = model(7, x=("float32", "b", "t", 2), length=("int32", "b"))
FIXED = model(x=("float32", "b", 4), length=("int32", "b"))
NUMBERS = model(x=("float32", "b"), length=("int32", "b"))
TEXT = model(6, ByteTokenizer(), x=("int32", "b", "t"), length=("int32", "b"))


def share():
    return Share(Memory(LIMITS.max_memory))


def columns(served, document):
    return columns_of(document, served, served.programs["predict"], LIMITS, share().take)


def upload(served, kind, body):
    return columns_of_file(kind, body, served, served.programs["predict"], LIMITS, share().take)


def test_rows_columns_and_objects_are_the_same():
    row = {"age": 1, "town": 2, "sick": True}
    by_column = columns(TABLE, {"columns": {"age": [1], "town": [2], "sick": [True]}})
    by_row = columns(TABLE, {"rows": [row]})
    assert {k: (v.dtype, v.tolist()) for k, v in by_row.items()} == {
        "age": (np.float32, [1.0]), "town": (np.int32, [2]), "sick": (np.bool_, [True]),
    }  # fmt: skip
    assert all(by_row[name].tobytes() == by_column[name].tobytes() for name in by_row)


def test_rows_of_different_times_are_padded_with_their_length():
    found = columns(SERIES, {"rows": [[[1, 2], [3, 4]], [[5, 6]]]})
    assert found["x"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [0, 0]]]
    assert found["length"].tolist() == [2, 1]
    assert columns(FIXED, {"rows": [[1], [2, 3]]})["x"].tolist() == [[1, 0, 0, 0], [2, 3, 0, 0]]
    found = columns(TEXT, {"texts": ["ab", "é"]})
    assert found["x"].tolist() == [[97, 98, 256], [195, 169, 256]]
    assert columns(TEXT, {"texts": ["abc", ""]})["x"].tolist()[1] == [256] * 4


REFUSED = (
    (IMAGE, [], "must be one of"),
    (IMAGE, {"rows": [1], "texts": []}, "must be one of"),
    (IMAGE, {"instances": []}, "not 'instances'"),
    (IMAGE, {"rows": []}, "one row or more"),
    (IMAGE, {"rows": "a"}, "one row or more"),
    (IMAGE, {"rows": [[[[0]] * 3] * 2] * 6}, "at most 5 rows, and this one 6"),
    (IMAGE, {"columns": {"x": [[[[0]] * 3] * 2] * 6}}, "at most 5 rows"),
    (IMAGE, {"columns": {"x": []}}, r"of shape \(b, 2, 3, 1\)"),
    (IMAGE, {"columns": []}, "columns must be an object"),
    (IMAGE, {"rows": [[[[0]] * 3] * 3]}, r"x must be of .* not \(1, 3, 3, 1\)"),
    (IMAGE, {"rows": [[[[0]] * 3, [[0]] * 2]]}, "ragged"),
    (IMAGE, {"rows": [[[["0"]] * 3] * 2]}, "a text"),
    (IMAGE, {"rows": [[[[None]] * 3] * 2]}, "null"),
    (IMAGE, {"rows": [[[[True]] * 3] * 2]}, "true or false"),
    (IMAGE, {"rows": [[[[10**400]] * 3] * 2]}, "no float32"),
    (IMAGE, {"rows": [[[[1e39]] * 3] * 2]}, "finite"),
    (IMAGE, {"rows": [{"y": 1}]}, "no input 'y'; there are x"),
    (IMAGE, {"rows": [{"x": 1}, {"x": 1, "y": 2}]}, "Row 1 has other names"),
    (IMAGE, {"texts": ["a"]}, "takes no texts, but x"),
    (BYTES, {"rows": [[[[0.5] * 3] * 3] * 2]}, "a fraction"),
    (BYTES, {"rows": [[[[256] * 3] * 3] * 2]}, "no uint8"),
    (TABLE, {"columns": {"age": [1], "town": [1]}}, "input sick is missing"),
    (TABLE, {"columns": {"age": [1], "town": [1, 2], "sick": [True]}}, r"town must be of shape"),
    (TABLE, {"columns": {"age": [1], "town": [1], "sick": [1]}}, "a number"),
    (SERIES, {"rows": [[[0, 0]] * 8]}, "time 8, and at most 7"),
    (SERIES, {"rows": [[]]}, "of shape"),
    (SERIES, {"rows": [3]}, "a list for each row"),
    (SERIES, {"columns": {"x": [[[0, 0]]], "length": [2]}}, "from 0 to the time of x, 1"),
    (FIXED, {"rows": [[1, 2, 3, 4, 5]]}, "time 5, and at most 4"),
    (NUMBERS, {"rows": [1]}, "input length is missing"),
    (NUMBERS, {"columns": {"x": [[1]], "length": [1]}}, "x must be of shape"),
    (TEXT, {"texts": ["abcdef"]}, "time 7, and at most 6"),
    (TEXT, {"texts": [1]}, "a list of one text or more"),
    (TEXT, {"texts": ["\ud800"]}, "surrogate"),
    (TEXT, {"texts": ["a" * 70_000]}, "70,000 characters"),
)  # fmt: skip


@pytest.mark.parametrize(("served", "document", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_wrong_is_named(served, document, message):
    with pytest.raises(RequestError, match=message) as found:
        columns(served, document)
    assert found.value.status == 422


def test_padding_is_within_the_memory():
    wide = model(1000, x=("float32", "b", "t", 2), length=("int32", "b"))
    rows, program = [[[0, 0]] * 900, [[0, 0]]], wide.programs["predict"]
    with pytest.raises(RequestError, match="at most 10,000 bytes, its padding included") as found:
        columns(wide, {"rows": rows})
    assert found.value.status == 413
    memory = Memory(20_000, used=10_000)  # of others
    with pytest.raises(RequestError, match="memory for requests is full") as found:
        columns_of({"rows": rows}, wide, program, LIMITS, Share(memory).take)
    assert (found.value.status, memory.used) == (503, 10_000)
    memory.used = 0
    held = Share(memory)
    columns_of({"rows": rows}, wide, program, LIMITS, held.take)
    assert memory.used == 2 * 900 * 2 * 4
    held.give()
    assert memory.used == 0


def test_the_thread_is_chosen_by_what_a_body_may_be_padded_to():
    wide = model(x=("float32", "b", 16_000), length=("int32", "b")).programs["predict"]
    assert padded_size(4_000, wide, Limits()) == 1024 * 16_000 * 4
    assert padded_size(40, SERIES.programs["predict"], LIMITS) == 5 * 7 * 2 * 4
    assert padded_size(4_000, TABLE.programs["predict"], LIMITS) == 0


def test_a_body_must_fit_the_memory():
    with pytest.raises(Error, match=r"max_body \(11\) must not be above max_memory \(10\)"):
        Limits(max_body=11, max_memory=10)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b"{", b"\xff", b"9" * 5000, b'"\\ud800', b"NaN", b"[-Infinity]"]
)
def test_what_is_no_json_is_refused(body):
    with pytest.raises(RequestError) as found:
        parse_json(body)
    assert found.value.status in (400, 422)


def saved(write, *arguments, **options):
    file = io.BytesIO()
    write(file, *arguments, **options)
    return file.getvalue()


def test_arrays_are_read_and_never_unpickled():
    x = np.arange(6, dtype=">f8").reshape(1, 2, 3, 1)
    for order in (np.ascontiguousarray, np.asfortranarray):
        found = upload(IMAGE, NPY, saved(np.save, order(x)))
        assert found["x"].tolist() == x.tolist()
    pixels = np.full((1, 2, 3, 1), 51, np.uint8)  # of an image: from 0 to 1
    found = upload(IMAGE, NPY, saved(np.save, pixels))
    assert found["x"].max() == np.float32(51) * np.float32(1 / 255)
    for array, message in (
        (np.array([print], object), "must hold numbers"),
        (x.astype("c16"), "must hold numbers"),
        (x * np.nan, "finite"),
        (x[0], "of shape"),
    ):
        with pytest.raises(RequestError, match=message):
            upload(IMAGE, NPY, saved(np.save, array))
    bomb = saved(np.save, x).replace(b"(1, 2, 3, 1), ", b"(10000000000,)")
    for body in (bomb, saved(np.save, x)[:-1], b"\x93NUMPY\x01\x00", b"", b"PK\x03\x04"):
        with pytest.raises(RequestError, match="npy file"):
            upload(IMAGE, "application/octet-stream", body)


def test_a_size_of_0_does_not_make_a_shape_right():
    program = IMAGE.programs["predict"]
    tensor = {"name": "x", "shape": [0, 1 << 39, 1 << 39], "datatype": "FP32"}
    for more in ({"data": []}, {"parameters": {"binary_data_size": 0}}):
        body = json.dumps({"inputs": [tensor | more]}).encode()
        with pytest.raises(RequestError, match="must be a list of sizes"):
            read_inference(None, body, program, LIMITS, share().take)
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (0, 2**100)}
    np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(RequestError, match="npy file has 0 bytes"):
        upload(IMAGE, NPY, file.getvalue())


@pytest.mark.parametrize("header", ["0" * 20 + "9" * 5000, "3", "-1", "²"])
def test_the_length_of_the_json_is_one(header):
    with pytest.raises(RequestError, match="is not a length of this body"):
        read_inference(header, b"{}", IMAGE.programs["predict"], LIMITS, share().take)


def test_images_are_decoded_only_at_the_models_size():
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    body = saved(Image.fromarray(pixels).save, "PNG")
    assert upload(BYTES, "image/png", body)["x"].tolist() == [pixels.tolist()]
    grey = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    assert upload(IMAGE, "image/png", body)["x"].tolist() == [(grey * np.float32(1 / 255)).tolist()]
    for size in ((3, 3), (3, 30_000)):
        with pytest.raises(
            RequestError, match=f"has 3 x {size[1]} pixels, and the model reads 3 x 2"
        ):
            upload(BYTES, "image/png", saved(Image.new("L", size).save, "PNG"))
    for kind, damaged in (("image/jpeg", body), ("image/png", body[:-30]), ("image/png", b"")):
        with pytest.raises(RequestError) as found:
            upload(BYTES, kind, damaged)
        assert found.value.status == 400
    with pytest.raises(RequestError, match="takes no images"):
        upload(SERIES, "image/png", body)


def sound(samples, width=2, channels=1):
    def write(file):
        with wave.open(file, "wb") as out:
            out.setnchannels(channels)
            out.setsampwidth(width)
            out.setframerate(8000)
            out.writeframes(samples)

    return saved(write)


def test_sounds_are_samples_from_minus_1_to_1():
    found = upload(FIXED, "audio/wav", sound(np.asarray([-32768, 16384], "<i2").tobytes()))
    assert (found["x"].tolist(), found["length"].tolist()) == ([[-1, 0.5, 0, 0]], [2])
    stereo = sound(np.asarray([255, 0, 128, 128], "u1").tobytes(), width=1, channels=2)
    assert upload(FIXED, "audio/wav", stereo)["x"].tolist() == [[-1 / 256, 0, 0, 0]]
    for body, message in (
        (sound(bytes(10)), "5 samples, and the model reads at most 4"),
        (sound(bytes(3), width=3), "8, 16 or 32 bits"),
        (sound(b""), "one at least"),
        (b"RIFF", "no WAV"),
    ):
        with pytest.raises(RequestError, match=message):
            upload(FIXED, "audio/wav", body)
    fast = model(x=("float32", "b", 4))
    fast.programs["predict"].inputs["x"]["sampling_rate"] = 16_000
    with pytest.raises(RequestError, match="8,000 samples a second, and the model reads 16,000"):
        upload(fast, "audio/wav", sound(bytes(4)))
    with pytest.raises(RequestError, match="takes no sounds"):
        upload(IMAGE, "audio/wav", sound(bytes(4)))


def test_a_text_is_a_body_and_another_kind_is_refused():
    assert upload(TEXT, "text/plain", b"ab")["x"].tolist() == [[97, 98, 256]]
    with pytest.raises(RequestError, match="no UTF-8"):
        upload(TEXT, "text/plain", b"\xff")
    with pytest.raises(RequestError, match="'application/zip'") as found:
        upload(TEXT, "application/zip", b"")
    assert found.value.status == 415


FORM = "multipart/form-data; boundary=--ab"
FILE = b'Content-Disposition: form-data; name="f"; filename="a.png"\r\n'
NOTE = b'----ab\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'


def form(*files):
    return b"".join(b"----ab\r\n%s\r\n" % file for file in files) + b"----ab--\r\n"


def test_a_form_has_one_file_of_a_type():
    """Whatever bytes it has, and fields beside it."""
    content = bytes(range(256)) + b"\r\n--ab\r\n\r\n"
    typed = FILE + b"CONTENT-TYPE: Image/PNG; a=b\r\n\r\n" + content
    for body in (form(typed), NOTE + form(typed)):
        assert file_of_form(FORM, body) == ("image/png", content)
    plain = FILE + b"\r\n" + content
    assert file_of_form(FORM, form(plain)) == ("image/png", content)
    array = plain.replace(b"a.png", b"a.npy")
    assert file_of_form(FORM, form(array)) == ("application/octet-stream", content)
    folded = typed.replace(b" filename", b"\r\n filename")
    assert file_of_form(FORM, b"to be ignored\r\n" + form(folded)) == ("image/png", content)
    named = NOTE.replace(b'"note"', b'"a filename"')
    assert file_of_form(FORM, named + form(typed)) == ("image/png", content)
    for header, body, status in (
        (FORM, NOTE + form(), 422),
        (FORM, form(typed, typed), 422),
        (FORM, form(typed)[:-4], 400),
        (FORM, form(b""), 400),
        (FORM, named + form(), 422),
        (FORM, form(typed.replace(b"; filename=", b"; filename*=a; filename*0=")), 400),
        (f"{FORM}; boundary*=a; boundary*0=b", form(typed), 400),
        (FORM, b"", 400),
        (FORM, content, 400),
        ("multipart/form-data", form(typed), 400),
        ("multipart/form-data; boundary=\xe9", form(typed), 400),
        ("multipart/form-data; boundary*=utf-8''x; a", form(typed), 400),
    ):
        with pytest.raises(RequestError) as found:
            file_of_form(header, body)
        assert found.value.status == status, (header, body)


def test_rows_are_those_of_jdl_predict():
    """Labels of a sequence have names, without its padding."""
    served = replace(TEXT, manifest={**TEXT.manifest, "labels": ["no", "yes"]})
    outputs = {
        "labels": np.asarray([[1, 0, 1]], np.int32),
        "length": np.asarray([2], np.int32),
        "score": np.asarray([[0.25, 0.5]], np.float32),
    }
    (row,) = answer_rows(served, outputs)
    expected = readable_row(outputs, 0, ("no", "yes"), served.tokenizer)
    assert row == {"labels": expected["labels"], "score": [0.25, 0.5]}
    assert "yes" in row["labels"]
