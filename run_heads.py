"""Head scores of a model: which heads retrieve, and which retrieve while reasoning.

.venv/bin/python run_heads.py model=smollm2_135m kind=retrieval_reasoning
"""

from typing import Any

from headkv.cli import main
from headkv.heads.job import run_heads


def heads(config: dict[str, Any]) -> None:
    """Computes and saves the scores that the config asks for."""
    print(run_heads(config))


if __name__ == "__main__":
    main("heads", heads)
