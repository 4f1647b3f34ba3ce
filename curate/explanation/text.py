"""What `curate explain` prints for people; texts of strangers with their controls written out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from curate.explanation.schema import (
    ArrayValue,
    Cluster,
    Concepts,
    DuplicateGroup,
    Explanation,
    FeatureValues,
    FilterFate,
    Rule,
    SampleFate,
    StepFate,
)
from curate.page.texts import brief, count, many, number, visible

_LONGEST = 600  # characters of a value; `--json` has all of it
_IN_STEPS = 80  # of one that stands above already
_ENTRIES = 40  # concepts that are listed
_MARKS = {"kept": "+", "removed": "-", "lost": "!", "not reached": " "}


def lines_of(found: Explanation) -> list[str]:
    """The answer, a sample after the other."""
    lines: list[str] = []
    if found.rows > 1:
        shown = (
            f"; the first {len(found.samples)} follow" if found.rows > len(found.samples) else ""
        )
        lines += [f"{count(found.rows)} rows have this {found.by}{shown}", ""]
    for sample in found.samples:
        lines += [*_sample(sample), ""]
    if found.not_reached:
        names = ", ".join(found.not_reached)
        lines.append(f"this run is not finished; it has not come to: {names}")
    return lines if found.not_reached else lines[:-1]


def _sample(sample: SampleFate) -> Iterator[str]:
    yield f"uid {sample.uid}: {_verdict(sample)}"
    yield f"  row {sample.row} of shard {sample.shard}, {_text(sample.file)} ({sample.source})"
    if sample.probe is not None:
        yield f"  {'of the probe' if sample.probe else 'not of the probe'}"
    picture = sample.picture
    if picture.key is not None:
        yield f"  key {_text(picture.key)} in {_text(picture.tar or '')}"
    yield f"  picture: {_picture(sample)}"
    yield from ("", "from the pool")
    yield from _values(sample.pool, sample.pool_arrays)
    for feature in sample.features:
        yield from ("", *_feature(feature))
    yield from ("", "steps (+ kept, - removed, ! lost)")
    if sample.removed_by == "pool":
        yield f"  - pool: removed ({_text(sample.reason or '')})"
    for step in sample.steps:
        yield from _step(step)
    yield from _company(sample)


def _company(sample: SampleFate) -> Iterator[str]:
    for group in sample.duplicates:
        yield from ("", *_group(group))
    for cluster in sample.clusters:
        yield from ("", *_cluster(cluster))
    for concepts in sample.concepts:
        yield from ("", *_concepts(concepts))


def _verdict(sample: SampleFate) -> str:
    if sample.fate == "kept":
        return "kept" + (f", {sample.copies} copies" if sample.copies != 1 else "")
    if sample.fate == "undecided":
        return "still in, as far as the run has come"
    because = f", because of {_text(sample.because)}" if sample.because else ""
    return f"{sample.fate} by {sample.removed_by} ({_text(sample.reason or '')}{because})"


def _picture(sample: SampleFate) -> str:
    picture = sample.picture
    if picture.file is not None:
        return f"{_text(picture.file)} ({many(picture.bytes or 0, 'byte')}, as in the tar)"
    return f"none: {_text(picture.why or '')}"


def _text(value: Any, longest: int = _LONGEST) -> str:
    """A value in one line of bounded length, safe for a terminal."""
    if isinstance(value, str):
        whole = value
    elif isinstance(value, (dict, list)):
        whole = json.dumps(value, ensure_ascii=False)
    else:
        whole = number(value)
    more = f" ({count(len(whole))} characters)" if len(whole) > longest else ""
    return visible(brief(whole, longest)) + more


def _values(values: Mapping[str, Any], arrays: Mapping[str, ArrayValue]) -> Iterator[str]:
    width = max((len(visible(name)) for name in (*values, *arrays)), default=0)
    for name, value in values.items():
        yield f"  {visible(name):<{width}}  {'-' if value is None else _text(value)}"
    for name, array in arrays.items():
        shape = " x ".join(map(str, array.shape))
        said = "no value" if array.norm is None else f"length {number(array.norm)}"
        yield f"  {visible(name):<{width}}  {shape} numbers, {said}"


def _feature(feature: FeatureValues) -> Iterator[str]:
    if feature.state == "not computed":
        yield f"{feature.step}: not computed: {feature.why}"
        return
    why = f": {_text(feature.why)}" if feature.why else ""
    yield f"{feature.step}: {feature.state}{why}" if why else feature.step
    yield from _values(feature.values, feature.arrays)


def _step(step: StepFate) -> Iterator[str]:
    reason = f" ({_text(step.reason)})" if step.reason else ""
    because = f", because of {_text(step.because)}" if step.because else ""
    copies = f", {step.copies} copies" if (step.copies or 0) > 1 else ""
    yield f"  {_MARKS[step.verdict]} {step.step}: {step.verdict}{reason}{because}{copies}"
    for filter_ in step.filters:
        yield from (f"      {line}" for line in _filter(filter_, step))


def _filter(found: FilterFate, step: StepFate) -> Iterator[str]:
    if found.filter != step.step:
        reason = f" ({_text(found.reason)})" if found.reason else ""
        yield f"{found.filter}: {found.verdict}{reason}"
    for rule in found.rules:
        yield _rule(rule)
    for name, value in found.values.items():
        yield f"{visible(name)} = {'-' if value is None else _text(value, _IN_STEPS)}"
    told = ", ".join(f"{name} {_text(value)}" for name, value in found.settings.items())
    if told:
        yield f"set: {told}"
    told = ", ".join(f"{name} {_text(value)}" for name, value in found.learnt.items())
    if told:
        yield f"learnt: {told}"
    if found.group:
        yield f"of its group {count(found.group['quota'])} stay"


def _rule(rule: Rule) -> str:
    value = "no value" if rule.value is None else number(rule.value)
    margin = "" if rule.margin is None else f", margin {rule.margin:+.4g}"
    return f"{_text(rule.reason)}: {value} against {number(rule.threshold)}{margin}"


def _group(group: DuplicateGroup) -> Iterator[str]:
    place = f" (shard {group.kept.shard}, row {group.kept.row})" if group.kept is not None else ""
    this = "this sample" if group.is_stayed else group.stayed + place
    yield f"{group.step}: a group of {count(group.size)}; {this} stayed"
    if not group.is_stayed and group.kept is None:
        yield "  who stayed is not among the rows that got past this step"
    if group.own_value is not None:
        yield f"  {group.unit} with it {number(group.own_value)}"
    for member in group.members:
        value = "" if member.value is None else f", {group.unit} {number(member.value)}"
        yield f"  {member.uid} (shard {member.shard}, row {member.row}{value})"
    left = group.size - 1 - len(group.members) - (not group.is_stayed)
    if left > 0:
        yield f"  and {count(left)} more"


def _cluster(found: Cluster) -> Iterator[str]:
    yield (
        f"{found.step}: cluster {found.cluster} of {many(found.size, 'sample')}, "
        f"{count(found.kept)} of them kept in the end"
    )
    if found.distance is not None:
        yield f"  distance {number(found.distance)} from its centre"
    if found.second is not None:
        yield f"  the next is {found.second}, at {number(found.second_distance)}"
    for level, cluster in found.levels.items():
        yield f"  {level}: cluster {cluster}"


def _concepts(found: Concepts) -> Iterator[str]:
    yield f"{found.step}: {many(len(found.entries), 'concept')}"
    rarest = sorted(found.entries, key=lambda entry: (entry.samples or 0, entry.id))
    for entry in rarest[:_ENTRIES]:
        language = f" [{_text(entry.language)}]" if entry.language else ""
        samples = "" if entry.samples is None else f": {many(entry.samples, 'sample')}"
        chance = "" if entry.p is None else f", p {number(entry.p)}"
        yield f"  {_text(entry.entry)}{language}{samples}{chance}"
    if len(rarest) > _ENTRIES:
        yield f"  and {count(len(rarest) - _ENTRIES)} more"
    if found.kept_chance is not None:
        by = f"; stays by {_text(found.stays_by)}" if found.stays_by else ""
        yield f"  chance to stay at {found.balance}: {number(found.kept_chance)}{by}"
