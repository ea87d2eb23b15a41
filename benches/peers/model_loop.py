"""The plain loop: python3 model_loop.py MODEL BATCH THREADS BATCHES prints milliseconds, one a line."""

import sys
import time

import numpy as np
import onnxruntime as ort

model, batch, threads, batches = sys.argv[1], *map(int, sys.argv[2:5])
options = ort.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
ids = np.random.default_rng(1).integers(0, 30522, (batch, 128))
end = time.monotonic() + 1
while time.monotonic() < end:
    session.run(None, {"ids": ids})
for _ in range(batches):
    start = time.perf_counter_ns()
    session.run(None, {"ids": ids})
    print((time.perf_counter_ns() - start) / 1e6)
