"""From a user's text to token ids: truncation, the chat template and its tail, the end tokens.

Does not know which benchmark or model a text is for, nor when a template should be used.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

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


def tokenise(tokenizer: "PreTrainedTokenizerBase", text: str) -> Tokens:
    """Tokenises `text` as it stands and keeps the place of each token.

    Args:
        tokenizer: the model's.
        text: the text; no special tokens are added.

    Raises:
        UserError: the tokenizer is one that cannot say where its tokens lie.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} does not report token offsets",
            allowed="fast tokenizers",
            do="load the model's tokenizer with use_fast=True, or convert it to tokenizer.json",
        )
    # verbose=False: a whole essay collection is longer than any model's maximum, on purpose.
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return Tokens(list(encoded["input_ids"]), [(a, b) for a, b in encoded["offset_mapping"]])


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    text: str,
    *,
    chat_template: bool,
    max_prompt_tokens: int | None,
    question_chars: int = 0,
    answer_prefix: str = "",
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

    Raises:
        UserError: a template is asked for and the tokenizer has none, the template drops the
            user's text, or the limit is below 2.
    """
    shortened = text if max_prompt_tokens is None else _truncate(tokenizer, text, max_prompt_tokens)
    truncated = shortened is not text
    if not chat_template:
        whole, end = f"{shortened} {answer_prefix}" if answer_prefix else shortened, len(shortened)
        encoded = tokenizer(whole, return_offsets_mapping=True)
        ids, spans = list(encoded["input_ids"]), encoded["offset_mapping"]
        tail = _tokens_from(end, spans) if answer_prefix else 0
    else:
        rendered = render_user_turn(tokenizer, shortened)
        end = len(rendered) - len(_template_tail(tokenizer, rendered))
        tokens = tokenise(tokenizer, rendered + answer_prefix)
        ids, spans = tokens.ids, tokens.spans
        tail = _tokens_from(end, spans)
    question = _tokens_from(end - question_chars, spans) if question_chars else 0
    return EncodedPrompt(ids, tail, truncated, question)


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


def _truncate(tokenizer: "PreTrainedTokenizerBase", text: str, limit: int) -> str:
    """`text` itself if it has at most `limit` tokens, else its first and last half of them."""
    if limit < 2:
        raise UserError(
            f"a prompt limit of {limit} tokens leaves nothing",
            allowed="2 or more",
            do="raise max_prompt_tokens in the model's yaml",
        )
    ids = tokenizer(text, verbose=False)["input_ids"]
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


def _template_tail(tokenizer: "PreTrainedTokenizerBase", rendered: str) -> str:
    """What the template writes after the user's text in `rendered`.

    Found by rendering a mark in the text's place: searching for the text itself would fail where
    a template strips it, and find the wrong place where the text also occurs in the template.
    """
    marked = render_user_turn(tokenizer, USER_MARK)
    _, found, tail = marked.rpartition(USER_MARK)
    if not found or not rendered.endswith(tail):
        raise UserError(
            "the chat template does not show where the user's text ends",
            allowed="templates that write the user's text unchanged or stripped",
            do="repair tokenizer.chat_template or switch the chat template off",
        )
    return tail
