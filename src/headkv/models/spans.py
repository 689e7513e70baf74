"""Where sentences, lines and items of a list end, told from token ids alone.

A span ends with a token whose text holds a full stop, an exclamation or question mark, Western or
Chinese, or a line break, which also ends a line of code and an item of a list.
"""

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

MARKS = ".!?\n。！？．…"  # noqa: RUF001  (fullwidth on purpose)
_PART = "\ufffd"  # how a tokenizer writes some of a character's bytes
_BEFORE = 3  # tokens that a character's first bytes may stand in

_TABLES: "WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Tensor, Tensor]]" = WeakKeyDictionary()


def span_ends(tokenizer: "PreTrainedTokenizerBase", input_ids: "Tensor") -> "Tensor":
    """Whether a span of text ends with each token of some prompts.

    What `CompressedCache` and `prefill` take as `ends=` for scorers that read it, such as `span`.

    Args:
        tokenizer: the model's; what its tokens say is worked out once.
        input_ids: of the prompts, int64 `[batch, token]`, padding included.

    Returns:
        bool of the same shape, on the same device.
    """
    if tokenizer not in _TABLES:
        last = max(tokenizer.get_vocab().values())
        texts = tokenizer.batch_decode([[token] for token in range(last + 1)])
        marked = torch.tensor([any(map(text.__contains__, MARKS)) for text in texts])
        _TABLES[tokenizer] = marked, torch.tensor([_PART in text for text in texts])
    ids = input_ids.cpu()
    marked, parts = _TABLES[tokenizer]
    ends = marked[ids]
    for row, place in parts[ids].nonzero().tolist():
        text = str(tokenizer.decode(ids[row, max(place - _BEFORE, 0) : place + 1]))
        ends[row, place] |= text[-1:] in tuple(MARKS)
    return ends.to(input_ids.device)
