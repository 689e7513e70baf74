"""What methods read from files of a model: head scores of every kind, and layer importance."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headkv.config import load_group, located, names
from headkv.errors import UserError
from headkv.evaluation.settings import Settings
from headkv.methods.build import resources
from headkv.models.spec import ModelSpec
from headkv.storage.head_scores import find_head_scores, load_head_scores, read_scores
from headkv.storage.layer_importance import find_layer_importance, load_layer_importance
from headkv.storage.measured import place_of

if TYPE_CHECKING:
    from torch import Tensor


class ModelFiles:
    """Finds, checks and reads the files of one model, each once.

    Args:
        settings: the settings of the run; `head_scores=` and `layer_importance=` go first.
        spec: names the model's files.
        config: the model's transformers config, to tell another model's files.
    """

    def __init__(self, settings: Settings, spec: ModelSpec, config: Any) -> None:
        self.settings, self.spec, self.config = settings, spec, config
        self._scores: dict[str, Any] = {}  # kind -> Tensor
        self._importance: Any = None
        self._given: set[str] = set()  # kinds that were read from head_scores=

    def find(self, what: str, kind: str | None) -> Path | str:
        """Finds what `read` would read, before there is a model to compare it with.

        Args:
            what: as `read`.
            kind: as `read`.

        Raises:
            UserError: there is no such file, or it cannot be read at all.
        """
        if what == "layer_importance":
            found = self._find_importance()
            if not isinstance(found, str) and not found.is_file():
                raise UserError(
                    f"no layer importance {found}",
                    allowed="a file of this model, or uniform",
                    do="set layer_importance=FILE, or measure it: headkv importance",
                )
            return found
        assert kind is not None
        path = self._find_scores(kind)
        read_scores(path)
        return path

    def read(self, what: str, kind: str | None) -> "Tensor | str":
        """Reads what a scorer or allocator needs; see `headkv.methods.build.compose`.

        Args:
            what: `head_scores` or `layer_importance`.
            kind: the kind of head scores.

        Returns:
            Head scores, float64 `[layer, query_head]`, or layer importance, float64 `[layer]`;
            `uniform` if that was asked for.

        Raises:
            UserError: there is no such file, or it is another model's or of another kind.
        """
        if what == "layer_importance":
            if self._importance is None:
                self._importance = self._read_importance()
            return self._importance
        assert kind is not None
        if kind not in self._scores:
            self._scores[kind] = self._read_scores(kind)
        return self._scores[kind]

    def check_given(self) -> None:
        """Checks, once all cells are built, that `head_scores=` was meant for what it was read as.

        Raises:
            UserError: a file without a header was read as several kinds, or no cell reads the file.
        """
        given = self.settings.head_scores
        if given is None or len(self._given) == 1:
            return
        if self._given:
            raise UserError(
                f"head_scores={given} does not say its kind, and the methods need "
                f"{' and '.join(sorted(self._given))}",
                allowed="one kind a file",
                do="choose methods of one kind, or give the file a header: headkv heads import",
            )
        needed = ", ".join(sorted(self._scores)) or "none"
        kind = read_scores(located(given))[0].get("kind", "unknown")
        raise UserError(
            f"head_scores={given} holds {kind} scores, which no method of this run reads",
            allowed=f"the kinds that they read: {needed}",
            do="leave head_scores= out, or choose other methods",
        )

    def _read_scores(self, kind: str) -> Any:
        allow_foreign = self.settings.allow_foreign_scores
        path = self._find_scores(kind)
        return load_head_scores(path, self.config, kind=kind, allow_foreign=allow_foreign)

    def _find_scores(self, kind: str) -> Path:
        given = self.settings.head_scores
        path = None
        if given is not None:
            header, _ = read_scores(self._place(given))
            if header.get("kind") in (None, kind):
                path = self._place(given)
                self._given.add(kind)
        named = self.spec.head_scores.get(kind)
        path = path or find_head_scores(self.spec.name, kind, self.settings.data_dir, named)
        if path is None:
            raise self._missing(kind)
        return path

    def _missing(self, kind: str) -> UserError:
        spec = self.spec
        model = f"make heads MODEL={spec.name}"
        if spec.name not in names("model"):
            model = f"run_heads.py model.path={spec.path} kind={kind}"
        yamls = {name: load_group("method", name) for name in names("method")}
        order = {name: each.get("display", {}).get("order", 10**6) for name, each in yamls.items()}
        free = [name for name in sorted(yamls, key=order.__getitem__) if not resources(yamls[name])]
        return UserError(
            f"model {spec.name} has no {kind} head scores",
            allowed="a score file of this model, or methods without: "
            f"method=[{','.join(free[:5])}]",
            do=f"{model}, or set head_scores=FILE",
        )

    def _read_importance(self) -> Any:
        path = self._find_importance()
        if isinstance(path, str):
            return path
        return load_layer_importance(
            path, self.config, allow_foreign=self.settings.allow_foreign_scores
        )

    def _find_importance(self) -> Path | str:
        given = self.settings.layer_importance
        if given == "uniform":
            return given
        spec, data_dir = self.spec, self.settings.data_dir
        if given is None:
            path = find_layer_importance(spec.name, data_dir, spec.layer_importance)
        else:
            path = place_of("layer_importance", given, data_dir)
        if path is None:
            raise UserError(
                f"model {self.spec.name} has no layer importance",
                allowed="a file of this model, or uniform",
                do="measure it: headkv importance, or set layer_importance=uniform",
            )
        return path

    def _place(self, given: str) -> Path:
        """Where the file of `head_scores=` lies."""
        return place_of("head_scores", given, self.settings.data_dir)
