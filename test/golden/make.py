"""Makes the reference cases of `own.json`: tiny checkpoints with random weights, and what `transformers` computes for them in float32.

    python make.py [CASE ...]

Needs torch, transformers and safetensors; which versions made the cases stands in own.json. A case is made again bit by bit from its
seed, which is the first from 1 on whose greedy tokens leave a margin that float32 arithmetic cannot cross.
"""
import json
import os
import shutil
import sys

import safetensors.torch
import torch
import transformers
from transformers import (AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, GPT2Config, LlamaConfig,
                          MistralConfig, MixtralConfig, Phi3Config, Qwen2Config, Qwen3MoeConfig)

HERE = os.path.dirname(os.path.abspath(__file__))
GREEDY_TOKENS = 32
MARGIN = 2e-3

BASE = dict(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.2)


def rope(kind, **more):
    return dict(rope_type=kind, rope_theta=10000.0, **more)


def gemma3_of_text_and_images():
    text = Gemma3TextConfig(**{**BASE, "head_dim": 8, "sliding_window": 16, "num_hidden_layers": 3, "query_pre_attn_scalar": 24,
                               "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]})
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    return Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, boi_token_index=93, eoi_token_index=94,
                        image_token_index=95)


# name: what it exercises, configuration, data type of the file, prompt length, positions whose logits are kept
CASES = {
    "llama-dynamic": ("dynamic RoPE within the positions of the model; attention bias; bfloat16 file",
                      lambda: LlamaConfig(**{**BASE, "max_position_embeddings": 64, "attention_bias": True},
                                          rope_parameters=rope("dynamic", factor=4.0)), torch.bfloat16, 24),
    "llama-linear-tied": ("linear RoPE, tied head, vocabulary 97, float16 file",
                          lambda: LlamaConfig(**{**BASE, "vocab_size": 97, "tie_word_embeddings": True},
                                              rope_parameters=rope("linear", factor=3.0)), torch.float16, 40),
    "llama-yarn-ramp": ("yarn RoPE with bounds that are not whole, and a factor on cosine and sine of its own",
                        lambda: LlamaConfig(**BASE, rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=8.0,
                                                                       beta_slow=0.5, attention_factor=1.1, truncate=False)), torch.float32, 100),
    "phi3-longrope": ("longrope within the original positions, three quarters of each head turn, float16 file",
                      lambda: Phi3Config(**{**BASE, "max_position_embeddings": 256, "num_attention_heads": 4, "hidden_size": 64},
                                         original_max_position_embeddings=64,
                                         rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75,
                                                              short_factor=[1.0 + i / 4 for i in range(6)],
                                                              long_factor=[4.0 + i for i in range(6)])), torch.float16, 24),
    "mistral-no-window": ("no sliding window, head_dim other than hidden / heads, bfloat16 file",
                          lambda: MistralConfig(**{**BASE, "head_dim": 12, "sliding_window": None}), torch.bfloat16, 40),
    "qwen2-windows": ("a sliding window from the second layer on, tied head, bfloat16 file",
                      lambda: Qwen2Config(**{**BASE, "num_hidden_layers": 3, "tie_word_embeddings": True}, use_sliding_window=True,
                                          sliding_window=12, max_window_layers=1), torch.bfloat16, 40),
    "gpt2-untied": ("a head of its own, inner width 80, scores scaled by layer, vocabulary 97, bfloat16 file",
                    lambda: GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=128, n_inner=80, bos_token_id=1, eos_token_id=2,
                                       initializer_range=0.2, scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=False),
                    torch.bfloat16, 40),
    "gemma3-text-and-images": ("the language model inside a model of text and images, bfloat16 file", gemma3_of_text_and_images,
                               torch.bfloat16, 40),
    "mixtral-fused": ("all experts in two tensors a layer, a sliding window, bfloat16 file",
                      lambda: MixtralConfig(**BASE, num_local_experts=4, num_experts_per_tok=2, sliding_window=16), torch.bfloat16, 40),
    "qwen3-moe-probabilities": ("weights of experts that do not add up to one, three experts of six, tied head, float16 file",
                                lambda: Qwen3MoeConfig(**{**BASE, "head_dim": 8, "tie_word_embeddings": True}, num_experts=6,
                                                       num_experts_per_tok=3, moe_intermediate_size=16, norm_topk_prob=False),
                                torch.float16, 40),
}


def new_model(config, dtype, seed):
    torch.manual_seed(seed)
    kind = Gemma3ForConditionalGeneration if config.model_type == "gemma3" else None
    model = kind(config) if kind else AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # biases and norms are made equal, and would hide a mistake
            if name.endswith("bias") or "norm" in name or ".ln_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            parameter.copy_(parameter.to(dtype))         # what the file holds; tables that no file holds stay as they are
    return model.eval()


def with_tokens(model, ids, count):
    """Greedy continuation of each row, alone and token by token from a fresh cache; also the smallest gap between the two best logits."""
    rows, margin = [], float("inf")
    for row in ids:
        tokens, cache = [], None
        current = row[None]
        for _ in range(count):
            out = model(input_ids=current, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            best = out.logits[0, -1].topk(2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            tokens.append(int(best.indices[0]))
            current = best.indices[:1][None]
        rows.append(tokens)
    return rows, margin


def fuse_experts(folder):
    """The layout of the parameters themselves, which save_pretrained takes apart."""
    path = os.path.join(folder, "model.safetensors")
    tensors = safetensors.torch.load_file(path)
    layers = sorted({name.split(".")[2] for name in tensors if ".experts." in name}, key=int)
    for layer in layers:
        old, new = f"model.layers.{layer}.block_sparse_moe.", f"model.layers.{layer}.mlp."
        count = 1 + max(int(name.split(".")[5]) for name in tensors if name.startswith(f"{old}experts."))
        parts = {part: [tensors.pop(f"{old}experts.{e}.{part}.weight") for e in range(count)] for part in ("w1", "w2", "w3")}
        tensors[f"{new}gate.weight"] = tensors.pop(f"{old}gate.weight")
        tensors[f"{new}experts.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in zip(parts["w1"], parts["w3"])])
        tensors[f"{new}experts.down_proj"] = torch.stack(parts["w2"])
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


@torch.no_grad()
def make(name):
    exercises, config_of, dtype, length = CASES[name]
    for seed in range(1, 100):
        config = config_of()
        config._attn_implementation = "eager"
        model = new_model(config, dtype, seed)
        vocabulary = model.get_input_embeddings().num_embeddings
        ids = torch.randint(3, min(vocabulary, 93), (2, length), generator=torch.Generator().manual_seed(seed))
        greedy, margin = with_tokens(model, ids, GREEDY_TOKENS)
        if margin >= MARGIN:
            break
    else:
        raise SystemExit(f"{name}: no seed below 100 leaves a margin of {MARGIN}")
    positions = [length - 8, length]
    logits = torch.cat([model(input_ids=row[None]).logits for row in ids])[:, positions[0]:positions[1]].contiguous()
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    model.to(dtype).save_pretrained(folder)
    if name.endswith("-fused"):
        fuse_experts(folder)
    safetensors.torch.save_file({"input_ids": ids, "logits": logits}, os.path.join(folder, "expected.safetensors"))
    with open(os.path.join(folder, "expected.json"), "w") as file:
        json.dump({"greedy": greedy, "margin": margin, "logits_positions": positions}, file)
    size = sum(os.path.getsize(os.path.join(folder, file)) for file in os.listdir(folder))
    print(f"{name}: seed {seed}, margin {margin:.4f}, {size // 1024} KB")
    return {"exercises": exercises, "seed": seed, "margin": margin}


def main(names):
    path = os.path.join(HERE, "own.json")
    known = json.load(open(path))["cases"] if os.path.exists(path) else {}
    for name in names or CASES:
        known[name] = make(name)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    with open(path, "w") as file:
        json.dump({"made with": versions, "cases": known}, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
