#!/usr/bin/env python3
"""The gate on real rounds: A/A blocks against each other, and against rounds that were slowed down.

usage: gate.py MIGBENCH FOLDER     FOLDER: a results folder with aa.csv and extra-*us.csv

aa.csv holds 50 rounds of one point. Ten blocks of five rounds are compared, each with the next one
(the last with the first); then each slowed-down file with each block. Nothing but this script's
standard library is needed.
"""

import csv
import pathlib
import re
import subprocess
import sys
import tempfile

BLOCK = 5


def verdicts(migbench, base, new, *options):
    """Metric -> (verdict, change) of one comparison, and the exit code."""
    command = [migbench, "compare", str(base), str(new), "--output", "csv=-", *options]
    ran = subprocess.run(command, capture_output=True, text=True)
    rows = list(csv.DictReader(ran.stdout.splitlines()))
    if not rows:
        sys.exit(f"{' '.join(command)}\n{ran.stderr}")
    return {row["metric"]: row for row in rows}, ran.returncode


def main():
    migbench, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    rows = list(csv.reader((folder / "aa.csv").open()))
    at = rows[0].index("repetition")
    with tempfile.TemporaryDirectory() as work:
        blocks = []
        rounds = sorted(rows[1:], key=lambda row: int(row[at]))
        for first in range(0, len(rounds), BLOCK):
            path = pathlib.Path(work) / f"block-{first // BLOCK + 1}.csv"
            with path.open("w", newline="") as out:
                csv.writer(out, lineterminator="\n").writerows([rows[0], *rounds[first : first + BLOCK]])
            blocks.append(path)
        print(f"A/A: {len(blocks)} blocks of {BLOCK} rounds, each against the next, default gates")
        for base, new in zip(blocks, blocks[1:] + blocks[:1]):
            found, code = verdicts(migbench, base, new)
            show(f"{base.stem} {new.stem}", found, code)
        for path in sorted(folder.glob("extra-*us.csv")):
            us = int(re.search(r"(\d+)us", path.name).group(1))
            options = ["--allow-mismatch", "extra_work_us"]
            if us < 50:
                options += ["--gate", "throughput_wall=0.5%"]
            print(f"\n{us} us more a batch, {BLOCK} v {BLOCK}: {' '.join(options)}")
            for base in blocks:
                found, code = verdicts(migbench, base, path, *options)
                show(f"{base.stem} {path.stem}", found, code)


def show(name, found, code):
    parts = [f"{metric} {row['change']} {row['verdict']}" for metric, row in found.items()]
    print(f"{name:<24} exit {code}  {'  '.join(parts)}")


main()
