"""Feature: the nearest of some references, the pictures of evaluation sets say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field as Setting

from curate import features
from curate.errors import ConfigError
from curate.features import Feature, Field
from curate.features._given.array_files import ArrayFiles
from curate.features._given.hash_files import HashFiles
from curate.features._given.reference_pictures import (
    PictureFiles,
    feature_of,
    holds_pictures,
    identity_of,
)

if TYPE_CHECKING:
    from curate.features._references import ReferencesScorer

CLIP_ARRAYS = (  # of DataComp's metadata, and of clip-retrieval
    *("b32_img", "b32_txt", "l14_img", "l14_txt"),
    *("img_emb", "text_emb"),
)
NO_CLIP = (
    "{} comes from a CLIP, which is no copy detector: at a precision of 0.9 it finds 2 % of the "
    "copies (DataComp, 2304.14108, App. F). Take `image_model` with `model: isc_ft_v107`, or "
    "`perceptual_hash`; or write `with_clip: true`"
)
NO_BY = (
    "by: the references are pictures: say which step makes the samples' column, with its fields, "
    "as in `by: {image_model: {model: ..., weights: ...}}`"
)


class References(Feature):
    """The nearest of given references: by cosine of embeddings, or by Hamming distance of hashes.

    `files` are embeddings (.npy, DataComp's .pt, .npz, or the folder `features/NAME` that a
    pipeline over the reference pictures leaves), hashes (.npy of uint64, or that folder's
    block-*.parquet), or the pictures themselves (files, folders, tars): the step that `of`
    comes from embeds them too; where that is no step of this pipeline, `by` says how, as in
    `by: {image_model: {model: isc_ft_v107, weights: isc.pth.tar}}`.

    Copies are often mirrored. Pictures are compared as they are and mirrored, at no cost for the
    samples; so is a folder that has both. For other files `mirrored` names the column of the
    mirrored sample. Of equally near references the first is given; one that is read as it is comes
    before one that is mirrored. Hashes give `distance`, the bits that differ, in place of
    `similarity`. Exact; `decontaminate` removes who is too near.
    """

    version: ClassVar[int] = 1
    gpu: ClassVar[bool] = True
    outside_recipe: ClassVar[tuple[str, ...]] = ("with_clip",)

    name: str = "references"
    of: str = Setting("image_model.image", description="the samples' embeddings or hashes")
    files: str | tuple[str, ...] = Setting(
        description="the references: embeddings, hashes or pictures; files, folders or patterns"
    )
    by: dict[str, dict[str, Any]] | None = Setting(
        None, description="for pictures: the step that embeds or hashes them, if not that of `of`"
    )
    mirrored: str | None = Setting(
        None, description="the mirrored samples' embeddings or hashes, compared as well"
    )
    metric: Literal["cosine", "hamming"] | None = Setting(
        None, description="how near: hamming where the column's name ends in hash, else cosine"
    )
    key: str | None = Setting(
        None,
        description="which array of a .npz, and of a step's folder: else as the column is called",
    )
    with_clip: bool = Setting(
        default=False, description="whether a CLIP is to stand in for a copy detector"
    )

    def measure(self) -> Literal["cosine", "hamming"]:
        """How nearness is measured."""
        return self.metric or ("hamming" if self.of.endswith("hash") else "cosine")

    def needs(self) -> tuple[str, ...]:
        return (self.of,) if self.mirrored is None else (self.of, self.mirrored)

    def gives(self) -> tuple[Field, ...]:
        near = Field("similarity", "float32", "cosine with it, -1..1; null without an embedding")
        if self.measure() == "hamming":
            near = Field("distance", "uint32", "bits that differ from it, 0..64; null without one")
        return (
            near,
            Field("reference", "string", "which one: its picture's name, or file:row"),
            Field("mirrored", "bool", "whether one of both is mirrored; null where not looked for"),
        )

    def problems(self) -> list[str]:
        by_clip = self.of in CLIP_ARRAYS or "clip" in (self.by or {})
        found = [NO_CLIP.format(self.of)] if by_clip and not self.with_clip else []
        if not self._given():
            return [*found, "files: the list of files is empty"]
        if self.pictures_given() is None:
            by = ["by: it goes with references that are pictures"] if self.by else []
            return found + by + self.arrays_given().problems("files")
        return found + PictureFiles(self._given()).problems("files") + self._by_problems()

    def _by_problems(self) -> list[str]:
        if self.by is None:
            return []  # `refusals` says so where no step behind the column tells
        try:
            feature = feature_of(self.by)
        except ConfigError as error:
            return [str(error)]
        if more := [name for name in feature.needs() if name != "caption"]:
            return [f"by: {next(iter(self.by))} also reads {', '.join(more)}"]
        made = [one.name for one in feature.gives()] + [one.name for one in feature.arrays()]
        if self.field() not in made:
            return [f"by: it gives {', '.join(made)}, and `of` is {self.of}"]
        return []

    def made_by(self, makers: Mapping[str, Feature]) -> References:
        """The same with `by`, where it was left out, of the step that makes its column."""
        maker = makers.get(self.of)
        if self.by is not None or self.pictures_given() is None or maker is None:
            return self
        kind = type(maker).__module__.rpartition(".")[2]
        if not maker.pictures or kind not in features.names():
            return self
        fields = maker.model_dump(mode="json", exclude={"name"})
        return self.model_copy(update={"by": {kind: fields}})

    def refusals(self, makers: Mapping[str, Feature]) -> list[str]:
        if self.by is None and self.pictures_given() is not None:
            return [NO_BY]
        maker = makers.get(self.of)
        if maker is None:
            return []
        found = []
        if type(maker).__name__ == "Clip" and not self.with_clip:
            found.append(NO_CLIP.format(self.of))
        if self.mirrored is not None and makers.get(self.mirrored) is not maker:
            found.append(f"mirrored: {self.mirrored} and {self.of} come from different steps")
        if self.by is not None and not self._by_problems():
            wanted, given = identity_of(maker), identity_of(feature_of(self.by))
            differ = [
                f"{key}: {wanted.get(key)!r} there, {given.get(key)!r} here"
                for key in wanted.keys() | given.keys()
                if wanted.get(key) != given.get(key) and key not in ("mirrored", "batch")
            ]
            if differ:
                found.append(f"by: {maker.name} is made otherwise: {'; '.join(sorted(differ))}")
        return found

    def recipe(self) -> dict[str, Any]:
        """The references by their SHA-256, and how many they are (null for a .pt)."""
        if problems := self.problems():
            raise ConfigError(problems[0])
        pictures = self.pictures_given()
        files = self.arrays_given() if pictures is None else pictures
        by = {kind: identity_of(feature_of({kind: f})) for kind, f in (self.by or {}).items()}
        return {"files": files.recipe(), "references": files.count(), "by": by or None}

    def open(self, device: str) -> ReferencesScorer:
        from curate.features._references import open_scorer  # torch takes seconds to load

        return open_scorer(self, device)

    def _given(self) -> tuple[str, ...]:
        return (self.files,) if isinstance(self.files, str) else self.files

    def field(self) -> str:
        """The column's name within its step."""
        return self.of.rpartition(".")[2]

    def pictures_given(self) -> PictureFiles | None:
        """The references, if they are pictures."""
        return PictureFiles(self._given()) if holds_pictures(self._given()) else None

    def arrays_given(self) -> ArrayFiles | HashFiles:
        """The references, if they are no pictures."""
        key = self.key or self.field()
        if self.measure() == "hamming":
            return HashFiles(self._given(), key)
        return ArrayFiles(self._given(), key)
