"""What one writes by hand: a CNN of PyTorch behind FastAPI. scripts/bench serve measures it.

python scripts/bench_serve_torch.py PORT
"""

import sys

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from torch.nn import BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential


class Rows(BaseModel):
    """Images, with an axis of channels."""

    rows: list[list[list[list[float]]]]


def cnn():
    """The model of experiments/digits_cnn.py, with random weights."""
    layers, inputs = [], 1
    for outputs in (32, 64):
        for _ in range(2):
            layers += [Conv2d(inputs, outputs, 3, padding=1), BatchNorm2d(outputs), ReLU()]
            inputs = outputs
        layers.append(MaxPool2d(2))
    return Sequential(*layers, Flatten(), Linear(256, 10)).eval()


app, model = FastAPI(), cnn()


@app.get("/readyz")
def ready():
    """It is ready as soon as it answers."""
    return {}


@app.post("/predict")
def predict(body: Rows):
    """Labels and probabilities."""
    with torch.inference_mode():
        x = torch.tensor(body.rows).permute(0, 3, 1, 2)
        probability = model(x).softmax(-1)
    labels = probability.argmax(-1).tolist()
    pairs = zip(labels, probability.tolist(), strict=True)
    return {"predictions": [{"label": str(label), "probability": p} for label, p in pairs]}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
