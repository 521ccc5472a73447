"""Who stands where: what none of the papers report, and users see at once. Points and similarities in, counts out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from anyphoto_cli.geometry import face_height

FOUND_WITHIN = 1.0
"""A face whose middle lies further from its place than the face asked for is high is not the one asked for."""

EXCHANGED = 0.25
"""From so much more of a cosine on, for everybody concerned, people stand at each other's places. Ours: of two to five
strangers at places of others at most one group in a thousand reaches it, of people who were exchanged each pair does
(mbf512; photos of ageitgey/face_recognition and insightface).
"""

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Placement:
    """Of one picture. expected: people asked for. faces: found anywhere. placed: found at their places.

    error: mean distance of the placed faces' middles from their places, in heights of the face asked for; None where
    nobody is placed. swapped: placed faces that are another of the people asked for: nearest to their reference, and as
    near as one person's. strangers: placed faces that are like nobody asked for. duplicates: faces beyond the first
    that resemble one and the same reference. extra: faces more than asked for.
    """

    expected: int
    faces: int
    placed: int
    error: float | None
    swapped: int
    duplicates: int
    strangers: int = 0

    @property
    def coverage(self) -> float:
        """Share of the places at which a face was found, 0-1."""
        return self.placed / self.expected if self.expected else 1.0

    @property
    def extra(self) -> int:
        """Faces more than asked for."""
        return max(self.faces - self.expected, 0)


def placement(
    found: Points, asked: Points, similar: NDArray[np.float64] | None, same_person: float = 0.4
) -> Placement:  # fmt: skip
    """found: [G, 5, 2] landmarks in the picture, asked: [N, 5, 2] where they should be, px of the same picture.

    similar: [G, N] cosines of the found faces to the references in the order of `asked`; None: not known, nobody is
    said to be swapped, doubled or a stranger. same_person: cosine from which two faces are one person's; a face model's
    own affair.
    """
    pairs = at_their_places(found, asked)
    errors = [away for _, _, away in pairs]
    swapped = doubled = strangers = 0
    if similar is not None and similar.size:
        best = similar.argmax(1)
        alike = similar[np.arange(len(similar)), best] >= same_person
        swapped = sum(bool(alike[face]) and best[face] != place for face, place, _ in pairs)
        strangers = sum(not alike[face] for face, _, _ in pairs)
        doubled = sum(max(int((alike & (best == who)).sum()) - 1, 0) for who in range(len(asked)))
    return Placement(
        len(asked),
        len(found),
        len(pairs),
        float(np.mean(errors)) if errors else None,
        int(swapped),
        int(doubled),
        int(strangers),
    )


def at_their_places(found: Points, asked: Points) -> list[tuple[int, int, float]]:
    """(face, place, how far away in heights of the face asked for), one to one, as many as can be within reach, and
    those as near as can be.
    """
    if not len(found) or not len(asked):
        return []
    away = _away(found, asked)
    out_of_reach = away > FOUND_WITHIN
    faces, places = linear_sum_assignment(np.where(out_of_reach, 1e6, away))
    return [(int(f), int(p), float(away[f, p])) for f, p in zip(faces, places, strict=True) if not out_of_reach[f, p]]


def exchanged(similar: NDArray[np.float64], least: float = EXCHANGED) -> dict[int, int]:
    """Place -> whose the face is that stands there, of people who stand at each other's places. Needs no threshold of
    what one person is: it asks who goes best where, and takes whole circles in which each gains at least `least`.

    similar: [n, n] cosines of the face at each place to each reference.
    """
    if not len(similar):
        return {}
    best = [int(who) for who in linear_sum_assignment(-similar)[1]]
    gained = [similar[place, who] - similar[place, place] >= least for place, who in enumerate(best)]
    found: dict[int, int] = {}
    for start in range(len(best)):
        circle = [start]
        while (following := best[circle[-1]]) != start:
            circle.append(following)
        if all(gained[place] for place in circle):
            found[start] = best[start]
    return found


def _away(found: Points, asked: Points) -> NDArray[np.float64]:
    """[G, N] distances of middles in heights of the face asked for."""
    middle, wanted = found.mean(1), asked.mean(1)
    distances: NDArray[np.float64] = np.linalg.norm(middle[:, None] - wanted[None], axis=2) / face_height(asked)[None]
    return distances
