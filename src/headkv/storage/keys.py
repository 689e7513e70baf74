"""TODO."""

import hashlib
import json
from typing import Any


def digest(content: Any, length: int = 12) -> str:
    """A short hash of anything JSON can hold."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
