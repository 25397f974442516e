"""Writes a synthetic Qwen3 checkpoint (bench/support/make-checkpoint.ts) as a GGUF file: to-gguf.py FOLDER FILE [bf16|q8_0].

bf16: the same weights, bit for bit. q8_0: every matrix quantized, blocks of 32 weights with one scale, as llama.cpp's own converter does it.
Norms in float32 as llama.cpp wants them. The tokenizer is made up: the bench feeds ids.
"""
import json
import os
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import quantize

LAYER_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
TOP_NAMES = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}


def gguf_name(name):
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def read_tensors(path):
    """Names and raw bfloat16 bits, mapped from the file."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            raise SystemExit(f"to-gguf: {name}: expected BF16, got {entry['dtype']}")
        begin, end = entry["data_offsets"]
        yield name, data[begin:end].view(np.uint16).reshape(entry["shape"])


def add_tokenizer(writer, config):
    size = config["vocab_size"]
    # A BPE vocabulary needs its 256 byte tokens and one merge; everything above them is a name that no text ever makes.
    letters = [chr(code) for code in list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))]
    letters += [chr(256 + i) for i in range(256 - len(letters))]
    tokens = (letters + [f"<t{i}>" for i in range(len(letters), size)])[:size]
    types = [TokenType.NORMAL] * size
    for special in (config["bos_token_id"], config["eos_token_id"]):
        types[special] = TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{letters[0]} {letters[1]}"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def add_shape(writer, config, file_type):
    writer.add_name("synthetic")
    writer.add_file_type(file_type)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])


FILE_TYPES = {"bf16": LlamaFileType.MOSTLY_BF16, "q8_0": LlamaFileType.MOSTLY_Q8_0}


def widened(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def add_matrix(writer, name, bits, kind):
    if kind == "q8_0":
        writer.add_tensor(name, quantize(widened(bits), GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(name, bits.view(np.uint8), raw_dtype=GGMLQuantizationType.BF16)


def main(folder, target, kind="bf16"):
    if kind not in FILE_TYPES:
        raise SystemExit(f"to-gguf: expected {' or '.join(FILE_TYPES)}, got {kind}")
    config = json.loads((Path(folder) / "config.json").read_text())
    if config["model_type"] != "qwen3":
        raise SystemExit(f"to-gguf: model_type: expected qwen3, got {config['model_type']}")
    partial = f"{target}.partial"
    writer = GGUFWriter(partial, "qwen3")
    add_shape(writer, config, FILE_TYPES[kind])
    add_tokenizer(writer, config)
    for name, bits in read_tensors(Path(folder) / "model.safetensors"):
        if bits.ndim == 1:
            writer.add_tensor(gguf_name(name), widened(bits))
        else:
            add_matrix(writer, gguf_name(name), bits, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(partial, target)


main(*sys.argv[1:])
