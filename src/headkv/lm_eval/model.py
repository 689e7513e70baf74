"""lm-evaluation-harness's Hugging Face model, answering from a compressed cache.

Generation tasks run through stock `generate`; what a log-likelihood task scores follows a context
that is compressed first. Every request leaves proof of what was evicted.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from tqdm import tqdm

from headkv.cache import CompressedCache
from headkv.config import compose, names
from headkv.errors import UserError
from headkv.evaluation.answers import CellCost
from headkv.evaluation.assembly import load
from headkv.evaluation.grid import Cell, build_cells
from headkv.evaluation.settings import Settings
from headkv.generation.batch import DecodingBatch, start
from headkv.generation.prefill import prefill
from headkv.models.loaded import Loaded
from headkv.models.prompts import USER_MARK
from headkv.models.spec import load_spec

Request = tuple[tuple[str, str], list[int], list[int]]


@dataclass(frozen=True)
class Proof:
    """What a cache held of one request's context, counted on the cache.

    Attributes:
        prompt_tokens: tokens of the context, padding not counted.
        kept_tokens: entries after compression, summed over layers and stored heads.
        cache_bytes: bytes that they occupy.
        full_cache_bytes: bytes of the uncompressed cache of KV heads.
    """

    prompt_tokens: int
    kept_tokens: int
    cache_bytes: int
    full_cache_bytes: int


def build(settings: dict[str, str]) -> tuple[Loaded, Cell]:
    """Loads the model and builds the one method that `--model_args` names.

    Args:
        settings: keys of a run (`method`, `kv_size`, `protocol`, `head_scores`, `scorer`,
            `model.dtype` ...) and `pretrained`, a model of ours, a folder or a hub id.

    Raises:
        UserError: no `pretrained`, an unknown key or value, or several methods.
    """
    overrides = dict(settings)
    model = overrides.pop("pretrained", None)
    if not model:
        raise UserError(
            "no pretrained= in --model_args",
            allowed=f"{', '.join(names('model'))}, a folder or a hub id",
            do="type --model_args pretrained=smollm2_135m,method=snapkv,kv_size=128",
        )
    place = "model" if model in names("model") else "model.path"
    words = [f"{place}={model}", *(f"{key}={value}" for key, value in overrides.items())]
    run = Settings.parse(compose("needle", words))
    spec = load_spec(str(run.model["name"]), run.model)
    loaded = load(spec)
    cells = build_cells(run, spec, loaded.model.config)
    if len(cells) != 1:
        raise UserError(
            f"{len(cells)} methods and KV sizes in --model_args",
            allowed="one method at one KV size",
            do="type method=NAME,kv_size=N",
        )
    return loaded, cells[0]


class HeadKVLM(HFLM):
    """A model whose context is compressed before anything is generated or scored.

    Args:
        loaded: the model.
        cell: the method at its KV size.
        batch_size: prompts generated from together.
        max_length: tokens of context and answer at most; None: the model's own length.
    """

    def __init__(
        self, loaded: Loaded, cell: Cell, batch_size: int = 1, max_length: int | None = None
    ) -> None:
        super().__init__(
            pretrained=loaded.model,
            tokenizer=loaded.tokenizer,
            batch_size=batch_size,
            max_length=max_length,
        )
        self.method = cell.method
        self._proofs: dict[str, Proof] = {}
        self._contexts: Sequence[str] = ()
        self._tail: list[int] = []

    def proof(self, request: Sequence[Any]) -> dict[str, int]:
        """What the cache held for a request of lm-eval, its context being the first of `request`.

        Args:
            request: context and continuation, or context and generation settings.
        """
        return asdict(self._proofs[str(request[0])])

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Renders a conversation, and notes what the template writes behind the user's text."""
        text = str(super().apply_chat_template(chat_history, add_generation_prompt))
        last = max(i for i, turn in enumerate(chat_history) if turn["role"] == "user")
        marked = [dict(turn) for turn in chat_history]
        marked[last]["content"] = USER_MARK
        shown = str(super().apply_chat_template(marked, add_generation_prompt))
        _, found, tail = shown.rpartition(USER_MARK)
        self._tail = self.tok_encode(tail, add_special_tokens=False) if found else []
        return text

    def tok_batch_encode(self, strings: list[str], **how: Any) -> tuple[Tensor, Tensor]:
        """Encodes a batch of contexts, and notes which they are."""
        self._contexts = strings
        ids, mask = super().tok_batch_encode(strings, **how)
        return ids, mask

    def _template_tokens(self, contexts: Sequence[Sequence[int]]) -> int:
        """How many of the last tokens of every context are the chat template's."""
        count = len(self._tail)
        ends = all(list(ids[len(ids) - count :]) == self._tail for ids in contexts)
        return count if ends else 0

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], **how: Any
    ) -> Tensor:
        """Stock `generate` on a compressed cache."""
        tail = self._template_tokens(context.tolist())
        cache = CompressedCache(self.model.config, self.method, tail)
        output: Tensor = super()._model_generate(
            context, max_length, stop, past_key_values=cache, **how
        )
        mask = how.get("attention_mask")
        lengths = (torch.ones_like(context) if mask is None else mask).sum(1).tolist()
        for row, (text, length) in enumerate(zip(self._contexts, lengths, strict=True)):
            self._note(text, cache, row, length)
        return output

    def _note(self, text: str, cache: CompressedCache, row: int, length: int) -> None:
        """Counts one row of a cache."""
        cost = CellCost.of(0, 0.0, cache)
        full = sum(
            # Sliding layers hold all that a full cache would; others' tails are such a cache.
            layer.row_bytes[row] if layer.plan.index is None else length * layer.token_cost[1]
            for layer in cache.layers
        )
        self._proofs[text] = Proof(length, cost.kept[row], cost.held[row], full)

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Scores continuations, each context prefilled and compressed once for all of its own.

        Returns:
            For every request the sum of the continuation's log-probabilities, in nats, and whether
            greedy decoding would have written it.
        """
        found: dict[int, tuple[float, bool]] = {}
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, (_, context, continuation) in enumerate(requests):
            room = max(1, self.max_length + 1 - len(continuation))
            groups.setdefault(tuple(context[-room:]), []).append(index)
        for context, members in tqdm(groups.items(), "contexts", disable=disable_tqdm):
            batch = self._compressed(list(context))
            for text in {requests[index][0][0] for index in members}:
                self._note(text, batch.cache, 0, len(context))
            for index in members:
                found[index] = self._scored(batch.fork(), requests[index][2])
        return [found[index] for index in range(len(requests))]

    def _compressed(self, context: list[int]) -> DecodingBatch:
        """A context, prefilled and compressed."""
        ids = {"input_ids": torch.tensor([context], device=self.device)}
        tail = self._template_tokens([context])
        prefilled = prefill(self.model, ids, tail, [self.method])
        return start(self.model, prefilled, [prefilled.compress(self.method)])

    def _scored(self, batch: DecodingBatch, continuation: list[int]) -> tuple[float, bool]:
        """Log-probability of a continuation behind a compressed context; the batch is used up."""
        wanted = torch.tensor(continuation, device=self.device)
        logits = batch.logits
        if len(continuation) > 1:
            logits = torch.cat([logits, batch.feed(self.model, wanted[None, :-1])[0]])
        logs = logits.log_softmax(-1)
        right = logs.gather(1, wanted[:, None])
        return float(right.sum()), bool((logs.argmax(-1) == wanted).all())
