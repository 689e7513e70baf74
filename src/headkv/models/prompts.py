"""From a user's text to token ids: truncation, the chat template and its tail, the end tokens.

Does not know which benchmark or model a text is for, nor when a template should be used.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headkv.errors import UserError

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

USER_MARK = "[user-text-7Qz]"
_ASSISTANT_MARK = "[assistant-text-7Qz]"


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt ready for the model.

    Attributes:
        input_ids: token ids of the whole prompt, special tokens included.
        template_tokens: how many of the last `input_ids` come after the user's text: the template's
            tail and the answer's beginning. The observation window is counted back from before
            them.
        truncated: whether the middle of the text was dropped.
        question_tokens: how many of the last `input_ids` come after the context, the template's
            included; 0 where the two are not told apart.
    """

    input_ids: list[int]
    template_tokens: int
    truncated: bool
    question_tokens: int = 0


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text and where they lie in it.

    Attributes:
        ids: token ids, no special tokens added.
        spans: first and past-the-end character of each token.
    """

    ids: list[int]
    spans: list[tuple[int, int]]

    def before(self, char: int) -> int:
        """Returns how many tokens start before character `char`."""
        return sum(1 for start, _ in self.spans if start < char)


def special_texts(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """What the special tokens of a tokenizer look like in a text, where they are live."""
    known = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return [token.content for token in known if token.special and token.content]


def tokenise(
    tokenizer: "PreTrainedTokenizerBase", text: str, plain: Sequence[tuple[int, int]] = ()
) -> Tokens:
    """Tokenises `text` as it stands and keeps the place of each token.

    Args:
        tokenizer: the model's.
        text: the text; no special tokens are added.
        plain: ascending places, first and past-the-end characters, of special tokens that are to
            be read letter by letter. The text around them is tokenised as if they were live.

    Raises:
        UserError: the tokenizer is one that cannot say where its tokens lie.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} does not report token offsets",
            allowed="fast tokenizers",
            do="load the model's tokenizer with use_fast=True, or convert it to tokenizer.json",
        )
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    at = 0
    for start, stop in (*plain, (len(text), len(text))):
        for first, last, how in ((at, start, {}), (start, stop, {"split_special_tokens": True})):
            if first == last:
                continue
            # verbose=False: a whole essay collection is longer than any model's maximum, on
            # purpose.
            encoded = tokenizer(
                text[first:last],
                add_special_tokens=False,
                return_offsets_mapping=True,
                verbose=False,
                **how,
            )
            ids += encoded["input_ids"]
            spans += [(first + a, first + b) for a, b in encoded["offset_mapping"]]
        at = stop
    return Tokens(ids, spans)


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    text: str,
    *,
    chat_template: bool,
    max_prompt_tokens: int | None,
    question_chars: int = 0,
    answer_prefix: str = "",
    split_special_tokens: bool = False,
) -> EncodedPrompt:
    """Truncates `text` in the middle, wraps it in the chat template, tokenises it.

    Args:
        tokenizer: the model's.
        text: the user's text.
        chat_template: whether to make the text a user's turn, with the assistant's turn opened.
        max_prompt_tokens: most tokens of the text, as in LongBench: measured before the template
            is applied, so a templated prompt is longer by the template. None: no limit.
        question_chars: how many characters at the end of `text` are the question.
        answer_prefix: how the answer begins: the assistant's turn with a template, else the end of
            the text. It is never truncated.
        split_special_tokens: whether special tokens that the text spells out are read letter by
            letter, as any other text; else they are the model's own, as in the published code.
            The template's are its own either way.

    Raises:
        UserError: a template is asked for and the tokenizer has none, the template drops the
            user's text, or the limit is below 2.
    """
    how = {"split_special_tokens": True} if split_special_tokens else {}
    shortened = text
    if max_prompt_tokens is not None:
        shortened = _truncate(tokenizer, text, max_prompt_tokens, how)
    truncated = shortened is not text
    if not chat_template:
        whole, end = f"{shortened} {answer_prefix}" if answer_prefix else shortened, len(shortened)
        plain = _spelled_out(tokenizer, shortened, 0) if split_special_tokens else []
        ids, spans = _framed(tokenizer, whole, plain)
        tail = _tokens_from(end, spans) if answer_prefix else 0
    else:
        rendered = render_user_turn(tokenizer, shortened)
        start, end = _users_place(tokenizer, rendered)
        plain = _spelled_out(tokenizer, rendered[start:end], start) if split_special_tokens else []
        tokens = tokenise(tokenizer, rendered + answer_prefix, plain)
        ids, spans = tokens.ids, tokens.spans
        tail = _tokens_from(end, spans)
    question = _tokens_from(end - question_chars, spans) if question_chars else 0
    return EncodedPrompt(ids, tail, truncated, question)


def _spelled_out(
    tokenizer: "PreTrainedTokenizerBase", text: str, offset: int
) -> list[tuple[int, int]]:
    """Where a text spells out special tokens, ascending, counted from `offset` on."""
    texts = sorted(special_texts(tokenizer), key=len, reverse=True)
    found = re.finditer("|".join(map(re.escape, texts)), text) if texts else ()
    return [(offset + each.start(), offset + each.end()) for each in found]


def _framed(
    tokenizer: "PreTrainedTokenizerBase", text: str, plain: Sequence[tuple[int, int]]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and places of a text's tokens, with those that the tokenizer adds around any text."""
    how = {"return_special_tokens_mask": True} if plain else {}
    encoded: Any = tokenizer(text, return_offsets_mapping=True, **how)
    ids, spans = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    if not plain:
        return ids, spans
    inner = [at for at, added in enumerate(encoded["special_tokens_mask"]) if not added]
    first, last = inner[0], inner[-1] + 1
    tokens = tokenise(tokenizer, text, plain)
    return (
        [*ids[:first], *tokens.ids, *ids[last:]],
        [*spans[:first], *tokens.spans, *spans[last:]],
    )


def _tokens_from(char: int, spans: list[tuple[int, int]]) -> int:
    """How many tokens start at or behind a character.

    Some tokenizers trim a blank token to an empty span at its own end, so that a text's last blank
    looks as if it started behind the text: it must also stop behind the character.
    """
    return sum(1 for start, stop in spans if start >= char and stop > char)


def render_user_turn(tokenizer: "PreTrainedTokenizerBase", text: str) -> str:
    """Returns `text` as a user's turn in the chat template, the assistant's turn opened.

    Special tokens are written out: tokenise it with none added, as `tokenise` does.

    Args:
        tokenizer: the model's.
        text: the user's text.

    Raises:
        UserError: the tokenizer has no chat template.
    """
    return _render(tokenizer, [("user", text)], open_answer=True)


def end_token_ids(
    tokenizer: "PreTrainedTokenizerBase", generation_config: "GenerationConfig | None"
) -> tuple[int, ...]:
    """Returns every token that ends an answer, without repeats.

    These are the tokenizer's and the generation config's end tokens, and the special token with
    which the chat template closes the assistant's turn: published Llama-3 folders name only the
    first in the tokenizer, and the model then talks past `<|eot_id|>`.

    Args:
        tokenizer: the model's.
        generation_config: the model's; None: only the tokenizer is asked.
    """
    ids = [tokenizer.eos_token_id]
    configured = getattr(generation_config, "eos_token_id", None)
    ids += configured if isinstance(configured, list) else [configured]
    if tokenizer.chat_template is not None:
        turns = [("user", USER_MARK), ("assistant", _ASSISTANT_MARK)]
        _, found, closing = _render(tokenizer, turns).rpartition(_ASSISTANT_MARK)
        first = tokenise(tokenizer, closing.lstrip()).ids[:1] if found else []
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        ids += [i for i in first if i in special]
    return tuple(dict.fromkeys(int(i) for i in ids if i is not None))


def _truncate(
    tokenizer: "PreTrainedTokenizerBase", text: str, limit: int, how: dict[str, Any]
) -> str:
    """`text` itself if it has at most `limit` tokens, else its first and last half of them."""
    if limit < 2:
        raise UserError(
            f"a prompt limit of {limit} tokens leaves nothing",
            allowed="2 or more",
            do="raise max_prompt_tokens in the model's yaml",
        )
    ids = tokenizer(text, verbose=False, **how)["input_ids"]
    if len(ids) <= limit:
        return text
    halves = ids[: limit // 2], ids[-(limit // 2) :]
    return "".join(str(tokenizer.decode(half, skip_special_tokens=True)) for half in halves)


def _render(
    tokenizer: "PreTrainedTokenizerBase", turns: list[tuple[str, str]], *, open_answer: bool = False
) -> str:
    """The conversation as one string."""
    if tokenizer.chat_template is None:
        raise UserError(
            "the tokenizer has no chat template",
            allowed="an instruction-tuned model, or prompts without a template",
            do="choose an instruct model or switch the chat template off",
        )
    try:
        rendered = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in turns],
            add_generation_prompt=open_answer,
            tokenize=False,
            # Templates that do not know these ignore them. Thinking would spend the answer's few
            # tokens; Llama-3.1 would write today's date, and every day would be another prompt.
            enable_thinking=False,
            date_string="26 Jul 2024",
        )
    except Exception as problem:  # a template is a program, and may fail in any way
        reason = " ".join(str(problem).split())[:80]
        raise UserError(
            f"the tokenizer's chat template fails ({type(problem).__name__}: {reason})",
            allowed="a template that renders a user's turn",
            do="repair tokenizer.chat_template or set model.chat_template=false",
        ) from problem
    return str(rendered)


def _users_place(tokenizer: "PreTrainedTokenizerBase", rendered: str) -> tuple[int, int]:
    """First and past-the-end character of the user's text in `rendered`.

    Found by rendering a mark in the text's place: searching for the text itself would fail where
    a template strips it, and find the wrong place where the text also occurs in the template.
    """
    marked = render_user_turn(tokenizer, USER_MARK)
    head, found, tail = marked.rpartition(USER_MARK)
    end = len(rendered) - len(tail)
    if not found or not rendered.endswith(tail) or end < len(head):
        raise UserError(
            "the chat template does not show where the user's text ends",
            allowed="templates that write the user's text unchanged or stripped",
            do="repair tokenizer.chat_template or switch the chat template off",
        )
    return len(head), end
