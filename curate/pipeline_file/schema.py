"""What a pipeline file may hold: sources, steps, and settings of a run."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from curate.downloads.download import Download
from curate.errors import did_you_mean
from curate.features import Feature
from curate.sample import FOREIGN_NAMES
from curate.write import Write
from filters import Filter

METADATA_ROWS = 100_000  # rows of one shard of a metadata file


class Source(BaseModel):
    """Where samples come from: URL lists, WebDataset shards, or DataComp's metadata."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("pool", pattern=r"^[A-Za-z0-9_-]+$", description="names the source")
    urls: str | tuple[str, ...] | None = Field(
        None,
        description="parquet, csv, tsv or jsonl files of URLs and captions: paths, globs, braces",
    )
    shards: str | tuple[str, ...] | None = Field(
        None, description="WebDataset tars, img2dataset's output too: paths, globs, braces"
    )
    metadata: str | tuple[str, ...] | None = Field(
        None,
        description="DataComp's metadata (parquet, with a .npz of the same name beside it) or "
        "clip-retrieval's embedding folder; read where it lies, never copied. With `shards:` "
        "beside it, pictures are found there by uid",
    )
    columns: dict[str, str] = Field({}, description="{our name: their name} where detection fails")
    arrays: Literal["auto", "none"] = Field(
        "auto", description="none: leave the .npz files beside the metadata alone"
    )
    short_uids: Literal["pad", "cut"] = Field(
        "pad",
        description="uids of fewer than 32 digits: padded with zeros on the left, as DataComp's "
        "resharder has it; or cut after 16 digits, as its `clip_score` baseline does",
    )
    rows_per_shard: int = Field(
        10_000, ge=1, le=100_000, description="rows of one shard of a URL list"
    )
    order: Literal["shuffled", "as_listed"] = Field(
        "shuffled",
        description="rows of a URL file: shuffled by uid hash, so that no host is hammered",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        given = [name for name in ("urls", "shards", "metadata") if getattr(self, name) is not None]
        if len(given) != 1 and given != ["shards", "metadata"]:
            raise ValueError("give one of `urls`, `shards`, `metadata`, or the last two together")
        if not self.patterns():
            raise ValueError("the list of files is empty")
        for name in self.columns:
            if name not in FOREIGN_NAMES:
                raise ValueError(did_you_mean(name, list(FOREIGN_NAMES), "no column of ours is"))
        return self

    def patterns(self) -> tuple[str, ...]:
        """The paths, as written, of the files whose rows are the samples."""
        return _listed(next(v for v in (self.metadata, self.urls, self.shards) if v is not None))

    def picture_patterns(self) -> tuple[str, ...]:
        """The paths of tars that hold the pictures of a metadata file's samples."""
        return _listed(self.shards or ()) if self.metadata is not None else ()

    @property
    def has_pictures(self) -> bool:
        """Whether its samples come with their pictures."""
        return self.shards is not None

    @property
    def shard_rows(self) -> int | None:
        """Rows of one shard; None where a file is one shard, however many it has."""
        if self.metadata is not None:
            return METADATA_ROWS
        return self.rows_per_shard if self.urls is not None else None


def _listed(given: str | tuple[str, ...]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


class AnyOf(BaseModel):
    """Gives several row or pool filters the same input and keeps what any of them keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    version: ClassVar[int] = 1

    name: str = "any_of"
    copies: Literal["max", "sum"] = Field("max", description="copies of what several filters keep")
    steps: tuple[SerializeAsAny[Filter], ...] = Field(min_length=1, description="the filters")

    @property
    def makes_copies(self) -> bool:
        """Whether copies may exceed 1."""
        return self.copies == "sum" or any(child.makes_copies for child in self.steps)


Share = Annotated[float, Field(ge=0, le=1)]
Step: TypeAlias = Filter | Feature | Download | Write | AnyOf


class Resources(BaseModel):
    """What one step may use; never part of a fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    actors: int | None = Field(
        None, ge=1, description="workers of this step; absent: one per CPU or GPU"
    )
    gpus: float | None = Field(None, ge=0, description="GPUs of one worker")
    cpus: float | None = Field(None, gt=0, description="CPUs that one worker reserves")
    threads: int | None = Field(None, ge=1, description="threads of one worker")
    memory_gb: float | None = Field(None, gt=0, description="memory that one worker reserves")


class Run(BaseModel):
    """How to run, not what: addresses, workers, budgets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["auto", "local", "ray"] = Field(
        "auto", description="auto: Ray when there is enough work to pay for its start"
    )
    address: str | None = Field(None, description="Ray cluster; absent: this machine")
    max_removed: dict[str, Share] = Field({}, description="{step: largest share it may remove}")
    error_budget: dict[str, Share] = Field(
        {}, description="{step: largest share lost by our own fault}"
    )
    steps: dict[str, Resources] = Field(
        {}, description="written as `<step name>: {...}` beside the others"
    )


class Published(BaseModel):
    """What a paper says of a recipe, for the report to stand beside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(min_length=1, description="paper and table")
    kept: dict[str, Share] = Field(
        min_length=1, description="{step: share of the pool that is left after it}"
    )


class ReportSettings(BaseModel):
    """What a report shows besides what it always does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[str, ...] = Field(
        (), description="columns whose values are counted in pool and subset: licences, say"
    )
    sets: dict[str, str] = Field(
        {}, description="{name: subset file (.npy)} that the result is compared with"
    )
    classes: str | None = Field(
        None, description="class names, one on each line, or `imagenet`: how often each occurs"
    )


class Config(BaseModel):
    """A pipeline file, as written but for the steps, which are objects."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = 0
    work: str = Field(min_length=1)
    pool: tuple[Source, ...]
    rows_per_block: int = Field(
        1_000_000, ge=1, description="rows of one block, fixed when first read"
    )
    steps: tuple[Step, ...] = Field(min_length=1)
    probe: Share = 0.0
    plugins: tuple[str, ...] = ()
    report: ReportSettings = ReportSettings()
    published: Published | None = None
    run: Run = Run()
