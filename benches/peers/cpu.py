"""migbench's CPU `bert-base` against PyTorch's, interleaved: python3 cpu.py [ROUNDS] [THREADS].

Needs PyTorch in this Python and a built target/release/migbench. Prints a Markdown table of the
medians of the rounds' medians and their ratio; a fresh process on each side in each round.
"""

import csv
import io
import os
import statistics
import subprocess
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
THREADS = sys.argv[2] if len(sys.argv) > 2 else str(os.cpu_count())
BATCHES = {1: "40", 8: "11"}


def migbench(batch):
    command = [os.path.join(ROOT, "target/release/migbench"), "--device", "cpu", "--workload", "bert-base",
               "--threads", THREADS, "--batch", str(batch), "--batches", BATCHES[batch], "-q", "-o", "-"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(next(csv.DictReader(io.StringIO(text)))["latency_p50_ms"])


def torch(batch):
    script = os.path.join(ROOT, "benches/peers/torch_cpu.py")
    command = [sys.executable, script, str(batch), THREADS, BATCHES[batch]]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return statistics.median(map(float, text.split()))


print("| batch | threads | migbench ms | PyTorch ms | ratio |\n|---|---|---|---|---|")
for batch in BATCHES:
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(migbench(batch))
        theirs.append(torch(batch))
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"| {batch} | {THREADS} | {a:.1f} ({min(ours):.1f}-{max(ours):.1f}) | {b:.1f} ({min(theirs):.1f}-{max(theirs):.1f}) | {a / b:.3f} |", flush=True)
