"""Configurations as found in deployments, written for the tests; shared by several of them."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "config" / "samples"
SAMPLES = sorted(FOLDER.iterdir())
HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


def line_count(text: str) -> int:
    """Lines as YAML counts them: Unicode line ends count too."""
    return len(re.split("\r\n|[\n\r\x85\u2028\u2029]", text))
