"""TODO."""

from headkv.storage.keys import digest

SHARE = 0.15


_SPLIT = "headkv validation split 1"  # the seed: another text is another split


def in_validation(task: str, id: str) -> bool:
    """Whether an example belongs to the validation part, the same in every run on any machine."""
    return int(digest([_SPLIT, task, id], 8), 16) < SHARE * 16**8
