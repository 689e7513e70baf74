"""How large a generated text may be: the largest size whose tokens stay within a bound."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from headkv.models.prompts import render_user_turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENOUGH = 0.002  # of the bound may stay unused: a search to the last token costs twice the time


def largest_size(
    tokens: Callable[[int], int], bound: int, least: int, guess: int
) -> tuple[int, int] | None:
    """Finds the largest size whose text has at most `bound` tokens, by bracketing and halving.

    Between two known sizes the next is where a straight line meets the bound, and every third one
    the middle, so that the search is as sure as plain halving and mostly over after three texts.

    Args:
        tokens: builds the text of a size and counts its tokens; grows with the size.
        bound: most tokens of the text.
        least: the smallest size there is.
        guess: where to begin.

    Returns:
        A size and its tokens; a size may be refused only if it leaves less than 0.2 % unused. None:
        even the smallest is too long.
    """
    low, low_tokens = least, tokens(least)
    if low_tokens > bound:
        return None
    high, high_tokens = 0, 0  # 0: none known
    size, step = max(guess, least + 1), 0
    while bound - low_tokens > _ENOUGH * bound and high != low + 1:
        count = tokens(size)
        if count <= bound:
            low, low_tokens = size, count
        else:
            high, high_tokens = size, count
        step += 1
        if not high:
            size = max(low + 1, low * bound // max(low_tokens, 1) + 1)
        elif step % 3 == 0:
            size = (low + high) // 2
        else:
            size = low + (high - low) * (bound - low_tokens) // (high_tokens - low_tokens)
        if high:
            size = min(max(size, low + 1), high - 1)
    return low, low_tokens


def count_tokens(
    tokenizer: "PreTrainedTokenizerBase", text: str, answer_prefix: str, chat_template: bool
) -> int:
    """Counts the tokens of a prompt as the model gets it, without the answer.

    Args:
        tokenizer: the model's.
        text: the user's text.
        answer_prefix: how the answer begins.
        chat_template: whether the text becomes a user's turn, if the tokenizer has a template.
    """
    templated = chat_template and tokenizer.chat_template is not None
    if templated:
        whole = render_user_turn(tokenizer, text) + answer_prefix
    else:
        whole = f"{text} {answer_prefix}" if answer_prefix else text
    return len(tokenizer(whole, add_special_tokens=not templated, verbose=False)["input_ids"])
