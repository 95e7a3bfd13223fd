"""Findings as people and programs read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml
from rich.console import Console

from ambientctl.printing import table
from istiod_lite.core.analysis.finding import Finding, Severity

COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}


def show(findings: Sequence[Finding], form: str) -> None:
    """Print them in one of ``log``, ``table``, ``json``, ``yaml``."""
    match form:
        case "json":
            print(json.dumps([as_object(one) for one in findings], indent=2))
        case "yaml":
            print(yaml.safe_dump([as_object(one) for one in findings], sort_keys=False), end="")
        case "table":
            rows = [[one.code.id, one.severity.word, place(one), one.message] for one in findings]
            table(["CODE", "LEVEL", "OBJECT", "MESSAGE"], rows)
        case _:
            console = Console(highlight=False, soft_wrap=True)
            for one in findings:
                colour = COLOURS[one.severity]
                console.print(one.severity.word, style=colour, end=" ", markup=False)
                console.print(f"[{one.code.id}] ({place(one)}) {one.message}", markup=False)
                if one.remedy:
                    console.print(f"    remedy: {one.remedy}", style="dim", markup=False)


def place(finding: Finding) -> str:
    """``Kind namespace/name file:line``, as istioctl writes it."""
    at = f" {finding.file}:{finding.line}" if finding.file else ""
    return f"{finding.ref}{at}"


def as_object(finding: Finding) -> dict[str, Any]:
    """istioctl's fields, and the remedy."""
    made: dict[str, Any] = {
        "code": finding.code.id,
        "name": finding.code.name,
        "level": finding.severity.word,
        "origin": str(finding.ref),
        "message": finding.message,
        "remedy": finding.remedy,
        "field": finding.field,
    }
    if finding.file:
        made["reference"] = f"{finding.file}:{finding.line}"
    return {key: value for key, value in made.items() if value}
