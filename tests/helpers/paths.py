"""Where the project's own files lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PARITY = ROOT / "tests" / "fixtures" / "parity"
SAMPLE = ROOT / "data" / "sample"
