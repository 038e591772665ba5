"""Images with boxes: scenes of digits, arrays, COCO's format.

Seen to fail: draws that depend on the number of scenes, boxes of the digits' whole images, labels
in the order before digits without a place went to the end; boxes that keep their place while their
image is resized and padded, and categories that are not in the order of their ids.
"""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

import jdl
from jdl.boxes import area, iou_matrix
from jdl.data import boxes, scenes


@pytest.fixture(scope="module")
def parts():
    return jdl.data.digit_boxes(40, 12)  # more than one CHUNK


def test_the_scenes_are_the_same_everywhere(parts):
    assert [part.fingerprint[:16] for part in parts] == ["88535da222a7a9d0", "ef4adb0b68949a12"]
    fewer, _ = jdl.data.digit_boxes(5, 1)
    for name, column in fewer.columns.items():
        np.testing.assert_array_equal(column, parts[0].columns[name][:5])
    other, _ = jdl.data.digit_boxes(5, 1, seed=1)
    assert (other.columns["x"] != fewer.columns["x"]).any()


def test_boxes_are_in_the_image_of_their_size_and_apart(parts):
    columns = parts[0].columns
    real = columns["y"] >= 0
    edges = columns["boxes"]
    assert columns["x"].shape == (40, boxes.SIDE, boxes.SIDE, 1)
    assert set(real.sum(1)) >= {0, 1, 5, 8}
    np.testing.assert_array_equal(real, np.arange(boxes.MOST) < real.sum(1)[:, None])
    assert (edges[~real] == 0).all()
    assert (edges >= 0).all()
    assert (edges <= boxes.SIDE).all()
    longer = (edges[..., 2:] - edges[..., :2]).max(-1)[real]
    assert 13.99 <= longer.min() < 16
    assert 38 < longer.max() <= 40.01
    apart = iou_matrix(edges, edges)[:, ~np.eye(boxes.MOST, dtype=bool)]
    assert apart.max() <= boxes.OVERLAP
    assert parts[0].labels == tuple("0123456789")
    with pytest.raises(jdl.Error, match="digit_boxes takes numbers of images, at least 1"):
        jdl.data.digit_boxes(0)


def test_a_box_holds_the_ink_of_its_digit_from_the_right_side_of_the_split(monkeypatch):
    """Rectangles as dark as their label, on clean paper: each can be read off, with its edges."""
    shapes = np.zeros((10, 8, 8, 1), np.float32)
    shapes[:, :, 2:6] = np.linspace(0.3, 0.9, 10)[:, None, None, None]
    digits = jdl.data.arrays(list("0123456789"), x=shapes, y=np.arange(10))
    sides = digits.select(slice(0, 10, 2)), digits.select(slice(1, 10, 2))
    monkeypatch.setattr(scenes, "digits", lambda: sides)
    scene = {"paper": (1.0, 1.0), "down": (0.0, 0.0), "right": (0.0, 0.0), "noise": (0.0, 0.0)}
    monkeypatch.setattr(boxes, "SCENE", scene)
    monkeypatch.setattr(boxes, "DIGIT", boxes.DIGIT | {"strokes": (1.0, 1.0), "ink": (1.0, 1.0)})
    monkeypatch.setattr(boxes, "DISTRACTOR", boxes.DISTRACTOR | {"ink": (0.0, 0.0)})
    monkeypatch.setattr(boxes, "OVERLAP", 0.0)
    for part, side in zip(jdl.data.digit_boxes(12, 12), sides, strict=True):
        columns, seen = part.columns, set()
        for x, edges, y in zip(*(columns[name] for name in ("x", "boxes", "y")), strict=True):
            dark = 1 - x[..., 0] / 255
            outside = np.ones_like(dark, bool)
            for (x0, y0, x1, y1), label in zip(edges[y >= 0], y[y >= 0], strict=True):
                middle = dark[int((y0 + y1) / 2), int((x0 + x1) / 2)]
                assert middle == pytest.approx(0.3 + 0.6 * label / 9, abs=0.01)
                near = (
                    slice(max(0, int(y0) - 3), int(y1) + 4),
                    slice(max(0, int(x0) - 3), int(x1) + 4),
                )
                outside[near] = False
                line = dark[int((y0 + y1) / 2)]
                edge = np.flatnonzero(line[int(x0) : int(x1) + 1] > middle / 2) + int(x0)
                assert abs(edge[0] - x0) < 1.1
                assert abs(edge[-1] + 1 - x1) < 1.1
                seen.add(int(label))
            assert (dark[outside] == 0).all()
        assert seen == set(side.columns["y"])


def test_boxes_of_your_own_images_are_padded():
    x = np.zeros((3, 8, 10, 3), np.uint8)
    data = jdl.data.boxed_images(
        x, [[(0, 0, 4, 8)], [], [(1, 2, 3, 4), (5, 5, 10, 8)]], [[1], [], [0, 1]], ["cat", "dog"]
    )
    columns = data.columns
    np.testing.assert_array_equal(columns["y"], [[1, -1], [-1, -1], [0, 1]])
    np.testing.assert_array_equal(columns["boxes"][2, 1], [5, 5, 10, 8])
    assert (area(columns["boxes"]) > 0).tolist() == (columns["y"] >= 0).tolist()
    assert data.labels == ("cat", "dog")


GOOD = (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("box", "label", "message"),
    [
        ([GOOD, (3, 2, 1, 4)], [0, 0], r"Image 1: box 1 from \(3, 2\) to \(1, 4\) is empty, rev"),
        ([(3, 2, 3, 4)], [0], "Image 1: box 0 .* is empty"),
        ([(0, 0, 11, 4)], [0], "out of the image of 10 x 8 pixels"),
        ([(0, -1, 1, 4)], [0], "out of the image"),
        ([(0, np.nan, 1, 4)], [0], "box 0"),
        ([GOOD], [2], "Image 1: box 0 has the label 2, which is no whole number from 0 to 1"),
        ([GOOD], [-1], "label -1"),
        ([GOOD], [0.5], "label 0.5"),
        ([GOOD], [0, 1], r"boxes of shape \(1, 4\) and labels of shape \(2,\)"),
    ],
)
def test_wrong_boxes_are_refused(box, label, message):
    with pytest.raises(jdl.Error, match=message):
        jdl.data.boxed_images(np.zeros((2, 8, 10, 1), np.uint8), [[GOOD], box], [[1], label], "ab")


@pytest.fixture
def annotated(tmp_path):
    """Two images of a white rectangle, and their annotations."""
    boxes = {1: (20, 30, 40, 10), 2: (4, 2, 3, 8)}
    for n, size in ((1, (100, 50)), (2, (10, 20))):
        pixels = np.zeros((*size[::-1], 3), np.uint8)
        x, y, width, height = boxes[n]
        pixels[y : y + height, x : x + width] = 255
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    return tmp_path, {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in (2, 1)],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 7, "bbox": boxes[1]},
            {"id": 6, "image_id": 2, "category_id": 3, "bbox": boxes[2], "iscrowd": 0},
            {"id": 8, "image_id": 2, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
    }


def read(folder, data, **options):
    (folder / "boxes.json").write_text(json.dumps(data))
    return jdl.data.coco(folder / "boxes.json", folder, (40, 40), **options)


def test_cocos_boxes_go_with_their_images(annotated):
    with pytest.warns(UserWarning, match="1 boxes around crowds"):
        data = read(*annotated, channels=1)
    assert data.labels == ("cat", "dog")
    columns = data.columns
    np.testing.assert_array_equal(columns["y"], [[0], [1]])
    for x, (box,) in zip(columns["x"][..., 0], columns["boxes"], strict=True):
        rows, columns = np.nonzero(x > 127)
        edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        np.testing.assert_allclose(box, edges, atol=0.6)


@pytest.mark.parametrize(
    ("part", "entry", "message"),
    [
        ("annotations", {"id": 9, "image_id": 3}, "annotation 9 needs the image_id of an image"),
        ("annotations", {"image_id": 1, "category_id": 7, "bbox": [1]}, "bbox of 4 numbers"),
        (
            "annotations",
            {"image_id": 1, "category_id": 7, "bbox": [90, 0, 20, 9]},
            r"1.png: annotation 2 has the bbox \[90, 0, 20, 9\], which is empty, reversed "
            "or out of the image of 100 x 50 pixels",
        ),
        ("annotations", {"image_id": 1, "category_id": 7, "bbox": 4}, "numbers, .* and 4"),
        ("annotations", {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, "4"]}, "4 numbers"),
        ("images", {"id": 1, "file_name": "1.png"}, "entry 2 of images needs an id of its own"),
        ("categories", {"id": 9}, "and a name"),
    ],
)
def test_wrong_annotations_are_refused(annotated, part, entry, message):
    folder, data = annotated
    data[part].append(entry)
    data["annotations"] = [entry for entry in data["annotations"] if not entry.get("iscrowd")]
    with pytest.raises(jdl.Error, match=message):
        read(folder, data)
    with pytest.raises(jdl.Error, match="the category cat, which is none of"):
        read(folder, {**data, part: data[part][:-1]}, labels=["dog"])


def test_channels_and_sizes_of_images(annotated):
    folder, data = annotated
    data["annotations"] = []
    (folder / "boxes.json").write_text(json.dumps(data))
    read = partial(jdl.data.coco, folder / "boxes.json", folder)
    assert read(np.int64(20)).columns["x"].shape == (2, 20, 20, 3)
    with pytest.raises(jdl.Error, match="1, 3 or 4 channels here, not 2"):
        read(20, channels=2)
    with pytest.raises(jdl.Error, match="size is a number of pixels"):
        read("20")
