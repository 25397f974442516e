"""Makes generation-config.json: what generate() of `transformers` gives, greedily and in float32, for the case `qwen3` with fields of
generation_config.json that change limits and logits.

    python make-generation.py

Needs torch and transformers; which versions made the file stands in it.
"""
import json
import os

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

HERE = os.path.dirname(os.path.abspath(__file__))
MARGIN = 2e-3
EOS = 2
PROMPT = [5, 17, 30, 42, 17, 9, 61, 5]
LIMIT = 20


def run(model, fields):
    config = GenerationConfig(eos_token_id=EOS, pad_token_id=0, **fields)
    limit = {} if "max_length" in fields or "max_new_tokens" in fields else {"max_new_tokens": LIMIT}
    with torch.no_grad():
        out = model.generate(torch.tensor([PROMPT]), generation_config=config, output_scores=True, return_dict_in_generate=True, **limit)
    gaps = [(top := score[0].topk(2).values)[0] - top[1] for score in out.scores]
    return out.sequences[0, len(PROMPT):].tolist(), min(float(gap) for gap in gaps)


def main():
    model = AutoModelForCausalLM.from_pretrained(os.path.join(HERE, "qwen3"), dtype=torch.float32, attn_implementation="eager")
    plain, margin = run(model, {})
    assert margin > MARGIN and EOS not in plain
    towards_end = [[[EOS], 30.0]]
    cases = {
        "max_length": {"max_length": len(PROMPT) + 7},
        "max_new_tokens over max_length": {"max_length": len(PROMPT) + 7, "max_new_tokens": 11},
        "min_length": {"min_length": len(PROMPT) + 5, "sequence_bias": towards_end},
        "min_new_tokens over min_length": {"min_length": len(PROMPT) + 9, "min_new_tokens": 2, "sequence_bias": towards_end},
        "sequence_bias of single ids": {"sequence_bias": [[[plain[0]], -9.0], [[plain[3]], 3.5], [[77], 2.0]]},
        "suppress_tokens": {"suppress_tokens": [plain[0], plain[2], 9999, -1]},
        "begin_suppress_tokens": {"begin_suppress_tokens": [plain[0]]},
        "bad_words_ids of single ids, but for the end": {"bad_words_ids": [[plain[0]], [plain[1]], [EOS]]},
        "bad_words_ids that are an end token": {"bad_words_ids": [[EOS]], "sequence_bias": towards_end},
        "sequence_bias of several ids": {"sequence_bias": [[plain[:2], -9.0], [[PROMPT[-2], PROMPT[-1], 77], 30.0], [[77, 91], 30.0], [[77], -1.0], [[91, 91], 30.0],
                                                           [[300] * 12, 5.0]]},
        "bad_words_ids of several ids": {"bad_words_ids": [plain[:2], plain[2:5], [9, PROMPT[-2], PROMPT[-1], plain[0]]]},
        "no_repeat_ngram_size 1": {"no_repeat_ngram_size": 1, "sequence_bias": [[[PROMPT[0]], 9.0], [[plain[0]], 1.0]]},
        "no_repeat_ngram_size 2": {"no_repeat_ngram_size": 2, "sequence_bias": [[[30], 4.5], [[77], 2.0]]},
        "no_repeat_ngram_size 3": {"no_repeat_ngram_size": 3, "sequence_bias": [[[30], 4.5], [[77], 2.0]], "repetition_penalty": 1.05},
        "forced_eos_token_id": {"forced_eos_token_id": EOS, "max_new_tokens": 6},
        "forced_eos_token_id that ends nothing": {"forced_eos_token_id": [50], "max_new_tokens": 6},
        "forced_eos_token_id over min_new_tokens": {"forced_eos_token_id": EOS, "max_new_tokens": 6, "min_new_tokens": 6},
        "several of them": {"suppress_tokens": [plain[1]], "sequence_bias": [[[77], 2.0]], "begin_suppress_tokens": [plain[0]],
                            "repetition_penalty": 1.3, "forced_eos_token_id": 50, "max_length": len(PROMPT) + 15},
    }
    found = []
    for name, fields in cases.items():
        tokens, margin = run(model, fields)
        assert tokens != plain and margin > MARGIN, (name, margin)
        found.append({"name": name, "fields": fields, "tokens": tokens})
    file = {"made with": {"torch": torch.__version__, "transformers": transformers.__version__}, "prompt": PROMPT, "limit": LIMIT, "plain": plain, "cases": found}
    with open(os.path.join(HERE, "generation-config.json"), "w") as out:
        out.write("{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(value) if key != 'cases' else '[' + ','.join(chr(10) + '  ' + json.dumps(one) for one in value) + chr(10) + ' ]'}" for key, value in file.items()) + "\n}\n")


main()
