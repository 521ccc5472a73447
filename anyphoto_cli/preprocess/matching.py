"""Stage 2 on a chunk of photos: who is in each, and whether the photo is worth keeping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyphoto_cli.config.preprocess import PreprocessConfig
from anyphoto_cli.data.sources import PhotoInput
from anyphoto_cli.preprocess.exclusions import Exclusions
from anyphoto_cli.preprocess.identity_matching import (
    KnownIdentities,
    Match,
    MatchingRule,
    Nearness,
    match_identities,
    nearness,
)
from anyphoto_cli.types import Box, Embeddings

Row = dict[str, Any]
_PAIRS = 2**24
"""Faces times references that are compared at once: 64 MB."""


@dataclass(frozen=True, eq=False)
class Bank:
    """known: whom faces are compared with. referenced: those of them with a patch to paste, which training needs."""

    known: KnownIdentities
    referenced: frozenset[str]


def match_photos(
    photos: Sequence[PhotoInput],
    detected: Sequence[Row],
    embeddings: Embeddings,
    bank: Bank,
    exclusions: Exclusions,
    config: PreprocessConfig,
) -> list[Row]:
    """One row a photo. matches: in the order of its faces. usable: places of the faces that training may use.
    best: for faces without a match the highest cosine to any centre. reason: why the photo is dropped, or "".
    """
    rows = []
    ends = np.cumsum([0, *(len(row.get("faces", ())) for row in detected)]).tolist()
    for first, last in _together(ends, _PAIRS // max(len(bank.known.members), 1)):
        near = nearness(embeddings[ends[first] : ends[last]], bank.known, config.centre_weight)
        for place in range(first, last):
            faces = slice(ends[place] - ends[first], ends[place + 1] - ends[first])
            mine = embeddings[ends[place] : ends[place + 1]]
            matches = _match(detected[place], mine, bank.known, near, faces, config) if len(mine) else []
            rows.append({
                "matches": [_told(match) for match in matches],
                "usable": _usable(detected[place], matches, bank, config) if matches else [],
                "best": _best(matches, near, faces, bank.known),
                "reason": why_dropped(photos[place], detected[place], matches, bank, exclusions, config),
            })  # fmt: skip
    return rows


def _together(ends: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Photos (first, last + 1) that have at most so many faces together, or are one. ends: [photos + 1], from 0."""
    first = 0
    for last in range(1, len(ends)):
        if last == len(ends) - 1 or ends[last + 1] - ends[first] > most:
            yield first, last
            first = last


def _match(
    row: Row, embeddings: Embeddings, known: KnownIdentities, near: Nearness, faces: slice, config: PreprocessConfig
) -> list[Match | None]:
    boxes = [Box(*face["box"]) for face in row["faces"]]
    named = [(Box(*entry[:4]), entry[4]) for entry in row["known"] if entry[4]]
    rule = MatchingRule(config.match_threshold, config.overlap_weight, config.centre_weight)
    return match_identities(boxes, embeddings, known, named, rule, near.cosines[faces])


def _told(match: Match | None) -> list[Any] | None:
    if match is None:
        return None
    return [match.identity, match.score, match.cosine if np.isfinite(match.cosine) else None]


def _best(matches: Sequence[Match | None], near: Nearness, faces: slice, known: KnownIdentities) -> list[float]:
    if not matches or not known.names:
        return []
    nearest = near.to_centre[faces]
    return [round(float(value), 4) for value, match in zip(nearest, matches, strict=True) if match is None]


def why_dropped(
    photo: PhotoInput,
    row: Row,
    matches: Sequence[Match | None],
    bank: Bank,
    exclusions: Exclusions,
    config: PreprocessConfig,
) -> str:
    """The first rule that speaks against a photo, in words that stay the same from photo to photo; "" for none."""
    if row["problem"]:
        return ""
    names = [match.identity for match in matches if match] + [entry[4] for entry in row["known"]]
    if reason := exclusions.of_photo(photo.id, row["url"], names):
        return reason
    if min(row["width"], row["height"]) < config.min_side:
        return "picture too small"
    if not row["faces"]:
        return "no face"
    if len(row["faces"]) > config.max_people:
        return "too many faces"
    if reason := _outside(row, config):
        return reason
    if len(_usable(row, matches, bank, config)) >= config.min_identified:
        return ""
    if not any(matches):
        return "no known person"
    if not any(match and match.identity in bank.referenced for match in matches):
        return "known persons have no reference"
    return "too few known persons that are large, sharp and referenced"


def _outside(row: Mapping[str, Any], config: PreprocessConfig) -> str:
    """Scores that the source itself gives."""
    aesthetics, nsfw = row.get("aesthetics"), row.get("nsfw")
    if config.min_aesthetic is not None and aesthetics is not None and aesthetics < config.min_aesthetic:
        return "aesthetic score too low"
    if config.max_nsfw is not None and nsfw is not None and nsfw > config.max_nsfw:
        return "NSFW score too high"
    return ""


def _usable(row: Row, matches: Sequence[Match | None], bank: Bank, config: PreprocessConfig) -> list[int]:
    """Places of the faces that have an identity with a reference, and no flag that speaks against them."""
    return [
        place
        for place, (face, match) in enumerate(zip(row["faces"], matches, strict=True))
        if match and match.identity in bank.referenced and not set(face["flags"]) & set(config.drop_flags)
    ]
