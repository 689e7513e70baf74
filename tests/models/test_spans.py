"""Where sentences and lines end, told from token ids."""

import torch

from headkv.models.spans import span_ends

TEXT = "Dr. No! Why?\n- a list\n\nif x:\n    y = 1.5\n你好。中文？是！ and on"  # noqa: RUF001


def test_marks_and_line_breaks_end_spans_in_any_script(byte_tokenizer) -> None:
    """A token a byte: a fullwidth mark ends its span with the last of its bytes."""
    tokenizer = byte_tokenizer()
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    ends = span_ends(tokenizer, torch.tensor([ids, ids[::-1]]))
    wanted, place = [], 0
    for character in TEXT:
        place += len(character.encode())
        if character in ".!?\n。？！":  # noqa: RUF001
            wanted.append(place - 1)
    assert ends[0].nonzero()[:, 0].tolist() == wanted
    assert ends.dtype == torch.bool and ends.shape == (2, len(ids))
