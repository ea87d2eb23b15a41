"""Does migbench record what a program measures of itself? python3 program.py MIGBENCH BATCH FOLDER, on a GPU.

Runs torch_program.py under `migbench run`, then takes from the program's own list the batches of the window that the
row names, and compares count, mean, median, p99 and rate. Prints a Markdown table; fails beyond 1 %.
"""

import csv
import json
import os
import statistics
import subprocess
import sys

migbench, batch, folder = sys.argv[1:4]
here = os.path.dirname(os.path.abspath(__file__))
rows, own = os.path.join(folder, "measurements.csv"), os.path.join(here, "own.json")
# Names without folders: they stand in the row.
command = [os.path.abspath(migbench), "run", "--batch", batch, "-o", os.path.abspath(rows), "--force", "--",
           "python3", "torch_program.py", "{batch}", "own.json"]
subprocess.run(command, check=True, cwd=here)
row = next(csv.DictReader(open(rows)))
own = json.load(open(own))
first, last = int(row["window_start_ns"]), int(row["window_end_ns"])
window = sorted(took for start, took in own["times"] if first <= start and start + took <= last)
count, mean = len(window), statistics.mean(window)
pairs = [
    ("batches", float(row["batches"]), count),
    ("mean ms", float(row["latency_mean_ms"]), mean / 1e6),
    ("p50 ms", float(row["latency_p50_ms"]), window[-(-count // 2) - 1] / 1e6),
    ("p99 ms", float(row["latency_p99_ms"]), window[-(-count * 99 // 100) - 1] / 1e6),
    ("samples/s", float(row["throughput_wall"]), count * int(batch) / ((last - first) / 1e9)),
]
print(f"{own['device']}, PyTorch {own['torch']}, identity {row['identity']}, status {row['status']}\n")
print("| | migbench's row | the program's own | ratio |\n|---|---:|---:|---:|")
for name, ours, theirs in pairs:
    print(f"| {name} | {ours:.6g} | {theirs:.6g} | {ours / theirs:.5f} |")
sys.exit(any(abs(ours / theirs - 1) > 0.01 for _, ours, theirs in pairs))
