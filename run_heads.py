"""Head scores of a model: which heads retrieve, which retrieve while reasoning, and do they matter.

.venv/bin/python run_heads.py model=smollm2_135m kind=retrieval_reasoning
.venv/bin/python run_heads.py model=smollm2_135m mode=masking
"""

from typing import Any

from headkv.calibration.job import run_heads
from headkv.cli import main


def heads(config: dict[str, Any]) -> None:
    """Computes and saves what the config asks for."""
    print("\n".join(map(str, run_heads(config))))


if __name__ == "__main__":
    main("heads", heads)
