"""Do the saved histograms say in Python what they say here?

usage: histograms.py MIGBENCH FILE.csv FILE.hlog      needs the package hdrhistogram

Decodes every histogram of a CSV file and of an interval log with HdrHistogram's Python implementation
and compares counts and percentiles (ceil rank) with the columns and with `migbench export`, exactly.
"""

import csv
import json
import math
import subprocess
import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

LOW, HIGH, DIGITS = 1, 3_600_000_000_000, 3


def check(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: Python says {found}, migbench {expected}")


def at_rank(histogram, quantile):
    count = histogram.get_total_count()
    rank = max(1, math.ceil(quantile * count))
    # Its own rule rounds to the nearest rank: asked for a whole one, it has nothing to round.
    return histogram.get_value_at_percentile(100 * rank / count)


def of_rows(path):
    checked = 0
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            for metric, count in (("latency", "batches"), ("response", "batches")):
                text = row[f"{metric}_histogram"]
                if not text:
                    continue
                histogram = HdrHistogram.decode(text)
                expected = row["inferences"] if metric == "response" and row["inferences"] else row[count]
                check(f"{metric} count", histogram.get_total_count(), int(expected))
                for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
                    cell = row[f"{metric}_{name}_ms"]
                    if cell:
                        value = min(at_rank(histogram, quantile) / 1e6, float(row[f"{metric}_max_ms"]))
                        check(f"{metric} {name}", value, float(cell))
                        checked += 1
    return checked


def of_export(program, path):
    entries = json.loads(subprocess.check_output([program, "export", path]))
    log = subprocess.check_output([program, "export", path, "--format", "hlog"], text=True)
    lines = [line for line in log.splitlines() if line.startswith("Tag=")]
    check("exported histograms", len(lines), len(entries))
    for line, entry in zip(lines, entries):
        histogram = HdrHistogram.decode(line.split(",")[-1])
        check("exported count", histogram.get_total_count(), entry["count"])
        for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999)):
            check(f"exported {name}", at_rank(histogram, quantile), entry[name])
    return entries


def of_log(path, entries):
    """Every interval, added up by metric, against the rows."""
    sums = {}
    reader = HistogramLogReader(path, HdrHistogram(LOW, HIGH, DIGITS))
    while True:
        interval = reader.get_next_interval_histogram()
        if interval is None:
            break
        metric = interval.get_tag().rsplit("/", 1)[1]
        sums.setdefault(metric, HdrHistogram(LOW, HIGH, DIGITS)).add(interval)
    for metric, histogram in sums.items():
        expected = sum(entry["count"] for entry in entries if entry["tag"].endswith("/" + metric))
        check(f"intervals of {metric}", histogram.get_total_count(), expected)
    return len(sums)


program, rows, log = sys.argv[1:]
percentiles = of_rows(rows)
entries = of_export(program, rows)
metrics = of_log(log, entries)
if not percentiles or not entries or not metrics:
    sys.exit("nothing was compared")
print(f"{percentiles} percentiles of rows, {len(entries)} exported histograms and {metrics} metrics of the log agree")
