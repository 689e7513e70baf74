"""Short hashes that tell settings, prompts and files apart."""

import hashlib
import json
from typing import Any


def digest(content: Any, length: int = 12) -> str:
    """Hashes anything JSON can hold; dictionaries that differ in order only have one hash.

    Args:
        content: what is hashed; what JSON cannot hold is hashed as its text.
        length: hexadecimal digits of the result.
    """
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
