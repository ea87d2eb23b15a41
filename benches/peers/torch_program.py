"""A PyTorch program that reports its batches (docs/protocol.md): BERT-base's encoder in fp16, input from pinned memory
and pooled vector back in every batch. Keeps its own list of times and saves it as JSON at the end.

python3 torch_program.py BATCH FILE, started by migbench; program.py runs both and compares.
"""

import ctypes
import json
import os
import select
import sys
import time
import uuid

import torch

BATCH, FILE = int(sys.argv[1]), sys.argv[2]
SEQ, WIDTH, HEADS, LAYERS = 128, 768, 12, 12


def device():
    raw, handle = (ctypes.c_ubyte * 16)(), ctypes.c_int()
    cuda = ctypes.CDLL("libcuda.so.1")
    assert cuda.cuInit(0) == 0 and cuda.cuDeviceGet(ctypes.byref(handle), 0) == 0
    assert cuda.cuDeviceGetUuid_v2(raw, handle) == 0
    return "GPU-" + str(uuid.UUID(bytes=bytes(raw)))


torch.manual_seed(1)
layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, activation="gelu", batch_first=True)
model = torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).eval().half().cuda()
source = torch.randn(BATCH, SEQ, WIDTH).half().pin_memory()
pooled = torch.empty(BATCH, WIDTH, dtype=torch.half).pin_memory()

fd = int(os.environ["MIGBENCH_FD"])
os.write(fd, f"hello {device()}\nready\n".encode())
os.read(fd, 100)
times = []
with torch.inference_mode():
    while not select.select([fd], [], [], 0)[0]:
        start = time.monotonic_ns()
        pooled.copy_(model(source.cuda(non_blocking=True))[:, 0], non_blocking=True)
        torch.cuda.synchronize()
        took = time.monotonic_ns() - start
        os.write(fd, b"batch %d %d\n" % (took, start))
        times.append((start, took))
with open(FILE, "w") as file:
    json.dump({"device": torch.cuda.get_device_name(), "torch": torch.__version__, "times": times}, file)
