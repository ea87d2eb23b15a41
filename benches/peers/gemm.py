"""migbench's `gemm` against PyTorch's product (cuBLAS) on the same GPU, in one sitting.

usage: python3 gemm.py MIGBENCH [ROUNDS]

bf16, 8192 x 8192 x 8192, random numbers on both sides (products of zeros run faster). Each round times
fifty products by PyTorch between two events, then runs migbench in a process of its own, without
copies. Prints TFLOP/s, medians over the rounds, and the ratio.
"""

import csv
import io
import statistics
import subprocess
import sys

import torch

SIDE = 8192
FLOP = 2 * SIDE**3


def pytorch(a, b):
    for _ in range(5):
        a @ b
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(50):
        a @ b
    end.record()
    torch.cuda.synchronize()
    return FLOP / (start.elapsed_time(end) / 50) / 1e9


def migbench(program):
    command = [program, "run", "--workload", f"gemm(m={SIDE},n={SIDE},k={SIDE})", "--precision", "bf16"]
    command += ["--batch", "1", "--no-transfers", "--allow-busy", "--duration", "500ms", "-q", "-o", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    if done.returncode != 0 or len(rows) != 1:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return FLOP / float(rows[0]["latency_p50_ms"]) / 1e9


def main():
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    torch.manual_seed(1)
    a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    theirs, ours = [], []
    for _ in range(rounds):
        theirs.append(pytorch(a, b))
        ours.append(migbench(sys.argv[1]))
    print(f"cuBLAS {' '.join(f'{t:.0f}' for t in theirs)}, migbench {' '.join(f'{t:.0f}' for t in ours)} TFLOP/s")
    print(f"ratio of medians {statistics.median(ours) / statistics.median(theirs):.3f}")


main()
