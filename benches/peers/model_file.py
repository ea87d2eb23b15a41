"""Writes a BERT-base encoder with random weights as ONNX: python3 model_file.py FILE. Needs onnx and numpy.

Token ids in, pooled vector out, batch and length open; GELU by Erf and attention by its operators, as exporters write
them, so that ONNX Runtime's fusions have what they look for.
"""

import sys

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

WIDTH, HEADS, LAYERS, WORDS = 768, 12, 12, 30522
random = np.random.default_rng(1)
nodes, weights = [], []


def weight(name, *shape, scale=0.02):
    weights.append(nh.from_array(random.standard_normal(shape, dtype=np.float32) * np.float32(scale), name))
    return name


def constant(name, value, kind):
    weights.append(nh.from_array(np.array(value, dtype=kind), name))
    return name


def op(kind, inputs, name, **attributes):
    nodes.append(h.make_node(kind, inputs, [name], name=name, **attributes))
    return name


def linear(x, name, inputs, outputs):
    product = op("MatMul", [x, weight(name + ".w", inputs, outputs)], name + ".product")
    return op("Add", [product, weight(name + ".b", outputs)], name)


def norm(x, name):
    ones = np.ones(WIDTH, dtype=np.float32)
    return op("LayerNormalization", [x, constant(name + ".g", ones, np.float32), weight(name + ".b", WIDTH)], name, axis=-1)


def heads(x, name, permutation):
    shaped = op("Reshape", [x, "split"], name + ".split")
    return op("Transpose", [shaped], name, perm=permutation)


constant("split", [0, 0, HEADS, WIDTH // HEADS], np.int64)
constant("join", [0, 0, WIDTH], np.int64)
constant("root", np.sqrt(WIDTH // HEADS), np.float32)
constant("sqrt2", np.sqrt(2.0), np.float32)
constant("one", 1.0, np.float32)
constant("half", 0.5, np.float32)
constant("first", 0, np.int64)
x = norm(op("Gather", [weight("words", WORDS, WIDTH, scale=1.0), "ids"], "embedded"), "embed.norm")
for i in range(LAYERS):
    n = f"layer.{i}."
    q = heads(linear(x, n + "q", WIDTH, WIDTH), n + "q.heads", [0, 2, 1, 3])
    k = heads(linear(x, n + "k", WIDTH, WIDTH), n + "k.heads", [0, 2, 3, 1])
    v = heads(linear(x, n + "v", WIDTH, WIDTH), n + "v.heads", [0, 2, 1, 3])
    scores = op("Div", [op("MatMul", [q, k], n + "scores"), "root"], n + "scaled")
    mixed = op("MatMul", [op("Softmax", [scores], n + "shares", axis=-1), v], n + "mixed")
    joined = op("Reshape", [op("Transpose", [mixed], n + "back", perm=[0, 2, 1, 3]), "join"], n + "joined")
    x = norm(op("Add", [linear(joined, n + "out", WIDTH, WIDTH), x], n + "sum1"), n + "norm1")
    up = linear(x, n + "up", WIDTH, 4 * WIDTH)
    erf = op("Add", [op("Erf", [op("Div", [up, "sqrt2"], n + "erf.in")], n + "erf"), "one"], n + "erf.one")
    gelu = op("Mul", [op("Mul", [up, erf], n + "gelu.twice"), "half"], n + "gelu")
    x = norm(op("Add", [linear(gelu, n + "down", 4 * WIDTH, WIDTH), x], n + "sum2"), n + "norm2")
pooled = op("Tanh", [linear(op("Gather", [x, "first"], "token", axis=1), "pooler", WIDTH, WIDTH)], "pooled")
ids = h.make_tensor_value_info("ids", T.INT64, ["batch", "seq"])
out = h.make_tensor_value_info("pooled", T.FLOAT, ["batch", WIDTH])
model = h.make_model(h.make_graph(nodes, "bert-base", [ids], [out], weights), opset_imports=[h.make_opsetid("", 17)])
model.ir_version = 8
onnx.save(model, sys.argv[1])
