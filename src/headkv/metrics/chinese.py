"""Scores of Chinese answers, whose words `jieba` tells apart."""

import string
import warnings
from functools import cache
from typing import TYPE_CHECKING

from headkv.metrics.text import words_f1

if TYPE_CHECKING:
    from jieba import Tokenizer

# Code points that LongBench drops besides ASCII punctuation: dashes and quotes, CJK marks,
# fullwidth and halfwidth forms.
_MARKS = (
    *(0x2018, 0x2019, 0x2026, 0x2027, 0x300B, 0x3030, 0x303E, 0x303F, 0xFE4F, 0xFF0F),
    *range(0x2013, 0x2015),
    *range(0x201B, 0x2020),
    *range(0x3001, 0x3004),
    *range(0x300C, 0x3012),
    *range(0x3014, 0x3020),
    *range(0xFF01, 0xFF0E),
    *range(0xFF1A, 0xFF21),
    *range(0xFF3B, 0xFF41),
    *range(0xFF5B, 0xFF65),
)
# It drops the closing title mark and leaves the opening one, and it leaves the fullwidth full stop.
_LEFT_OUT = (0x3008, 0x3009, 0x300A, 0xFF0E)
_DROPPED = {
    "paper": dict.fromkeys((*_MARKS, *map(ord, string.punctuation))),
    "corrected": dict.fromkeys((*_MARKS, *map(ord, string.punctuation), *_LEFT_OUT)),
}


def words(text: str) -> list[str]:
    """Splits a text into the words that `jieba` sees, blanks and punctuation among them."""
    return list(_tokenizer().cut(text))


def normalise_chinese(text: str, protocol: str = "corrected") -> str:
    """Returns a text in lower case without ASCII and Chinese punctuation and blanks (LongBench).

    Args:
        text: what is normalised.
        protocol: `paper` leaves the four marks in that LongBench's list lacks; `corrected` drops
            them too.
    """
    return "".join(text.lower().translate(_DROPPED[protocol]).split())


def qa_f1_zh(prediction: str, answer: str, protocol: str = "corrected") -> float:
    """Computes LongBench's Chinese QA-F1: F1 over the words of both texts, each normalised.

    Args:
        prediction: the model's answer.
        answer: the reference answer.
        protocol: of `normalise_chinese`.
    """
    given, wanted = (
        [normal for word in words(text) if (normal := normalise_chinese(word, protocol))]
        for text in (prediction, answer)
    )
    return words_f1(given, wanted)


@cache
def _tokenizer() -> "Tokenizer":
    """A tokenizer of our own, so that words added to jieba's shared one change no score.

    Its dictionary is read directly (0.8 s a process). jieba's way through a cache file in the
    common temporary folder writes to stderr and to where other processes write too.
    """
    with warnings.catch_warnings():  # of its escape sequences, where Python compiles it first
        warnings.simplefilter("ignore")
        from jieba import Tokenizer

    tokenizer = Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer
