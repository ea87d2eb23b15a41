"""migbench's `--model` against a plain Python loop over the same ONNX Runtime, model, threads and shapes, interleaved:
python3 model.py [ROUNDS] [THREADS] [BATCHES].

Needs onnx, numpy and onnxruntime in this Python, and a built target/release/migbench. A fresh process on each side in
each round, the order swapped every round. Prints a Markdown table of the medians of the rounds' medians and the median
of the rounds' ratios.
"""

import csv
import io
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 7
THREADS = sys.argv[2] if len(sys.argv) > 2 else str(os.cpu_count())
# A p50 needs 11.
BATCHES = {"1": "25", "8": "12"}
if len(sys.argv) > 3:
    BATCHES = {batch: BATCHES[batch] for batch in sys.argv[3].split(",")}


def migbench(model, batch):
    program = os.environ.get("MIGBENCH", os.path.join(HERE, "../../target/release/migbench"))
    command = [program, "--device", "cpu", "--model", model, "--batch", batch, "--dim", "seq=128", "--input",
               "ids=int:0..30522", "--threads", THREADS, "--batches", BATCHES[batch], "-q", "-o", "-"]
    environment = dict(os.environ, VIRTUAL_ENV=sys.prefix)
    text = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    row = next(csv.DictReader(io.StringIO(text)))
    assert row["status"] == "ok", row["error"]
    return float(row["latency_p50_ms"])


def loop(model, batch):
    command = [sys.executable, os.path.join(HERE, "model_loop.py"), model, batch, THREADS, BATCHES[batch]]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return statistics.median(map(float, text.split()))


with tempfile.TemporaryDirectory() as folder:
    model = os.path.join(folder, "bert-base.onnx")
    subprocess.run([sys.executable, os.path.join(HERE, "model_file.py"), model], check=True)
    print("| batch | threads | migbench ms | Python ms | ratio |\n|---|---|---|---|---|")
    for batch in BATCHES:
        ours, theirs = [], []
        for i in range(ROUNDS):
            for side in ((migbench, ours), (loop, theirs))[:: 1 if i % 2 else -1]:
                side[1].append(side[0](model, batch))
            print(f"batch {batch}, round {i + 1}: {ours[-1]:.1f} and {theirs[-1]:.1f} ms", file=sys.stderr, flush=True)
        ratios = sorted(a / b for a, b in zip(ours, theirs))
        print(f"| {batch} | {THREADS} | {statistics.median(ours):.1f} ({min(ours):.1f}-{max(ours):.1f}) | "
              f"{statistics.median(theirs):.1f} ({min(theirs):.1f}-{max(theirs):.1f}) | "
              f"{statistics.median(ratios):.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f}) |", flush=True)
