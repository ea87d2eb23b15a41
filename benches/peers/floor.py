"""migbench's `null` workload against a raw C++ loop on the same GPU: python3 floor.py MIGBENCH [ROUNDS].

Needs nvcc. Builds floor.cu, runs both in turn in fresh processes, and prints a Markdown table of the
medians over the rounds.
"""

import csv
import io
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
MIGBENCH = sys.argv[1]
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 7


def migbench():
    command = [MIGBENCH, "--workload", "null", "--batch", "1", "--duration", "2s", "-q", "-o", "-"]
    row = next(csv.DictReader(io.StringIO(subprocess.run(command, check=True, capture_output=True, text=True).stdout)))
    return float(row["latency_p50_ms"]) * 1e3, float(row["latency_p99_ms"]) * 1e3


with tempfile.TemporaryDirectory() as folder:
    floor = os.path.join(folder, "floor")
    build = ["nvcc", "-O3", "-std=c++17", "-arch=native", "-o", floor, os.path.join(HERE, "floor.cu")]
    subprocess.run(build, check=True)

    def raw():
        text = subprocess.run([floor], check=True, capture_output=True, text=True).stdout
        p50, p99 = map(int, text.split())
        return p50 / 1e3, p99 / 1e3

    ours, theirs = [], []
    for _ in range(ROUNDS):
        theirs.append(raw())
        ours.append(migbench())

print("| empty kernel, us | migbench | raw C++ | difference | ratio |\n|---|---|---|---|---|")
for i, name in enumerate(("p50", "p99")):
    a, b = statistics.median(x[i] for x in ours), statistics.median(x[i] for x in theirs)
    print(f"| {name} | {a:.2f} | {b:.2f} | {a - b:+.2f} | {a / b:.3f} |")
