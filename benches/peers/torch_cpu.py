"""BERT-base forward on the CPU with PyTorch: the same network as migbench's `bert-base`, fp32.

Usage: torch_cpu.py BATCH THREADS BATCHES. Prints the latency of each batch in ms, a line each.
Token ids in, embeddings, 12 post-norm layers with exact GELU, pooler; random weights; 128 tokens.
"""

import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

BATCH, THREADS, BATCHES = map(int, sys.argv[1:4])
TOKENS, HIDDEN, HEADS, LAYERS, VOCABULARY = 128, 768, 12, 12, 30522
torch.set_num_threads(THREADS)
torch.manual_seed(1)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(HIDDEN, 3 * HIDDEN)
        self.projection = nn.Linear(HIDDEN, HIDDEN)
        self.up = nn.Linear(HIDDEN, 4 * HIDDEN)
        self.down = nn.Linear(4 * HIDDEN, HIDDEN)
        self.norm1 = nn.LayerNorm(HIDDEN, eps=1e-12)
        self.norm2 = nn.LayerNorm(HIDDEN, eps=1e-12)

    def forward(self, x):
        b, t, h = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, HEADS, h // HEADS).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, h)
        x = self.norm1(self.projection(a) + x)
        return self.norm2(self.down(F.gelu(self.up(x))) + x)


class Bert(nn.Module):
    def __init__(self):
        super().__init__()
        self.word = nn.Embedding(VOCABULARY, HIDDEN)
        self.position = nn.Parameter(torch.randn(TOKENS, HIDDEN))
        self.segment = nn.Parameter(torch.randn(HIDDEN))
        self.norm = nn.LayerNorm(HIDDEN, eps=1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.pooler = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, tokens):
        x = self.norm(self.word(tokens) + self.position + self.segment)
        for layer in self.layers:
            x = layer(x)
        return torch.tanh(self.pooler(x[:, 0]))


with torch.inference_mode():
    model = Bert().eval()
    tokens = torch.randint(VOCABULARY, (BATCH, TOKENS))
    start = time.perf_counter()
    while time.perf_counter() - start < 2:
        model(tokens)
    for _ in range(BATCHES):
        start = time.perf_counter_ns()
        model(tokens)
        print((time.perf_counter_ns() - start) / 1e6)
