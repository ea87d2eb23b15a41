"""Writes the small models of tests/onnx.rs into the current folder. Needs onnx and numpy."""

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

random = np.random.default_rng(1)


def save(name, nodes, inputs, outputs, weights=(), opset=17, ir=8):
    graph = h.make_graph(nodes, name, inputs, outputs, [nh.from_array(w, n) for n, w in weights])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", opset)])
    model.ir_version = ir
    onnx.save(model, name + ".onnx")


def value(name, element, shape):
    return h.make_tensor_value_info(name, element, shape)


# A perceptron with an open batch.
weights = [("w1", random.standard_normal((16, 32), dtype=np.float32)),
           ("w2", random.standard_normal((32, 8), dtype=np.float32))]
mlp = [h.make_node("MatMul", ["x", "w1"], ["a"]), h.make_node("Relu", ["a"], ["b"]),
       h.make_node("MatMul", ["b", "w2"], ["y"])]
x, y = value("x", T.FLOAT, ["batch", 16]), value("y", T.FLOAT, ["batch", 8])
save("mlp", mlp, [x], [y], weights)
save("fixed", mlp, [value("x", T.FLOAT, [1, 16])], [value("y", T.FLOAT, [1, 8])], weights)
save("new-opset", mlp, [x], [y], weights, opset=99)
save("new-ir", mlp, [x], [y], weights, ir=99)
halves = [(n, w.astype(np.float16)) for n, w in weights]
save("half", mlp, [value("x", T.FLOAT16, ["batch", 16])], [value("y", T.FLOAT16, ["batch", 8])], halves)

# Token ids with an open length, an embedding of 100 words, a mask; two outputs, one of them integers.
save("tokens",
     [h.make_node("Gather", ["table", "ids"], ["words"]), h.make_node("Cast", ["mask"], ["factor"], to=T.FLOAT),
      h.make_node("Unsqueeze", ["factor", "last"], ["wide"]), h.make_node("Mul", ["words", "wide"], ["masked"]),
      h.make_node("ReduceMean", ["masked"], ["pooled"], axes=[1], keepdims=0),
      h.make_node("ArgMax", ["pooled"], ["best"], axis=1, keepdims=0)],
     [value("ids", T.INT64, ["batch", "seq"]), value("mask", T.BOOL, ["batch", "seq"])],
     [value("pooled", T.FLOAT, ["batch", 4]), value("best", T.INT64, ["batch"])],
     [("table", random.standard_normal((100, 4), dtype=np.float32)), ("last", np.array([2], dtype=np.int64))])
save("text", [h.make_node("Identity", ["x"], ["y"])], [value("x", T.STRING, ["batch"])], [value("y", T.STRING, ["batch"])])
# Different each time: no output check can pass it.
save("dice", [h.make_node("RandomUniformLike", ["x"], ["y"], high=100.0)], [x], [value("y", T.FLOAT, ["batch", 16])])

# Shapes in which the batch stands elsewhere, is fixed, or is nowhere.
relu = [h.make_node("Relu", ["x"], ["y"])]
save("eight", relu, [value("x", T.FLOAT, [8, 3, 8, 8])], [value("y", T.FLOAT, [8, 3, 8, 8])])
save("image", relu, [value("x", T.FLOAT, [3, 64, 64])], [value("y", T.FLOAT, [3, 64, 64])])
save("no-input", [h.make_node("Relu", ["w"], ["y"])], [], [value("y", T.FLOAT, [4])],
     [("w", np.ones(4, dtype=np.float32))])
save("recurrent",
     [h.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1), h.make_node("Add", ["state", "mean"], ["next"])],
     [value("x", T.FLOAT, ["batch", "length"]), value("state", T.FLOAT, [2, "batch", 128])],
     [value("next", T.FLOAT, [2, "batch", 128])])
save("cached", [h.make_node("Concat", ["past", "x"], ["y"], axis=1)],
     [value("past", T.FLOAT, ["batch", "past", 4]), value("x", T.FLOAT, ["batch", "seq", 4])],
     [value("y", T.FLOAT, ["batch", "all", 4])])
# Outputs that are no numbers, in ONNX Runtime's reference as well.
zero = h.make_node("Sub", ["x", "x"], ["zero"])
rows = [value("x", T.FLOAT, ["b", 4])], [value("y", T.FLOAT, ["b", 4])]
save("nan", [zero, h.make_node("Div", ["zero", "zero"], ["y"])], *rows)
save("inf", [zero, h.make_node("Div", ["one", "zero"], ["y"])], *rows, [("one", np.ones(4, dtype=np.float32))])

np.save("ids.npy", np.arange(12, dtype=np.int64).reshape(2, 6))
np.save("floats.npy", np.zeros((2, 6), dtype=np.float32))
with open("junk.onnx", "w") as file:
    file.write("This is no model.")
with open("mlp.onnx", "rb") as whole, open("half-a-file.onnx", "wb") as part:
    part.write(whole.read()[:1500])
open("empty.onnx", "w").close()
