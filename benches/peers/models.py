"""migbench's resnet50, llama-decode, llama-prefill and two probes against PyTorch on the same GPU, in one sitting.

usage: python3 models.py MIGBENCH [--rounds N] [--compile NAME,...]

Both sides do the same work on inputs that lie on the GPU, with random weights; latency is the host's
time around one batch with a wait for it. PyTorch runs as a CUDA graph, and the networks of --compile
(default: all; 'none') also through torch.compile in a graph. Each round measures every form once, then
migbench without transfers, and in the first round with them, in processes of its own. Prints a Markdown
table of the medians over the rounds: the best of PyTorch's forms, migbench without transfers, the ratio of
the two, and migbench with transfers; then every figure. What is known after each round goes to standard
error.
"""

import argparse
import csv
import io
import statistics
import subprocess
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
        # The gains are part of the weights after them.
        self.norm = nn.RMSNorm(HIDDEN, elementwise_affine=False)
        self.register_buffer("keys", torch.randn(batch, KV, context, WIDTH))
        self.register_buffer("values", torch.randn(batch, KV, context, WIDTH))

    def forward(self, x, cosine, sine):
        batch, rows, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).split([HEADS * WIDTH, KV * WIDTH, KV * WIDTH], -1)
        heads = lambda part, count: part.view(batch, rows, count, WIDTH).transpose(1, 2)
        q, k = rotate(heads(q, HEADS), cosine, sine), rotate(heads(k, KV), cosine, sine)
        self.keys[:, :, -rows:] = k
        self.values[:, :, -rows:] = heads(v, KV)
        causal = rows > 1
        a = F.scaled_dot_product_attention(q, self.keys, self.values, is_causal=causal, enable_gqa=True)
        x = x + self.projection(a.transpose(1, 2).reshape(batch, rows, HIDDEN))
        gate, up = self.gate_up(self.norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self, batch, rows, context):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Layer(batch, context) for _ in range(LAYERS))
        self.norm = nn.RMSNorm(HIDDEN, elementwise_affine=False)
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


# migbench's name of each, its batches and precision.
WORKLOADS = {
    "resnet50": ("resnet50", (1, 8, 32), "fp16"),
    "llama-decode": ("llama-decode", (1, 8, 32), "bf16"),
    "llama-prefill": ("llama-prefill(seq_len=2048)", (1,), "bf16"),
    "gemm": ("gemm", (1,), "bf16"),
    "stream": ("stream", (1,), "fp16"),
}


def networks():
    """Each of PyTorch's networks: name, batch, module or function, input."""
    tokens = lambda batch, rows: torch.randint(VOCABULARY, (batch, rows), device=DEVICE)
    import torchvision

    torch.backends.cudnn.benchmark = True
    for batch in (1, 8, 32):
        last = torch.channels_last
        model = torchvision.models.resnet50(weights=None).to(DEVICE).half().eval().to(memory_format=last)
        x = torch.randn(batch, 3, 224, 224, device=DEVICE, dtype=torch.half).to(memory_format=last)
        yield "resnet50", batch, model, x
    for batch in (1, 8, 32):
        yield "llama-decode", batch, Llama(batch, 1, 1024).to(DEVICE).bfloat16().eval(), tokens(batch, 1)
    yield "llama-prefill", 1, Llama(1, 2048, 2048).to(DEVICE).bfloat16().eval(), tokens(1, 2048)
    left = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    yield "gemm", 1, lambda a: a @ left, left.clone()
    words = torch.randint(1 << 24, (1 << 26,), device=DEVICE, dtype=torch.int32)
    to = torch.empty_like(words)
    yield "stream", 1, lambda a: to.copy_(a), words


def migbench(program, name, *options):
    """p50 by batch of one run, and the kernels' name."""
    workload, batches, precision = WORKLOADS[name]
    command = [program, "run", "--workload", workload, "--precision", precision, "--allow-busy"]
    command += ["--batch", ",".join(map(str, batches)), "--duration", "600ms", "-q", "-o", "-", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    if done.returncode != 0 or len(rows) != len(batches):
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return {int(row["batch"]): float(row["latency_p50_ms"]) for row in rows}, rows[0]["kernels"]


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("migbench")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", default="resnet50,llama-decode,llama-prefill")
    options = parser.parse_args()

    # A graph does not keep what it reads.
    alive, forms, ours, with_transfers, theirs, kernels = [], {}, {}, {}, {}, ""
    for name, batch, model, x in networks():
        alive.append((model, x))
        forms[name, batch, "graph"] = in_a_graph(model, x)
        if name in options.compile.split(","):
            start = time.perf_counter()
            torch._dynamo.reset()
            compiled = torch.compile(model, dynamic=False)
            alive.append(compiled)
            forms[name, batch, "compile + graph"] = in_a_graph(compiled, x)
            print(f"{name}, batch {batch}: compiled in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    for number in range(options.rounds):
        for form, replay in forms.items():
            theirs.setdefault(form, []).append(p50(replay))
        for name in WORKLOADS:
            for table, more in ((ours, ["--no-transfers"]), (with_transfers, []))[: 2 if number == 0 else 1]:
                times, kernels = migbench(options.migbench, name, *more)
                for batch, ms in times.items():
                    table.setdefault((name, batch), []).append(ms)
        report(sys.stderr, kernels, number + 1, theirs, ours, with_transfers)
    report(sys.stdout, kernels, options.rounds, theirs, ours, with_transfers)


def report(out, kernels, rounds, theirs, ours, with_transfers):
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, kernels {kernels}, {rounds} rounds\n", file=out)
    print("| workload | batch | PyTorch, ms | its form | migbench, ms | ratio | with transfers, ms |", file=out)
    print("|---|---|---|---|---|---|---|", file=out)
    for (name, batch), times in ours.items():
        medians = {form: statistics.median(t) for (n, b, form), t in theirs.items() if (n, b) == (name, batch)}
        best = min(medians, key=medians.get)
        own = statistics.median(times)
        print(f"| {name} {WORKLOADS[name][2]} | {batch} | {medians[best]:.3f} | {best} | {own:.3f} "
              f"| **{own / medians[best]:.2f}** | {statistics.median(with_transfers[name, batch]):.3f} |", file=out)
    for key, times in theirs.items():
        print(f"\n{key[0]}, batch {key[1]}, {key[2]}: " + " ".join(f"{t:.4f}" for t in times), end="", file=out)
    for form, table in (("no transfers", ours), ("transfers", with_transfers)):
        for (name, batch), times in table.items():
            print(f"\n{name}, batch {batch}, migbench, {form}: " + " ".join(f"{t:.4f}" for t in times), end="", file=out)
    print(file=out, flush=True)


main()
