"""The numbers as a table for people and as JSON for programs."""

import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from typing import Any

from benchmark.measure import CONNECTIONS, Cell
from benchmark.subjects import PATHS, SUBJECTS

REFERENCES = ("bare", "mppx")


def cpu_us(cells: Sequence[Cell], subject: str, path: str) -> float | None:
    """Return the median CPU time of a request, or None where there is no such cell."""
    found = [c for c in cells if (c.subject, c.path) == (subject, path) and c.cpu_us]
    return statistics.median(found[0].cpu_us) if found else None


def as_json(cells: Sequence[Cell], rounds: int, requests: int) -> dict[str, Any]:
    """Return everything that was measured, and on what."""
    return {
        "machine": {
            "python": platform.python_version(),
            "node": _version_of("node"),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
        },
        "rounds": rounds,
        "requests": requests,
        "connections": CONNECTIONS,
        "cells": [
            {
                "subject": cell.subject,
                "path": cell.path,
                "cpu_us": round(statistics.median(cell.cpu_us), 1),
                "cpu_us_rounds": [round(value, 1) for value in cell.cpu_us],
                "per_s": round(statistics.median(cell.per_s)),
                "p50_ms": round(statistics.median(cell.p50_ms), 2),
                "p99_ms": round(statistics.median(cell.p99_ms), 2),
                "ratio": {
                    name: round(statistics.median(cell.cpu_us) / other, 2)
                    for name in REFERENCES
                    if (other := cpu_us(cells, name, cell.path))
                },
            }
            for cell in cells
        ],
    }


def as_table(cells: Sequence[Cell]) -> str:
    """Return CPU microseconds a request, with the spread of the rounds and the two ratios."""
    lines = [("CPU µs a request", *PATHS)]
    for name in dict.fromkeys(cell.subject for cell in cells):
        lines.append((SUBJECTS[name].title, *(_number(cells, name, path) for path in PATHS)))
        for other in REFERENCES:
            if other != name and any(cell.subject == other for cell in cells):
                ratios = (_ratio(cells, name, other, path) for path in PATHS)
                lines.append((f"  : {SUBJECTS[other].title}", *ratios))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        f"{line[0]:<{widths[0]}}  "
        + "  ".join(f"{text:>{width}}" for text, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    )


def _number(cells: Sequence[Cell], subject: str, path: str) -> str:
    found = [c.cpu_us for c in cells if (c.subject, c.path) == (subject, path) and c.cpu_us]
    if not found:
        return "-"
    rounds = found[0]
    return f"{statistics.median(rounds):.0f} ({min(rounds):.0f}-{max(rounds):.0f})"


def _ratio(cells: Sequence[Cell], subject: str, other: str, path: str) -> str:
    mine, theirs = cpu_us(cells, subject, path), cpu_us(cells, other, path)
    return f"{mine / theirs:.2f}" if mine and theirs else "-"


def _version_of(program: str) -> str | None:
    found = shutil.which(program)
    if found is None:
        return None
    return subprocess.run(
        [found, "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()
