"""What stock `generate` is about to feed, of which a cache is told too little.

transformers hands a cache the keys of new tokens and nothing else. Further turns, another prompt
that is longer than what the cache has seen, and the second chunk of a prompt that comes in chunks
(`prefill_chunk_size=`, `GenerationMixin._prefill`) all reach it as a few more tokens; neither their
ids nor the settings come along, and no hook of a cache or of an attention function gets them
(looked for in transformers 5.17 to 5.23). What `generate` does to every cache that it is given,
before it feeds anything, is to mark it as the user's. At that moment it stands on the call stack
with all its arguments, and there they are read. Under another `generate` nothing is found, and
nothing is refused that was not before.
"""

import inspect
import sys
from dataclasses import dataclass

from torch import Tensor
from transformers import GenerationMixin

from headkv.errors import UserError

_FRAMES = 8
"""How far up `generate` is looked for; models put a call or two of their own between."""


@dataclass(frozen=True)
class Announced:
    """What a `generate` was called with.

    Attributes:
        ids: token ids of the text, left padding included, `[sequence, token]`; None: embeddings.
        further: whether these are new tokens alone, not the text that the cache has seen as well.
        chunked: whether the prompt is to be fed in chunks.
    """

    ids: Tensor | None
    further: bool
    chunked: bool


def announced() -> Announced | None:
    """What the `generate` that is running says; None: there is none on the stack."""
    code = inspect.unwrap(GenerationMixin.generate).__code__
    frame = sys._getframe(1)
    for _ in range(_FRAMES):
        if frame.f_code is code:
            break
        if frame.f_back is None:
            return None
        frame = frame.f_back
    else:
        return None
    given, settings = frame.f_locals, frame.f_locals.get("generation_config")
    inputs = given.get("model_kwargs") or {}
    ids, mask = given.get("input_ids"), inputs.get("attention_mask")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or inputs.get("inputs_embeds") is not None:
        ids = None
    # A mask of ones alone is dropped before, and its length noted.
    tokens = mask.shape[-1] if isinstance(mask, Tensor) else getattr(settings, "_mask_length", -1)
    chunk = getattr(settings, "prefill_chunk_size", None)
    return Announced(ids, ids is not None and tokens > ids.shape[1], chunk is not None)


def check_announced(given: Announced, held: Tensor | None, seen: int) -> Tensor | None:
    """Refuses a `generate` that a compressed cache would answer wrongly without a word.

    Args:
        given: what it was called with.
        held: the text that the cache was prefilled with, or that of its last turn, answers to
            which may have followed; None: unknown.
        seen: tokens that the cache has seen.

    Returns:
        The text that the cache holds the beginning of from now on; None: unknown.

    Raises:
        UserError: the prompt comes in chunks, or is another than the one that the cache holds.
    """
    if given.chunked:
        raise UserError(
            "a prompt in chunks, of which only the first would be compressed",
            allowed="prompts in one piece",
            do="leave out prefill_chunk_size=",
        )
    if given.further or given.ids is None:
        return held if seen else None
    if seen and held is not None:
        common = min(seen, held.shape[1], given.ids.shape[1])
        # Any of the rows: beams and several answers to a prompt change their number and order.
        new, old = given.ids[:, None, :common], held[None, :, :common].to(given.ids.device)
        if not bool((new == old).all(-1).any(-1).all()):
            raise UserError(
                f"a prompt of {given.ids.shape[1]} tokens on a cache that holds another, of "
                f"{held.shape[1]}",
                allowed="one cache a prompt, or a further turn: the same tokens and more behind",
                do="make a CompressedCache for every prompt, or call cache.reset()",
            )
    return given.ids
