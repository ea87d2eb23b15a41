"""migbench's `bert-base` against PyTorch on the same GPU, in one sitting.

usage: python3 bert.py MIGBENCH [--rounds N] [--compile 1,8] [--precision fp16|bf16]

Both sides do the same work: token ids that already lie on the GPU, embeddings, 12 post-norm layers
with exact GELU, pooler; 128 tokens, random weights. Latency is the host's time around one batch with
a wait for it. PyTorch runs as a CUDA graph, and for the batches of --compile also through
torch.compile(max-autotune); each round measures every form once, then migbench without transfers, and in
the first round with them, in processes of its own. Prints a Markdown table of the medians over the rounds:
the best of PyTorch's forms, migbench without transfers, the ratio of the two, and migbench with transfers.
"""

import argparse
import csv
import io
import statistics
import subprocess
import time

import torch
from torch import nn
from torch.nn import functional as F

TOKENS, HIDDEN, HEADS, LAYERS, VOCABULARY = 128, 768, 12, 12, 30522
BATCHES = (1, 8, 32, 128)


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


def graph(forward, tokens):
    """What replays one batch."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            forward(tokens)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        forward(tokens)
    return captured.replay


def median_ms(replay, seconds=0.6):
    end, times = time.perf_counter() + seconds / 3, []
    while time.perf_counter() < end:
        replay()
        torch.cuda.synchronize()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        replay()
        torch.cuda.synchronize()
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1e6


def migbench(program, precision, *options):
    """The rows of one run, by batch."""
    command = [program, "run", "--workload", "bert-base", "--precision", precision, "--allow-busy"]
    command += ["--batch", ",".join(map(str, BATCHES)), "--duration", "600ms", "-q", "-o", "-", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    rows = {int(row["batch"]): row for row in csv.DictReader(io.StringIO(done.stdout))}
    if done.returncode != 0 or len(rows) != len(BATCHES):
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("migbench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", default="1,8")
    parser.add_argument("--precision", default="fp16", choices=("fp16", "bf16"))
    options = parser.parse_args()
    compiled_batches = {int(batch) for batch in options.compile.split(",") if batch}

    torch.manual_seed(1)
    dtype = torch.float16 if options.precision == "fp16" else torch.bfloat16
    ours, with_transfers, theirs, kernels = {}, {}, {}, ""
    with torch.inference_mode():
        bert = Bert().cuda().to(dtype).eval()
        compiled = torch.compile(bert, mode="max-autotune-no-cudagraphs")
        forms = {}
        for batch in BATCHES:
            tokens = torch.randint(VOCABULARY, (batch, TOKENS), device="cuda")
            forms[batch, "graph"] = graph(bert, tokens)
            if batch in compiled_batches:
                forms[batch, "compile + graph"] = graph(compiled, tokens)
        for number in range(options.rounds):
            for form, replay in forms.items():
                theirs.setdefault(form, []).append(median_ms(replay))
            for table, more in ((ours, ["--no-transfers"]), (with_transfers, []))[: 2 if number == 0 else 1]:
                for batch, row in migbench(options.migbench, options.precision, *more).items():
                    table.setdefault(batch, []).append(float(row["latency_p50_ms"]))
                    kernels = row["kernels"]

    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {options.precision}, kernels {kernels}, "
          f"{options.rounds} rounds\n")
    print("| batch | PyTorch, ms | its form | migbench, ms | ratio | with transfers, ms |\n|---|---|---|---|---|---|")
    for batch in BATCHES:
        medians = {form: statistics.median(times) for (b, form), times in theirs.items() if b == batch}
        best = min(medians, key=medians.get)
        own = statistics.median(ours[batch])
        print(f"| {batch} | {medians[best]:.3f} | {best} | {own:.3f} | **{own / medians[best]:.2f}** "
              f"| {statistics.median(with_transfers[batch]):.3f} |")
    for (batch, form), times in theirs.items():
        print(f"\nbatch {batch}, {form}: " + " ".join(f"{t:.4f}" for t in times), end="")
    for name, table in (("no transfers", ours), ("transfers", with_transfers)):
        for batch in BATCHES:
            print(f"\nbatch {batch}, migbench, {name}: " + " ".join(f"{t:.4f}" for t in table[batch]), end="")
    print()


main()
