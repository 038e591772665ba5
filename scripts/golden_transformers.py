"""Writes tests/golden/transformers/: small random models of transformers, and their outputs.

It needs PyTorch and transformers, which the tests do not:

    python scripts/golden_transformers.py [NAME ...]

A file has the config.json, the weights as transformers saves them, the inputs, the outputs and,
of a causal language model, the tokens that greedy generation continues a prompt with. Of an
encoder-decoder they are those that follow its start tokens, also by beam search.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

FOLDER = Path(__file__).parents[1] / "tests" / "golden" / "transformers"
ROWS, STEPS, VOCABULARY, PROMPT, GENERATED = 2, 10, 31, 4, 8
BEAMS, SAMPLES = 3, 3_200

DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}
ROBERTA = ENCODER | {"max_position_embeddings": 18, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
DISTILBERT = {
    "vocab_size": VOCABULARY,
    "dim": 16,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 24,
    "max_position_embeddings": 16,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 20,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 7,
}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
WHISPER = {
    "vocab_size": VOCABULARY,
    "d_model": 12,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "max_source_positions": SAMPLES // 320,
    "max_target_positions": 16,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "begin_suppress_tokens": None,
    "decoder_start_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32},
    ),
    "llama": ("LlamaForCausalLM", DECODER | {"rope_parameters": LLAMA3}),
    "llama_tied": (
        "LlamaForCausalLM",
        DECODER | {"rope_parameters": LINEAR, "tie_word_embeddings": True},
    ),
    "mistral": ("MistralForCausalLM", DECODER | {"head_dim": 6, "sliding_window": 4}),
    "qwen2": ("Qwen2ForCausalLM", DECODER | {"tie_word_embeddings": True}),
    "qwen2_window": ("Qwen2ForCausalLM", DECODER | QWEN_WINDOW),
    "qwen3": ("Qwen3ForCausalLM", DECODER | {"head_dim": 8}),
    "bert_base": ("BertModel", ENCODER),
    "bert_masked": ("BertForMaskedLM", ENCODER),
    "bert_texts": ("BertForSequenceClassification", ENCODER | {"num_labels": 3}),
    "bert_tokens": ("BertForTokenClassification", ENCODER | {"num_labels": 5}),
    "roberta_masked": ("RobertaForMaskedLM", ROBERTA),
    "roberta_texts": ("RobertaForSequenceClassification", ROBERTA | {"num_labels": 3}),
    "xlm_roberta_tokens": ("XLMRobertaForTokenClassification", ROBERTA | {"num_labels": 5}),
    "distilbert_masked": ("DistilBertForMaskedLM", DISTILBERT),
    "distilbert_texts": ("DistilBertForSequenceClassification", DISTILBERT | {"num_labels": 3}),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5_v1_1": ("T5ForConditionalGeneration", T5 | V1_1 | {"num_decoder_layers": 1}),
    "whisper": ("WhisperForConditionalGeneration", WHISPER),
    "mt5": ("MT5ForConditionalGeneration", T5 | {"num_layers": 1}),
}
UNTIED = ("t5_v1_1", "mt5")  # which transformers does not say in their config.json


def random_model(class_name: str, options: dict[str, Any], untied: bool) -> Any:
    """A model with random numbers everywhere, in biases and norms too."""
    torch.manual_seed(0)
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**options)).eval()
    if untied:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    for name, parameter in model.named_parameters():
        norm = "norm" in name.lower() or "ln_" in name
        mean = 1.0 if norm and name.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, mean, 0.3)
    return model


def saved(model: Any) -> tuple[str, dict[str, np.ndarray]]:
    """The config.json and the weights that transformers writes for a model."""
    with TemporaryDirectory() as name:
        model.save_pretrained(name)
        folder = Path(name)
        config = json.loads((folder / "config.json").read_text())
        return json.dumps(config), load_file(folder / "model.safetensors")


def inputs(class_name: str) -> dict[str, torch.Tensor]:
    """Tokens, of an encoder also their types and a mask of the real ones; of Whisper sounds."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, VOCABULARY, (ROWS, STEPS), generator=generator)
    if class_name.startswith("Whisper"):
        return {"input_features": features(), "decoder_input_ids": tokens}
    if "Causal" in class_name or "GPT2" in class_name:
        return {"input_ids": tokens}
    real = torch.arange(STEPS)[None] < torch.tensor([[STEPS], [STEPS - 3]])
    found = {"input_ids": torch.where(real, tokens, 1), "attention_mask": real.long()}
    if "ConditionalGeneration" in class_name:
        found["decoder_input_ids"] = tokens.flip(1)[:, :GENERATED]
    if class_name.startswith("Bert"):
        found["token_type_ids"] = (torch.arange(STEPS)[None] > 4).long().expand(ROWS, -1)
    return found


def written(model: Any, given: dict[str, torch.Tensor], **options: Any) -> np.ndarray:
    """The tokens that generation writes after a prompt, or after the start tokens."""
    model.generation_config.eos_token_id = None
    model.generation_config.decoder_start_token_id = 0
    # Whisper's own, of pieces of long sounds and their times, ends in this one.
    generate = transformers.GenerationMixin.generate
    asked = {"do_sample": False, "max_new_tokens": GENERATED, "pad_token_id": 0, **options}
    whole = generate(model, **given, **asked)
    return whole[:, -GENERATED:].numpy().astype(np.int32)


def waveforms() -> np.ndarray:
    """Two sounds, whole numbers of 16 bits: one grows louder, one rises and ends; both with noise.

    Without noise, in a pure tone, PyTorch's own features are 3e-5 from what float64 gives.
    """
    draw, times = np.random.default_rng(0), np.arange(SAMPLES) / 16_000
    noise = draw.normal(0, 3_000, (2, SAMPLES)) * np.stack([times, 0.1 + 0 * times])
    tone = 20_000 * np.sin(2 * np.pi * (300 + 4_000 * times) * times)
    noise[1] = (noise[1] + tone) * (times < 0.07)
    return noise.astype(np.int16)


def features() -> torch.Tensor:
    """The log-mel spectrograms of Whisper."""
    extract = transformers.WhisperFeatureExtractor()
    sounds = list(waveforms().astype(np.float32) / 2**15)
    options = {"sampling_rate": 16_000, "max_length": SAMPLES, "return_tensors": "pt"}
    return extract(sounds, **options).input_features


def golden(class_name: str, options: dict[str, Any], untied: bool) -> dict[str, np.ndarray]:
    """What is written of a model."""
    model = random_model(class_name, options, untied)
    config, weights = saved(model)
    given = inputs(class_name)
    with torch.no_grad():
        out = model(**given)[0]
        found = {"config": np.asarray(config), "out": out.numpy()}
        if "decoder_input_ids" in given:
            whisper = "input_features" in given
            start = torch.tensor([[24, 6, 7, 27]] if whisper else [[0]])
            read = given | {"decoder_input_ids": start.expand(ROWS, -1)}
            found |= {"generated": written(model, read), "start": start[0].numpy()}
            beams = {"num_beams": BEAMS, "num_return_sequences": BEAMS, "length_penalty": 0.0}
            found["beams"] = written(model, read, **beams)
        elif "attention_mask" not in given:
            found["generated"] = written(model, {"input_ids": given["input_ids"][:, :PROMPT]})
    if "input_features" in given:
        frames = given.pop("input_features")[:, :, ::3].numpy()
        found |= {"input_features": frames, "waveforms": waveforms()}
    found |= {name: x.numpy().astype(np.int32) for name, x in given.items()}
    return found | {f"weights/{name}": array for name, array in weights.items()}


def main() -> None:
    """Writes the files of the names that are given, or all of them."""
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or MODELS:
        class_name, options = MODELS[name]
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, **golden(class_name, options, name in UNTIED))
        print(f"{path.name}: {path.stat().st_size:,} bytes")
    print(f"transformers {transformers.__version__}, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
