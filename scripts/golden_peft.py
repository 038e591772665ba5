"""Writes tests/golden/peft/: adapters of Hugging Face's PEFT on small models, and their outputs.

It needs PyTorch, transformers and peft, which the tests do not:

    python scripts/golden_peft.py

The base models are those of tests/golden/transformers/ and tests/golden/vision/. A file has
the adapter_config.json, the adapters with random numbers as PEFT saves them, and the outputs.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import peft
import torch
import transformers
from safetensors.numpy import load_file, save_file

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
ADAPTERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": (
        "transformers/bert_texts",
        "BertForSequenceClassification",
        {"target_modules": ["query", "value"], "use_rslora": True, "task_type": "SEQ_CLS"},
    ),
    "bert_new_head": (
        "transformers/bert_base",
        "BertForSequenceClassification",
        {
            "target_modules": r".*encoder\.layer.*dense",
            "use_dora": True,
            "modules_to_save": ["classifier", "pooler"],
        },
    ),
    "bert_base": (
        "transformers/bert_base",
        "BertModel",
        {"target_modules": ["query"], "modules_to_save": ["encoder.layer.0.attention.self.key"]},
    ),
    "gpt2": (
        "transformers/gpt2",
        "GPT2LMHeadModel",
        {
            "target_modules": ["c_attn", "c_fc"],
            "use_dora": True,
            "fan_in_fan_out": True,
            "rank_pattern": {"c_fc": 3},
            "alpha_pattern": {"c_fc": 4},
        },
    ),
    "llama": (
        "transformers/llama",
        "LlamaForCausalLM",
        {"target_modules": ["q_proj", "down_proj"], "modules_to_save": ["model.norm"]},
    ),
    "resnet": (
        "vision/resnet_basic",
        "ResNetForImageClassification",
        {
            "target_modules": ["convolution"],
            "use_dora": True,
            "modules_to_save": ["classifier", "resnet.embedder.embedder.normalization"],
        },
    ),
    "bert_ia3": (
        "transformers/bert_texts",
        "BertForSequenceClassification",
        {
            "target_modules": ["key", "value", "output.dense"],
            "feedforward_modules": ["output.dense"],
            "modules_to_save": ["classifier"],
        },
    ),
    "gpt2_ia3": (
        "transformers/gpt2",
        "GPT2LMHeadModel",
        {
            "target_modules": ["c_attn", "mlp.c_proj"],
            "feedforward_modules": r".*mlp\.c_proj",
            "fan_in_fan_out": True,
        },
    ),
    "resnet_ia3": (
        "vision/resnet_basic",
        "ResNetForImageClassification",
        {
            "target_modules": r".*layer\.\d\.convolution",
            "feedforward_modules": r".*layer\.1\.convolution",
        },
    ),
}


def base_model(name: str, class_name: str) -> tuple[Any, dict[str, Any]]:
    """The base model, a part of it fresh if it is of another class, and its inputs."""
    arrays = dict(np.load(GOLDEN / f"{name}.npz"))
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(str(arrays["config"]))
        weights = {k.removeprefix("weights/"): v for k, v in arrays.items() if "weights/" in k}
        save_file(weights, Path(folder) / "model.safetensors", {"format": "pt"})
        model = getattr(transformers, class_name).from_pretrained(folder)
    names = ("input_ids", "attention_mask", "token_type_ids")
    given = {k: torch.from_numpy(arrays[k]).long() for k in names if k in arrays}
    if "x" in arrays:
        given["pixel_values"] = torch.from_numpy(arrays["x"]).float().permute(0, 3, 1, 2)
    return model.eval(), given


def golden(name: str, class_name: str, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """The adapters, their configuration, and what comes out."""
    torch.manual_seed(0)
    model, given = base_model(name, class_name)
    ia3 = "feedforward_modules" in options
    config = peft.IA3Config(**options) if ia3 else peft.LoraConfig(r=2, lora_alpha=6, **options)
    adapted = peft.get_peft_model(model, config).eval()
    for key, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            factor = any(name in key for name in ("magnitude", "norm", "ia3"))
            torch.nn.init.normal_(parameter, 1.0 if factor else 0.0, 0.3)
    with TemporaryDirectory() as folder, torch.no_grad():
        adapted.save_pretrained(folder)
        config = (Path(folder) / "adapter_config.json").read_text()
        weights = load_file(Path(folder) / "adapter_model.safetensors")
        out = adapted(**given)[0].numpy()
    known = {
        "base": name,
        "class": class_name,
        "config": json.dumps(json.loads(config)),
        "out": out,
    }
    return known | {f"weights/{key}": array for key, array in weights.items()}


def main() -> None:
    """Writes all files."""
    folder = GOLDEN / "peft"
    folder.mkdir(exist_ok=True)
    for name, arguments in ADAPTERS.items():
        path = folder / f"{name}.npz"
        np.savez_compressed(path, **golden(*arguments))
        print(f"{path.name}: {path.stat().st_size:,} bytes")
    print(f"peft {peft.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
