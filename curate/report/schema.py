"""What report.json holds: its documented, versioned form.

`python -m curate.docs` makes README.md of this folder from the descriptions below. Shares are of 0
to 1, intervals are of 95 %, and a sample counts once, however many copies of it go on, unless a
field says `copies`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 2  # rises when a field changes its meaning or goes


class Part(BaseModel):
    """A part of a report; it has the fields that it says, and no other."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Sample(Part):
    """A sample that is shown: the page finds its picture by (shard, row)."""

    uid: str = Field(description="32 hex digits")
    shard: int = Field(description="number of its shard in the pool")
    row: int = Field(description="row of the shard")
    tar: str | None = Field(description="where its picture is; null where it has none")
    key: str | None = Field(description="its key in that tar")
    caption: str | None = Field(description="cut after 4,000 characters")
    removed_by: str | None = Field(description="the step that removed it; null for who was kept")
    because: str | None = Field(description="what else explains its fate: the uid that stayed, say")
    values: dict[str, Any] = Field(description="{column: value} that decided")


class ShownSample(Sample):
    """A sample of a gallery."""

    score: float | str | None = Field(description="in the column of the gallery's `score`")


class Gallery(Part):
    """Samples that are shown together."""

    step: str | None = Field(description="null: those that the whole run kept")
    filter: str | None = Field(description="the step, or the filter inside `any_of`")
    reason: str | None = Field(
        description="why they were removed, or which threshold they are near; else null"
    )
    side: Literal["kept", "removed", "both"] = Field(
        description="what the step did with them; both: they reached it"
    )
    chosen: Literal["random", "nearest", "decile"] = Field(
        description="random: by uid hash; nearest: to the threshold; decile: by uid hash among "
        "those of a tenth of the finite scores that reached the step"
    )
    score: str | None = Field(description="the column of the threshold, or of the deciles")
    threshold: float | str | None
    decile: int | None = Field(
        description="1 (lowest scores) to 10, as 10,000 scores drawn by uid hash tell (all, where "
        "there are no more); equal scores are in one, so some may be missing"
    )
    between: list[float] | None = Field(
        description="lowest and highest of the drawn scores that are in the decile"
    )
    samples: list[ShownSample]


class ShardSource(Part):
    """One source of the pool."""

    name: str
    kind: str = Field(description="urls, shards, metadata, or metadata and shards")
    patterns: list[str] = Field(description="its files as written, without what may be secret")
    files: int
    shards: int
    rows: int


class Damage(Part):
    """A file that could not be read whole."""

    url: str
    damage: str


class PoolFacts(Part):
    """Where the samples came from, and what was wrong with the files."""

    sources: list[ShardSource]
    pictures: dict[str, Any] | None = Field(
        None, description="of metadata with shards: how many pictures were found by uid"
    )
    shards: int
    rows: int
    unusable: dict[str, int] = Field(description="{reason: rows} that the pool itself cannot use")
    damaged: list[Damage]


class Published(Part):
    """What a paper says that a step leaves of the pool."""

    share: float
    source: str
    off: bool = Field(description="whether ours is off by more than half a percentage point")


class StepFilter(Part):
    """A filter of a step: the step itself, or one inside `any_of`."""

    name: str
    columns: list[str] = Field(description="whose values decide")
    thresholds: dict[str, float | str] = Field(description="{reason: threshold}")
    learnt: dict[str, Any] = Field(description="numbers and words that it learnt")
    tables: dict[str, list[dict[str, Any]]] = Field(description="lists that it learnt")


class Fitted(Part):
    """What a fitted feature learnt, and from whom."""

    on: str = Field(description="survivors, pool, or a file")
    samples: int
    notes: dict[str, Any] = Field(description="what it says of itself")
    tables: dict[str, list[dict[str, Any]]]


class Step(Part):
    """One step: rows in = kept + removed + lost, and the next step gets what it kept."""

    name: str
    kind: str = Field(description="its name in the pipeline file")
    role: Literal["filter", "feature", "download", "write"]
    in_: int = Field(alias="in")
    kept: int
    removed: dict[str, int] = Field(description="{reason: rows}")
    lost: dict[str, int] = Field(description="{kind: rows} of failed work of our own")
    copies: int | None = Field(description="of the rows kept; null where it cannot be told")
    published: Published | None
    recipe: dict[str, Any] = Field(description="all that its result depends on")
    fingerprint: str = Field(description="hash of the recipe")
    filters: list[StepFilter]
    errors: dict[str, int] | None = Field(
        None, description="of a feature: {error class: rows} without a value, of those that came"
    )
    flags: dict[str, dict[str, int]] | None = Field(
        None, description="of a feature: {field: {true: rows, false: rows}}"
    )
    fitted: Fitted | None = Field(None, description="of a fitted feature")


class Sides(Part):
    """Rows on both sides of a verdict."""

    kept: int
    removed: int


class Histogram(Part):
    """A score of those that reached a filter; all counts add up to the rows that reached it."""

    step: str
    filter: str
    column: str
    thresholds: dict[str, float | str]
    low: float | None = Field(description="the lowest finite score; null where there is none")
    high: float | None
    kept: list[int] = Field(description="200 bins of equal width; the last has its upper edge too")
    removed: list[int]
    infinite: Sides
    unscored: Sides


class Concepts(Part):
    """What became of the concepts of a `concepts` step, from stage to stage.

    The first stage is the step itself, the others are the steps that removed samples after it.
    """

    step: str
    list_: dict[str, Any] = Field(
        alias="list", description="entries, digest, sources, languages, hardly_match"
    )
    stages: list[dict[str, Any]] = Field(
        description="after, samples, matched, unscored, unmatched, unmatched_share, matches, "
        "entries_hit, top_share (of matches, by the top 1 % of entries)"
    )
    copies: dict[str, int]
    head: list[dict[str, Any]] = Field(description="the 30 most frequent entries before")
    tail: dict[str, Any] = Field(description="the tail: entries, and their matches at each stage")
    vanished: dict[str, Any] = Field(description="entries that nobody has in the end")
    curve: dict[str, list[Any]] = Field(description="samples by rank, one list for each stage")
    balances: list[dict[str, Any]] = Field(description="one for each `metadata_balance`")


class Totals(Part):
    """Rows of the pool by fate, and the size of the subset."""

    rows: int
    usable: int
    kept: int
    copies: int
    removed: int
    lost: int
    unique_uids: int | None = Field(description="different uids kept; null before a run finished")
    epochs: dict[str, float | None] = Field(
        description="{DataComp's scale: how often its samples seen go through the copies kept}"
    )


class Estimate(Part):
    """A share counted on a part of the pool."""

    rows: int = Field(description="the denominator")
    count: int
    share: float | None = Field(description="count / rows; null without rows")
    low: float | None = Field(description="Wilson's interval")
    high: float | None


class AloneFilter(Part):
    """What one filter (`any_of` as a whole) would do by itself, and what only it does."""

    filter: str = Field(description="its step")
    alone: Estimate = Field(description="rows that it would remove, had it stood alone")
    only: Estimate = Field(description="rows that it would remove, and none of the others here")
    unscored: int = Field(description="of those it would remove, rows without a deciding value")


class NotMeasured(Part):
    """A filter that cannot be tried alone."""

    filter: str = Field(description="its step")
    why: str


class FilterPair(Part):
    """Who two filters, each alone, would remove."""

    a: str
    b: str
    a_removed: int
    b_removed: int
    both: int = Field(description="rows that each of the two would remove")


class Correlation(Part):
    """How alike two scores order samples."""

    a: str = Field(description="a column")
    b: str
    rows: int = Field(description="rows that have both")
    rho: float | None = Field(description="Spearman's, ties averaged; null below 4 rows")
    low: float | None = Field(description="Fisher's z with Bonett and Wright's error (2000)")
    high: float | None


class Probe(Part):
    """The filters by themselves, on a part of the pool that has every column."""

    of: Literal["probe", "pool", "nothing"] = Field(
        description="probe: rows of the pipeline's `probe`; pool: rows of the pool by the same "
        "draws, where all that is read was computed for all; nothing: `why` says why"
    )
    why: str | None
    share: float = Field(description="rows whose draw by uid hash is below it; 100,000 at most")
    rows: int = Field(description="rows looked at: the denominators")
    left_out: int = Field(
        description="rows drawn that lack a column: their picture did not come, or work was lost"
    )
    filters: list[AloneFilter]
    not_measured: list[NotMeasured]
    overlap: list[FilterPair] = Field(description="each pair of `filters` once")
    correlations: list[Correlation] = Field(description="each pair of deciding columns once")


class Group(Part):
    """Samples that were found to be the same, and who of them stayed."""

    kept: Sample | None = Field(
        description="who stayed there, though a later step may have removed it; null where that "
        "row is not at hand. By SemDeDup's rule it may be gone itself"
    )
    removed: list[Sample] = Field(description="at most 5, by uid")
    size: int = Field(description="with the one that stayed")
    similarity: list[float | None] = Field(description="of each of `removed` to `kept`, if known")


class Duplicates(Part):
    """The largest groups of a filter that removes duplicates."""

    step: str
    of: list[str] = Field(description="the columns that are compared")
    unit: Literal["cosine", "bits"] | None = Field(
        description="of `similarity`: the cosine of the embeddings; or the bits in which hashes "
        "differ, 0 for the same; null where duplicates are equal"
    )
    groups: int = Field(description="groups that lost somebody")
    removed: int
    sizes: dict[str, int] = Field(
        description="{size of a group, as `2` or `5-8`, with the one that stayed: groups}"
    )
    largest: list[Group] = Field(description="at most 100; ties by the uid that stayed")


class CommonWord(Part):
    """A word of captions."""

    word: str
    captions: int = Field(description="that have it")


class Card(Part):
    """One cluster."""

    cluster: int
    size: int = Field(description="samples that reached the clusters' step and are in it")
    kept: int = Field(description="of those, in the subset")
    chosen: list[Literal["largest", "kept_least", "kept_most"]] = Field(
        description="why it is shown; kept shares are compared among clusters of 20 samples or more"
    )
    mark: Literal["cap", "floor", "everything", "nothing", "none"] = Field(
        description="whether a filter held it at its cap, or at its floor; else whether all of it "
        "is in the subset, or nothing"
    )
    mark_by: str | None = Field(description="the step that held it")
    central: list[Sample] = Field(description="at most 4, the nearest to the centroid first")
    outlying: list[Sample] = Field(description="at most 4, the farthest first; none of `central`")
    words: list[CommonWord] = Field(
        description="at most 10, the commonest first; English words such as `the` are left out"
    )
    captions: int = Field(description="captions in which those were counted, 500 by uid hash")


class Clusters(Part):
    """Cards of a step that makes clusters."""

    step: str
    measure: str | None = Field(
        description="the column that says who is central: a `distance`, or the `margin` to the "
        "next cluster"
    )
    samples: int = Field(description="that reached the step")
    without: int = Field(description="of those, in no cluster: without an embedding")
    clusters: int = Field(description="the empty ones too, where `empty` is known")
    empty: int | None = Field(description="null where the step does not tell how many there are")
    ranks: list[int] = Field(description="up to 200, from 1, of the clusters by size")
    sizes: list[int] = Field(description="of the clusters at those ranks")
    kept: list[int] = Field(description="of the same clusters")
    kept_shares: list[int] = Field(
        description="[10] clusters of 20 samples or more by the share of them that was kept: below "
        "a tenth, ..., nine tenths or more"
    )
    cards: list[Card] = Field(description="the largest, and those whose kept share is extreme")


class Value(Part):
    """One value of a column of words."""

    value: str | None = Field(description="null: without a value")
    reached: list[int] = Field(description="samples in the pool, then after each of `steps`")


class Words(Part):
    """Which values a column of words has, before and after."""

    column: str
    about: str = Field(description="language, domain, source, licence, or the column itself")
    since: str = Field(
        description="pool, or the step that made the column: `reached` begins with who got past it"
    )
    steps: list[str] = Field(description="the steps behind that which remove, in order")
    distinct: int | None = Field(
        description="different values; null above a million, or 64 MB of text"
    )
    exact: bool = Field(description="whether no value left out can be among the commonest")
    values: list[Value] = Field(
        description="the commonest 20 to begin with, and in the subset; cut after 200 characters"
    )
    rest: list[int] = Field(description="samples of all other values, as `reached`")


class Numbers(Part):
    """How a number is distributed, before and after."""

    column: str = Field(description="or both, where width and height make one number")
    about: str = Field(
        description="smaller_side, aspect_ratio, caption_characters, caption_words, "
        "caption_tokens, or the column itself"
    )
    unit: str
    scale: Literal["linear", "log"]
    since: str = Field(description="as of words")
    steps: list[str]
    edges: list[float] = Field(
        description="[B + 1]; a bin includes its lower edge, the last one its upper edge as well; "
        "none where nobody has a value"
    )
    reached: list[list[int]] = Field(description="[steps + 1][B] samples")
    missing: list[int] = Field(description="[steps + 1] samples without a finite value")


class Shift(Part):
    """A value, or a range of a number, whose share changed from pool to subset."""

    column: str
    about: str
    value: str | None = Field(description="null: without a value")
    since: str = Field(description="as of words: `pool` is the share of who got past it")
    pool: float = Field(description="its share of the pool")
    kept: float = Field(description="its share of the subset")
    hardest: str = Field(description="the step that changed its share most, the same way")


class ScoreGroup(Part):
    """The scores of those who share a value."""

    value: str
    rows: int = Field(description="that have a score, whether a later step removed them or not")
    kept: int = Field(description="of those, in the subset")
    mean: float
    deviation: float = Field(description="the standard deviation of those rows")


class ScoresBy(Part):
    """A score by language, or by length of caption."""

    score: str
    by: str = Field(description="a column of languages, or caption_characters")
    groups: list[ScoreGroup] = Field(description="the 20 commonest languages, or all lengths")


class Makeup(Part):
    """Who is in it: the pool and the subset by what the samples are."""

    words: list[Words]
    numbers: list[Numbers]
    shifts: list[Shift] = Field(
        description="at most 40, and 8 of one column, the largest change first"
    )
    scores: list[ScoresBy]


class Fetched(Part):
    """URLs of one kind: a domain, or a source."""

    name: str | None = Field(description="null: URLs without a host")
    asked: int
    success: int
    failure: str | None = Field(description="its commonest failure; null where none failed")


class Downloads(Part):
    """What became of the URLs that were asked for."""

    step: str
    asked: int
    success: int
    kinds: dict[str, int] = Field(description="{failure: rows}")
    domains: list[Fetched] = Field(
        description="the 20 with most URLs, and the 20 with most failures, most URLs first"
    )
    domains_asked: int | None = Field(description="different ones; null above a million")
    domains_exact: bool = Field(description="whether no domain left out can be among those")
    sources: list[Fetched]


class Loss(Part):
    """Rows that no filter removed, but failed work of our own."""

    step: str
    kind: str
    rows: int
    examples: list[Sample]
    remedy: str = Field(description="what retries them")


class BeforeAfter(Part):
    """A number of the pool, and of the subset."""

    before: int = Field(description="of the samples that the pool can use")
    after: int = Field(description="of those kept")
    copies: int = Field(description="of their copies")


class NamedClass(BeforeAfter):
    """Samples whose captions name a class, or a synonym of it."""

    name: str = Field(alias="class", description="cut after 100 characters")


class VanishedClasses(Part):
    """Classes that the pool had."""

    classes: int
    most_frequent: list[NamedClass] = Field(description="at most 50")


class ClassCurve(Part):
    """Counts of classes by rank: another class on each side."""

    ranks: list[int] = Field(description="up to 60, from 1, evenly spaced logarithms")
    samples: list[list[int]] = Field(description="[2][ranks]: before, after")


class Classes(Part):
    """What became of the classes that `report.classes` names."""

    source: str = Field(description="the file, or `imagenet`")
    forms_by: str = Field(description="what makes plurals and lemmas: WordNet where it is there")
    classes: int
    samples: BeforeAfter
    naming_a_class: BeforeAfter = Field(description="samples that name any")
    without_caption: BeforeAfter
    unnamed: BeforeAfter = Field(description="classes that no sample names")
    rare: BeforeAfter = Field(description="classes that 1 to 9 samples name")
    shifted: list[NamedClass] = Field(
        description="at most 30, those whose share of the samples changed most"
    )
    vanished: VanishedClasses
    curve: ClassCurve


class KnownSet(Part):
    """A subset file beside ours, by different uids."""

    name: str
    uids: int
    kept: int = Field(description="ours")
    both: int
    jaccard: float | None = Field(description="both / either")
    of_ours: float | None = Field(description="both / kept")
    of_theirs: float | None = Field(description="both / uids")


class Evaluation(Part):
    """Samples that are in an evaluation set, found by a step that compares with references."""

    step: str
    set: str
    rows: int = Field(description="samples removed because of it")


class Unfinished(Part):
    """How far a run came that ended half-way."""

    reached: str | None = Field(description="the last step that was decided")
    not_reached: list[str]


class Report(Part):
    """The whole."""

    schema_: Literal[2] = Field(alias="schema")
    name: str
    seed: int
    made_with: dict[str, str] = Field(description="{package: version} of what decides")
    unfinished: Unfinished | None = Field(description="null for a finished run")
    extent: Literal["whole", "brief"] = Field(
        description="brief: `curate run --brief` left the sections empty that look at all samples "
        "again: `curate report` makes them"
    )
    totals: Totals
    pool: PoolFacts
    steps: list[Step]
    histograms: list[Histogram]
    probe: Probe
    makeup: Makeup
    downloads: Downloads | None
    losses: list[Loss]
    duplicates: list[Duplicates]
    clusters: list[Clusters]
    concepts: list[Concepts]
    classes: Classes | None
    sets: list[KnownSet]
    evaluation: list[Evaluation]
    examples: list[Gallery]
