"""Tiny random checkpoints with unusual configurations, written by transformers itself: what bench/parity compares on beside real models.

Every choice that a family's configuration class offers and that changes a logit is thrown by dice, sometimes to what few or none use. What
is left at the class's default is sometimes left out of config.json, and some files are spelled as before transformers 5.
"""
import dataclasses
import json
import os
import random

import torch
from transformers import (AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig, MistralConfig, MixtralConfig, Phi3Config,
                          Qwen2Config, Qwen3Config, Qwen3MoeConfig)

COMMON_ACTIVATIONS = ["silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu"]
RARE_ACTIVATIONS = ["swish", "gelu_fast", "quick_gelu", "gelu_python", "gelu_python_tanh", "gelu_10", "gelu_accurate", "relu2", "relu6", "tanh",
                    "sigmoid", "mish", "linear", "hardswish", "leaky_relu", "laplace"]
EPSILONS = [1e-12, 1e-6, 1e-5, 1e-3, 0.1]
FILE_TYPES = [torch.float32, torch.bfloat16, torch.float16]


class Dice:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def whole(self, least, most):
        return self.random.randint(least, most)

    def number(self, least, most):
        return round(self.random.uniform(least, most), 3)

    def one(self, choices):
        return self.random.choice(choices)

    def chance(self, probability):
        return self.random.random() < probability

    def some(self, probability, **fields):
        """These fields, or none of them: then the class's default holds."""
        return fields if self.chance(probability) else {}


def divisors(number):
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def activation(dice):
    return dice.one(COMMON_ACTIVATIONS if dice.chance(0.85) else RARE_ACTIVATIONS)


def special_tokens(dice):
    return dict(bos_token_id=1, eos_token_id=dice.one([2, [2, 3], None]), pad_token_id=dice.one([0, None]))


def plain_rope(dice):
    return dict(rope_type="default", rope_theta=dice.one([10000.0, 500000, 1e6, 123.5, 2.0]))


def scaled_rope(dice, positions, kinds=("linear", "dynamic", "yarn", "llama3")):
    kind = dice.one(kinds)
    rope = {**plain_rope(dice), "rope_type": kind, "factor": dice.one([1.0, 2.0, 3.7, 8, 40.0])}
    original = dice.one([positions, positions // 2, positions // 4])
    if kind == "llama3":
        rope.update(low_freq_factor=dice.one([1.0, 0.5, 2]), high_freq_factor=dice.one([4.0, 3.0, 32]), original_max_position_embeddings=original)
    if kind == "yarn":
        rope.update(original_max_position_embeddings=original,
                    **dice.some(0.4, beta_fast=dice.one([32, 16.0, 4.0]), beta_slow=dice.one([1, 0.5, 2.0])),
                    **dice.some(0.3, attention_factor=dice.number(0.5, 1.5)), **dice.some(0.3, truncate=dice.chance(0.5)),
                    **dice.some(0.3, mscale=dice.one([1.0, 0.707, 2]), mscale_all_dim=dice.one([1.0, 0.5, 0])))
    return rope


def shapes(dice):
    """Sizes that the families with rotary embeddings share; some widths are odd, and head_dim need not be hidden / heads."""
    heads = dice.one([1, 2, 3, 4, 5, 6, 8, 8, 9, 12, 16])
    own_head_dim = dice.chance(0.5)
    width = heads * dice.whole(1, max(2, 96 // heads)) if own_head_dim else 2 * heads * dice.whole(1, max(2, 48 // heads))
    positions = dice.one([96, 128, 200, 256])
    return dict(vocab_size=dice.whole(20, 400), hidden_size=max(width, 8 * heads if heads < 3 else width), intermediate_size=dice.whole(3, 160),
                num_hidden_layers=dice.whole(1, 4), num_attention_heads=heads, max_position_embeddings=positions,
                initializer_range=dice.one([0.1, 0.2]), **special_tokens(dice),
                **dice.some(0.8, num_key_value_heads=dice.one(divisors(heads))),
                **({"head_dim": 2 * dice.one([1, 2, 3, 4, 5, 8, 12, 16, 17, 20, 32, 40, 64])} if own_head_dim else {}),
                **dice.some(0.5, hidden_act=activation(dice)), **dice.some(0.5, rms_norm_eps=dice.one(EPSILONS)),
                **dice.some(0.5, tie_word_embeddings=dice.chance(0.5)))


def with_rope(dice, fields, probability=0.5):
    if not dice.chance(0.7):
        return fields  # the class's default
    scaled = dice.chance(probability)
    return {**fields, "rope_parameters": scaled_rope(dice, fields["max_position_embeddings"]) if scaled else plain_rope(dice)}


def given_heads(fields, heads):
    """A class whose default number of KV heads is no divisor of this model's heads gets one that is."""
    return {**fields, **({} if "num_key_value_heads" in fields or fields["num_attention_heads"] % heads == 0 else {"num_key_value_heads": 1})}


def window(dice):
    """Not 1: transformers 5.23 then caches what the window hides, and its greedy answer is not that of its own logits."""
    return dice.one([2, 3, 7, 16, 33])


def layer_types(dice, count):
    return [dice.one(["sliding_attention", "full_attention"]) for _ in range(count)]


def llama(dice):
    fields = with_rope(dice, shapes(dice))
    return LlamaConfig, {**fields, **dice.some(0.4, attention_bias=True), **dice.some(0.4, mlp_bias=True), **dice.some(0.1, pretraining_tp=2)}


def mistral(dice):
    fields = given_heads(with_rope(dice, shapes(dice)), 8)
    windows = dice.some(0.7, sliding_window=dice.one([None, window(dice)]))
    if windows.get("sliding_window") and dice.chance(0.4):
        windows.update(layer_types=layer_types(dice, fields["num_hidden_layers"]))
    return MistralConfig, {**fields, **windows}


def flagged_windows(dice, fields, types=True):
    """Of Qwen's families: a window that counts only where a flag says so."""
    chosen = dict(use_sliding_window=dice.chance(0.7), sliding_window=window(dice))
    if types and dice.chance(0.5):
        chosen.update(max_window_layers=dice.whole(0, 4))
    elif types and dice.chance(0.5):
        chosen.update(layer_types=layer_types(dice, fields["num_hidden_layers"]))
    return {**fields, **(chosen if dice.chance(0.6) else {})}


def qwen2(dice):
    return Qwen2Config, flagged_windows(dice, given_heads(with_rope(dice, shapes(dice)), 32))


def qwen3(dice):
    fields = flagged_windows(dice, given_heads(with_rope(dice, shapes(dice)), 32))
    return Qwen3Config, {**fields, **dice.some(0.4, attention_bias=True)}


def phi3(dice):
    fields = shapes(dice)
    fields.pop("head_dim", None)  # the family has none
    heads = fields["num_attention_heads"]
    fields["hidden_size"] = heads * 2 * max(2, fields["hidden_size"] // (2 * heads))
    head_dim = fields["hidden_size"] // heads
    part = dice.one([part for part in (1.0, 0.5, 0.75, 0.25) if head_dim * part >= 2 and head_dim * part % 2 == 0])
    original = dice.one([fields["max_position_embeddings"], fields["max_position_embeddings"] // 2])
    rope = {**plain_rope(dice), "partial_rotary_factor": part}
    if dice.chance(0.5):
        turned = int(head_dim * part) // 2
        rope.update(rope_type="longrope", short_factor=[dice.number(1, 3) for _ in range(turned)],
                    long_factor=[dice.number(2, 9) for _ in range(turned)], **dice.some(0.3, factor=dice.one([1.0, 4.0])),
                    **dice.some(0.3, attention_factor=dice.number(0.5, 1.5)))
    more = dict(sliding_window=dice.one([None, window(dice)]), original_max_position_embeddings=original)
    return Phi3Config, {**fields, **more, **({"rope_parameters": rope} if dice.chance(0.8) else {})}


def gemma3_text(dice):
    fields = given_heads(shapes(dice), 4)
    fields.setdefault("head_dim", 2 * dice.whole(1, 20))  # the default is 256
    fields["hidden_activation"] = fields.pop("hidden_act", "gelu_pytorch_tanh")
    positions = fields["max_position_embeddings"]
    rope = {"sliding_attention": plain_rope(dice),
            "full_attention": scaled_rope(dice, positions) if dice.chance(0.5) else plain_rope(dice)}
    windows = dice.one([{}, dict(layer_types=layer_types(dice, fields["num_hidden_layers"])), dict(sliding_window_pattern=dice.whole(1, 3))])
    softcaps = {**dice.some(0.1, final_logit_softcapping=3.0), **dice.some(0.1, attn_logit_softcapping=5.0)}
    return Gemma3TextConfig, {**fields, **windows, **softcaps, "sliding_window": window(dice),
                              **dice.some(0.7, query_pre_attn_scalar=dice.one([4, 24, 256, 100.5])), **dice.some(0.5, rope_parameters=rope),
                              **dice.some(0.05, use_bidirectional_attention=True)}


def gpt2(dice):
    heads = dice.one([1, 2, 3, 4, 5, 7, 8, 12])
    fields = dict(vocab_size=dice.whole(20, 400), n_embd=heads * 2 * dice.whole(2, max(3, 40 // heads)), n_layer=dice.whole(1, 4), n_head=heads,
                  n_positions=dice.one([96, 128]), initializer_range=0.2, **special_tokens(dice), **dice.some(0.6, n_inner=dice.whole(3, 160)),
                  **dice.some(0.6, activation_function=activation(dice)), **dice.some(0.5, layer_norm_epsilon=dice.one(EPSILONS)),
                  **dice.some(0.3, scale_attn_by_inverse_layer_idx=True), **dice.some(0.2, reorder_and_upcast_attn=True),
                  **dice.some(0.5, tie_word_embeddings=dice.chance(0.5)), **dice.some(0.05, add_cross_attention=True))
    if dice.chance(0.3):  # with smaller weights: else one score takes all, and float32 itself is off by 1e-3
        fields.update(scale_attn_weights=False, initializer_range=0.1)
    return GPT2Config, fields


def experts(dice):
    count = dice.one([1, 2, 3, 4, 7, 8, 16])
    return count, dice.whole(1, count)


def mixtral(dice):
    count, chosen = experts(dice)
    fields = given_heads(with_rope(dice, shapes(dice)), 8)
    known = dict(num_local_experts=count, num_experts_per_tok=chosen) if dice.chance(0.8) else {}
    return MixtralConfig, {**fields, **known, **dice.some(0.3, sliding_window=window(dice))}


def qwen3_moe(dice):
    count, chosen = experts(dice)
    fields = given_heads(with_rope(dice, shapes(dice)), 4)
    sparse = {**dice.some(0.4, decoder_sparse_step=dice.whole(1, 3)),
              **dice.some(0.3, mlp_only_layers=sorted({dice.whole(0, fields["num_hidden_layers"] - 1) for _ in range(2)}))}
    return Qwen3MoeConfig, {**flagged_windows(dice, fields, types=False), **sparse, "num_experts": count, "num_experts_per_tok": chosen,
                            "moe_intermediate_size": dice.whole(2, 48), **dice.some(0.6, norm_topk_prob=dice.chance(0.5)),
                            **dice.some(0.4, attention_bias=True)}


FAMILIES = {"llama": llama, "mistral": mistral, "qwen2": qwen2, "qwen3": qwen3, "phi3": phi3, "gemma3_text": gemma3_text, "gpt2": gpt2,
            "mixtral": mixtral, "qwen3_moe": qwen3_moe}


def with_noise(model, dtype):
    """Biases and norms are made equal, and would hide a mistake. Values are those that the file holds."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name or ".ln_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(dtype)


# What a class makes of other fields, and what says what the file is: never left out.
KEPT = {"architectures", "model_type", "dtype", "layer_types", "rope_parameters", "head_dim", "num_key_value_heads"}


def respell(path, given, nullable, dice):
    """Leaves out some of what the class has by default, and spells some files as before transformers 5."""
    with open(path) as file:
        config = json.load(file)
    for name in list(config):
        if name not in given and name not in KEPT and dice.chance(0.3):
            del config[name]
    for name in ("head_dim", "num_key_value_heads", "layer_types"):  # derived from others where not given
        if name in config and name not in given and dice.chance(0.5):
            del config[name]
            if name in nullable and dice.chance(0.5):
                config[name] = None
    if config.get("tie_word_embeddings") is False and dice.chance(0.1):
        config["tie_word_embeddings"] = True  # against the weights, which have a head of their own
    rope = config.get("rope_parameters")
    if rope is not None and "rope_theta" in rope and dice.chance(0.4):
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        kind = rope["rope_type"]
        if kind != "default" and dice.chance(0.3):
            rope["type"] = rope.pop("rope_type")
        config["rope_scaling"] = None if kind == "default" else rope
    if "dtype" in config and dice.chance(0.3):
        config["torch_dtype"] = config.pop("dtype")
    with open(path, "w") as file:
        json.dump(config, file, indent=2)


def accepted(family, dice):
    """The first configuration that transformers itself makes a model of."""
    for _ in range(50):
        kind, fields = FAMILIES[family](dice)
        torch.manual_seed(dice.whole(0, 2**31))
        try:
            return AutoModelForCausalLM.from_config(kind(**fields)), fields
        except Exception as error:
            refused = error
    raise ValueError(f"{family}: none of 50 configurations is one for transformers: {refused}")


def write(family, seed, folder):
    dice = Dice(f"{family} {seed}")
    model, fields = accepted(family, dice)
    config = model.config
    dtype = dice.one(FILE_TYPES)
    with_noise(model, dtype)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    model.save_pretrained(folder, **dice.some(0.3, max_shard_size=max(size // 4, 1)))
    given = {config.attribute_map.get(name, name) for name in fields}
    nullable = {field.name for field in dataclasses.fields(config) if field.default is None}
    respell(os.path.join(folder, "config.json"), given, nullable, dice)
    return {"fields": fields, "fileType": str(dtype).removeprefix("torch.")}
