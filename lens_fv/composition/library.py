"""Vector libraries: a folder of vectors with an index, the basis of composites."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from lens_fv.composition.basis import Basis, make_basis
from lens_fv.composition.index import INDEX, Entry, read_index, write_index
from lens_fv.core.choices import Whole, checked, nearest
from lens_fv.core.display import Displayed
from lens_fv.core.files import file_name
from lens_fv.core.tables import DataFrame, data_frame
from lens_fv.errors import LensFVError
from lens_fv.model.lens_model import LensModel
from lens_fv.vectors import FunctionVector


@dataclass(frozen=True, repr=False)
class VectorLibrary(Displayed):
    """Vectors by relation name; each file is read when its vector is first used.

    Attributes:
        entries: Index entries of the vectors, in order.

    Example:
        >>> recipe = lens_fv.composition.TuneRecipe(layer=1, n_pairs=4, steps=2)
        >>> library = lens_fv.build_library(model, [task], folder / 'library', recipe)
        >>> library['toy'].layer
        1
    """

    _MADE_BY: ClassVar[str] = "build_library"

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        """Refuse duplicate names."""
        twice = sorted(name for name, n in Counter(self.names).items() if n > 1)
        if twice:
            raise LensFVError(f"vector library of {len(self)}: {', '.join(twice)} twice; rename or leave out one")

    @classmethod
    def load(cls, folder: str | Path) -> "VectorLibrary":
        """Read the library in a folder; its vectors are read when they are used.

        Raises:
            LensFVError: the index is missing, damaged, or of a newer format.
        """
        return cls(tuple(read_index(Path(folder)).entries))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its relations."""
        return tuple(entry.name for entry in self.entries)

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in self.entries}

    @cached_property
    def _loaded(self) -> dict[str, FunctionVector]:
        return {}

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entry(self, name: str) -> Entry:
        """Return the index entry of one vector.

        Raises:
            LensFVError: no vector of that name.
        """
        if name not in self._entries:
            has = ", ".join(self.names) or "no vectors"
            raise LensFVError(f"vector of {name!r}: the library has none; it has {has}{nearest(name, self.names)}")
        return self._entries[name]

    def __getitem__(self, name: str) -> FunctionVector:
        """Return the vector of a relation, read from file once.

        Raises:
            LensFVError: no such vector, or its file is missing or damaged.
        """
        entry = self.entry(name)
        if name not in self._loaded:
            self._loaded[name] = FunctionVector.load(entry.file)
        return self._loaded[name]

    def filter(
        self,
        names: Iterable[str] | None = None,
        *,
        group: str | None = None,
        family: str | None = None,
        where: Callable[[Entry], bool] = lambda entry: True,  # noqa: ARG005
    ) -> "VectorLibrary":
        """Select the vectors that meet every condition, in the same order.

        Args:
            names: Names of relations to keep; default: all.
            group: Group to keep; default: all.
            family: Family to keep; default: all.
            where: Further condition on entries, such as `lambda entry: entry.gain > 1`.

        Raises:
            LensFVError: a name that the library lacks.
        """
        selected = set(self.names) if names is None else {self.entry(name).name for name in names}
        return self._part(
            entry
            for entry in self.entries
            if entry.name in selected
            and (group is None or group == entry.group)
            and (family is None or family == entry.family)
            and where(entry)
        )

    def without(self, *names: str) -> "VectorLibrary":
        """Return the library without these relations.

        Raises:
            LensFVError: a name that the library lacks.
        """
        excluded = {self.entry(name).name for name in names}
        return self._part(e for e in self.entries if e.name not in excluded)

    def merge(self, other: "VectorLibrary") -> "VectorLibrary":
        """Return the union of two libraries.

        Raises:
            LensFVError: a name that occurs in both.
        """
        return VectorLibrary((*self.entries, *other.entries))

    @checked
    def at(self, layer: Whole) -> "VectorLibrary":
        """Move all vectors to one layer without rescaling; their measured effects become unknown.

        Raises:
            LensFVError: a vector's file is missing or damaged.
        """
        unknown = float("nan")
        entries = [replace(e, layer=layer, norm=unknown, logprob=unknown, gain=unknown, top1=unknown) for e in self.entries]
        moved = VectorLibrary(tuple(entries))
        moved._loaded.update({name: self[name].at(layer=layer) for name in self.names})
        return moved

    def _part(self, entries: Iterable[Entry]) -> "VectorLibrary":
        part = VectorLibrary(tuple(entries))
        part._loaded.update({name: vector for name, vector in self._loaded.items() if name in part})
        return part

    def basis(self, model: LensModel) -> Basis:
        """Return all vectors as the rows of a basis.

        Raises:
            LensFVError: no vectors, vectors of several layers or models, one injected at heads, or one of another model.
        """
        return make_basis(model, self.entries, self.__getitem__)

    def save(self, folder: str | Path) -> "VectorLibrary":
        """Copy the library into a folder without one, and return the copy.

        Raises:
            LensFVError: the folder already holds a library or cannot be written to.
        """
        folder = Path(folder)
        if (folder / INDEX).exists():
            raise LensFVError(f"save a library to {folder}: there is one already; choose another folder")
        entries = tuple(replace(e, file=self[e.name].save(folder / f"{file_name(e.name)}.safetensors")) for e in self.entries)
        write_index(folder, {}, entries)
        return VectorLibrary.load(folder)

    def to_dataframe(self) -> DataFrame:
        """One row per vector; see `Entry`."""
        return data_frame(self.entries)

    def summary(self) -> dict[str, str]:
        """Key facts for display."""
        families = {(e.group, e.family) for e in self.entries}
        return {
            "vectors": f"{len(self)} in {len({group for group, _ in families})} groups, {len(families)} families",
            "model": ", ".join(sorted({e.model for e in self.entries})) or "none",
            "layer": ", ".join(map(str, sorted({e.layer for e in self.entries}))) or "none",
            "mean gain": f"{sum(e.gain for e in self.entries) / max(len(self), 1):.2f} nats on validation answers",
        }
