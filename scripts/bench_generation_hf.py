"""Generation by transformers, for `scripts/bench generation`: prints tokens a second as JSON.

A process of its own, as transformers is no dependency: python bench_generation_hf.py PLAN. The plan
has the sizes of a GPT-2, and for each case the new tokens that each request of a batch wants.
"""

import json
import sys
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def rates(model: GPT2LMHeadModel, plan: dict, wanted: list[int]) -> tuple[float, float]:
    """Tokens a second by the clock and by processor time; the second of two runs."""
    prompts = torch.randint(0, plan["vocabulary"], (len(wanted), plan["prompt"])).to(model.device)
    for _ in range(2):
        clock, processor = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            out = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=max(wanted),
                do_sample=False,
            )
        out = out.cpu()  # waits for a GPU
        assert out.shape[1] == plan["prompt"] + max(wanted)
        seconds = time.perf_counter() - clock, time.process_time() - processor
    return sum(wanted) / seconds[0], sum(wanted) / seconds[1]


def main() -> None:
    """Each case with one thread and with one a core: the better one by the clock counts."""
    plan = json.loads(sys.argv[1])
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=plan["vocabulary"],
        n_embd=plan["width"],
        n_layer=plan["depth"],
        n_head=plan["heads"],
        n_positions=plan["length"],
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, found = GPT2LMHeadModel(config).eval().to(device), []
    for threads in (1, torch.get_num_threads()):
        torch.set_num_threads(threads)
        found.append([rates(model, plan, wanted) for wanted in plan["cases"]])
    print(json.dumps([max(both) for both in zip(*found, strict=True)]))


if __name__ == "__main__":
    main()
