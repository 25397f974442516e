"""Writes a synthetic Qwen3 checkpoint (bench/support/make-checkpoint.ts) as float32 ONNX, laid out as transformers.js loads it: to-onnx.py FOLDER TARGET.

The operators are those of the Qwen3 models that are published for transformers.js: GroupQueryAttention and SimplifiedLayerNormalization of ONNX
Runtime. float32, since its CPU kernels know no bfloat16; the values are the same. Only the last row's logits are computed.
"""
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, save_model

CHUNK_BYTES = 1_900_000_000  # transformers.js may read a data file whole: each stays below 2 GiB
EXTERNAL_BYTES = 1 << 16


class Graph:
    def __init__(self, folder):
        self.nodes, self.initializers = [], []
        self.folder, self.chunks, self.file = folder, 0, None

    def node(self, op, inputs, output, domain="", **attributes):
        outputs = [output] if isinstance(output, str) else output
        self.nodes.append(helper.make_node(op, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def constant(self, name, array):
        """Small arrays stay in the graph; weights go to the data files as they come."""
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        if array.nbytes < EXTERNAL_BYTES:
            self.initializers.append(helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True))
            return name
        if self.file is None or self.file.tell() + array.nbytes > CHUNK_BYTES:
            self.next_chunk()
        tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", Path(self.file.name).name), ("offset", self.file.tell()), ("length", array.nbytes)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        np.ascontiguousarray(array).tofile(self.file)
        self.initializers.append(tensor)
        return name

    def next_chunk(self):
        self.close()
        suffix = f"_{self.chunks}" if self.chunks else ""
        self.file = open(self.folder / f"model.onnx_data{suffix}", "wb")
        self.chunks += 1

    def close(self):
        if self.file:
            self.file.close()


def read_tensors(path):
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)

    def read(name):
        begin, end = header[name]["data_offsets"]
        bits = data[begin:end].view(np.uint16).reshape(header[name]["shape"])
        return (bits.astype(np.uint32) << 16).view(np.float32)

    return read


def norm(graph, x, name, weight, eps):
    return graph.node("SimplifiedLayerNormalization", [x, graph.constant(f"{name}.weight", weight)], name, axis=-1, epsilon=eps)


def linear(graph, x, name, weight):
    return graph.node("MatMul", [x, graph.constant(f"{name}.weight", weight.T)], name)


def head_norm(graph, x, name, weight, width, eps):
    """RMS norm of every head by itself."""
    head_dim = weight.shape[0]
    heads = graph.node("Reshape", [x, graph.constant(f"{name}.split", np.array([0, -1, head_dim], np.int64))], f"{name}.heads")
    normed = norm(graph, heads, f"{name}.normed", weight, eps)
    return graph.node("Reshape", [normed, graph.constant(f"{name}.join", np.array([0, -1, width], np.int64))], name)


def attention(graph, x, layer, read, config):
    prefix, eps, head_dim = f"model.layers.{layer}.self_attn", config["rms_norm_eps"], config["head_dim"]
    parts = []
    for kind in ("q", "k", "v"):
        weight = read(f"{prefix}.{kind}_proj.weight")
        name = linear(graph, x, f"{prefix}.{kind}", weight)
        if kind != "v":
            name = head_norm(graph, name, f"{prefix}.{kind}_norm", read(f"{prefix}.{kind}_norm.weight"), weight.shape[0], eps)
        parts.append(name)
    past = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
    present = [f"present.{layer}.{kind}" for kind in ("key", "value")]
    y = graph.node("GroupQueryAttention", [*parts, *past, "seqlens_k", "total_length", "cos_cache", "sin_cache"], [f"{prefix}.attended", *present],
                   domain="com.microsoft", num_heads=config["num_attention_heads"], kv_num_heads=config["num_key_value_heads"], do_rotary=1,
                   rotary_interleaved=0, scale=head_dim**-0.5)
    return linear(graph, y, f"{prefix}.o", read(f"{prefix}.o_proj.weight"))


def mlp(graph, x, layer, read):
    prefix = f"model.layers.{layer}.mlp"
    gate, up = (linear(graph, x, f"{prefix}.{kind}", read(f"{prefix}.{kind}_proj.weight")) for kind in ("gate", "up"))
    activated = graph.node("Mul", [gate, graph.node("Sigmoid", [gate], f"{prefix}.sigmoid")], f"{prefix}.silu")
    return linear(graph, graph.node("Mul", [activated, up], f"{prefix}.inner"), f"{prefix}.down", read(f"{prefix}.down_proj.weight"))


def lengths(graph):
    """What GroupQueryAttention wants of the mask: the last position of every row, and the length of the longest."""
    total = graph.node("ReduceSum", ["attention_mask", graph.constant("axis_1", np.array([1], np.int64))], "mask_sum", keepdims=0)
    last = graph.node("Sub", [total, graph.constant("one", np.array(1, np.int64))], "last_position")
    graph.node("Cast", [last], "seqlens_k", to=TensorProto.INT32)
    shape = graph.node("Shape", ["attention_mask"], "mask_shape", start=1, end=2)
    scalar = graph.node("Squeeze", [shape], "mask_length")
    graph.node("Cast", [scalar], "total_length", to=TensorProto.INT32)


def rotary_caches(graph, config, positions):
    inverse = 1.0 / config["rope_theta"] ** (np.arange(0, config["head_dim"], 2) / config["head_dim"])
    angles = np.outer(np.arange(positions), inverse)
    graph.constant("cos_cache", np.cos(angles).astype(np.float32))
    graph.constant("sin_cache", np.sin(angles).astype(np.float32))


def build(graph, read, config):
    eps = config["rms_norm_eps"]
    lengths(graph)
    rotary_caches(graph, config, min(config["max_position_embeddings"], 8192))
    embedding = graph.constant("embed_tokens", read("model.embed_tokens.weight"))
    x = graph.node("Gather", [embedding, "input_ids"], "embedded")
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        normed = norm(graph, x, f"{prefix}.input_norm", read(f"{prefix}.input_layernorm.weight"), eps)
        x = graph.node("Add", [x, attention(graph, normed, layer, read, config)], f"{prefix}.middle")
        normed = norm(graph, x, f"{prefix}.post_norm", read(f"{prefix}.post_attention_layernorm.weight"), eps)
        x = graph.node("Add", [x, mlp(graph, normed, layer, read)], f"{prefix}.out")
    x = norm(graph, x, "final_norm", read("model.norm.weight"), eps)
    last = graph.node("Gather", [x, graph.constant("last", np.array(-1, np.int64))], "last_row", axis=1)
    head = embedding if config["tie_word_embeddings"] else graph.constant("head", read("lm_head.weight"))
    logits = graph.node("Gemm", [last, head], "last_logits", transB=1)
    graph.node("Unsqueeze", [logits, graph.constant("axes_1", np.array([1], np.int64))], "logits")


def boundary(config):
    cache = ["batch_size", config["num_key_value_heads"], None, config["head_dim"]]
    value = helper.make_tensor_value_info
    inputs = [value("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]), value("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"])]
    outputs = [value("logits", TensorProto.FLOAT, ["batch_size", 1, config["vocab_size"]])]
    for layer in range(config["num_hidden_layers"]):
        for kind in ("key", "value"):
            inputs.append(value(f"past_key_values.{layer}.{kind}", TensorProto.FLOAT, [*cache[:2], "past_sequence_length", cache[3]]))
            outputs.append(value(f"present.{layer}.{kind}", TensorProto.FLOAT, [*cache[:2], "total_sequence_length", cache[3]]))
    return inputs, outputs


def main(source, target):
    source, partial = Path(source), Path(f"{target}.partial")
    config = json.loads((source / "config.json").read_text())
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "onnx").mkdir(parents=True)
    graph = Graph(partial / "onnx")
    build(graph, read_tensors(source / "model.safetensors"), config)
    graph.close()
    inputs, outputs = boundary(config)
    model = helper.make_model(helper.make_graph(graph.nodes, "qwen3", inputs, outputs, graph.initializers),
                              opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)], ir_version=9)
    save_model(model, partial / "onnx" / "model.onnx")
    config["transformers.js_config"] = {"use_external_data_format": graph.chunks, "dtype": "fp32"}
    (partial / "config.json").write_text(json.dumps(config))
    shutil.copy(source / "generation_config.json", partial)
    os.rename(partial, target)


main(*sys.argv[1:])
