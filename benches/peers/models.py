"""PyTorch's time for the networks of migbench's resnet50, llama-decode and llama-prefill, on one GPU.

usage: models.py [compile]      compile: torch.compile as well, which takes minutes

Same shapes, random weights, inputs on the device, host clock around one batch with a synchronize; eager
execution in a CUDA graph, and torch.compile in a CUDA graph. Prints `name,form,batch,p50_ms`.
"""

import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

DEVICE = torch.device("cuda")
HIDDEN, HEADS, KV, WIDE, LAYERS, VOCABULARY = 2048, 32, 8, 8192, 16, 128_256
WIDTH = HIDDEN // HEADS


def angles(first, rows):
    frequencies = 500_000.0 ** (-torch.arange(0, WIDTH, 2, dtype=torch.float64) / WIDTH)
    both = torch.outer(torch.arange(first, first + rows, dtype=torch.float64), frequencies).repeat(1, 2)
    return both.cos().bfloat16().to(DEVICE), both.sin().bfloat16().to(DEVICE)


def rotate(x, cosine, sine):
    low, high = x.chunk(2, -1)
    return x * cosine + torch.cat((-high, low), -1) * sine


class Layer(nn.Module):
    """Of a decoder, with a cache whose last rows are those of this batch."""

    def __init__(self, batch, context):
        super().__init__()
        self.qkv = nn.Linear(HIDDEN, (HEADS + 2 * KV) * WIDTH, bias=False)
        self.projection = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.gate_up = nn.Linear(HIDDEN, 2 * WIDE, bias=False)
        self.down = nn.Linear(WIDE, HIDDEN, bias=False)
        self.norm_1, self.norm_2 = nn.RMSNorm(HIDDEN), nn.RMSNorm(HIDDEN)
        self.register_buffer("keys", torch.randn(batch, KV, context, WIDTH))
        self.register_buffer("values", torch.randn(batch, KV, context, WIDTH))

    def forward(self, x, cosine, sine):
        batch, rows, _ = x.shape
        q, k, v = self.qkv(self.norm_1(x)).split([HEADS * WIDTH, KV * WIDTH, KV * WIDTH], -1)
        heads = lambda part, count: part.view(batch, rows, count, WIDTH).transpose(1, 2)
        q, k = rotate(heads(q, HEADS), cosine, sine), rotate(heads(k, KV), cosine, sine)
        self.keys[:, :, -rows:] = k
        self.values[:, :, -rows:] = heads(v, KV)
        causal = rows > 1
        a = F.scaled_dot_product_attention(q, self.keys, self.values, is_causal=causal, enable_gqa=True)
        x = x + self.projection(a.transpose(1, 2).reshape(batch, rows, HIDDEN))
        gate, up = self.gate_up(self.norm_2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self, batch, rows, context):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Layer(batch, context) for _ in range(LAYERS))
        self.norm = nn.RMSNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        self.angles = angles(context - rows, rows)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, *self.angles)
        return self.head(self.norm(x[:, -1])).argmax(-1)


def in_a_graph(function, x):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function(x)
    return graph.replay


def p50(function):
    begin = time.perf_counter()
    times = []
    while time.perf_counter() - begin < 0.7:
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        if start - begin > 0.2:
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] * 1e3


def row(name, form, batch, function):
    print(f"{name},{form},{batch},{p50(function):.4f}", flush=True)


def measure(name, batch, model, x):
    row(name, "graph", batch, in_a_graph(model, x))
    if "compile" in sys.argv:
        row(name, "compile+graph", batch, in_a_graph(torch.compile(model), x))


@torch.inference_mode()
def main():
    tokens = lambda batch, rows: torch.randint(VOCABULARY, (batch, rows), device=DEVICE)
    for batch in (1, 8, 32):
        measure("llama-decode", batch, Llama(batch, 1, 1024).to(DEVICE).bfloat16().eval(), tokens(batch, 1))
    measure("llama-prefill-2048", 1, Llama(1, 2048, 2048).to(DEVICE).bfloat16().eval(), tokens(1, 2048))
    import torchvision

    torch.backends.cudnn.benchmark = True
    for batch in (1, 8, 32):
        model = torchvision.models.resnet50(weights=None).to(DEVICE).half().eval()
        x = torch.randn(batch, 3, 224, 224, device=DEVICE, dtype=torch.half)
        last = torch.channels_last
        measure("resnet50", batch, model.to(memory_format=last), x.to(memory_format=last))
    left = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    row("gemm-8192", "graph", 1, in_a_graph(lambda a: a @ left, left.clone()))
    words = torch.randint(1 << 24, (1 << 26,), device=DEVICE, dtype=torch.int32)
    to = torch.empty_like(words)
    row("copy-256-mib", "graph", 1, in_a_graph(lambda a: to.copy_(a), words))


main()
