"""What a face model sees in a picture, kept by the content's hash: a second run asks no model.

References are often cut tightly around a face, which detectors then miss: such a one is looked at again in the middle
of a black square, as the reference evaluator looks at all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyphoto_cli.bench.memory import Arrays, Memory
from anyphoto_cli.faces.norm_crop import norm_crop
from anyphoto_cli.seams import FaceAnalyzer
from anyphoto_cli.types import Picture

PADDED = 1.5
"""Side of the black square around a reference, in shares of its longer side."""
_FORMAT = 3
"""1 may lack faces between `least` and .5, which detectors then kept to themselves; 2 may be of another detector beside
the same recogniser.
"""
_NAMES = {"size", "boxes", "landmarks", "scores", "embeddings"}


@dataclass(frozen=True, eq=False)
class Seen:
    """The faces of one picture, best score first; n may be 0. width, height: of the picture, px.

    boxes: [n, 4], landmarks: [n, 5, 2] px of the picture, scores: [n], embeddings: [n, d], unit length.
    """

    width: int
    height: int
    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    scores: NDArray[np.float32]
    embeddings: NDArray[np.float32]

    def __len__(self) -> int:
        """Faces."""
        return len(self.scores)


class Eyes:
    """A face model with a memory. cache: a folder, or None; least: lowest detection score of a face, which the
    model was opened with, too.
    """

    def __init__(self, analyzer: FaceAnalyzer, cache: Path | None = None, least: float = 0.45) -> None:
        self.analyzer, self._least = analyzer, least
        models = f"{getattr(analyzer, 'detector_sha256', '')} {analyzer.sha256}" if cache else ""
        about = f"faces {_FORMAT} {models} {least}"
        self._memories = {padded: Memory(cache, f"{about} {padded}") for padded in (False, True)}

    def see(self, pictures: Sequence[Picture], contents: Sequence[bytes], padded: bool = False) -> list[Seen]:
        """What is in each; pictures that were not seen before go to the model together.

        contents: the files' bytes, by which a picture is known again. padded: as references are looked at.
        """
        memory = self._memories[padded]
        found = [_recalled(memory.recall(content)) for content in contents]
        asked = [k for k, seen in enumerate(found) if seen is None]
        for k, seen in zip(asked, self._look([pictures[k] for k in asked], padded), strict=True):
            found[k] = seen
            memory.keep(contents[k], _arrays(seen))
        return [seen for seen in found if seen is not None]

    def see_references(
        self, pictures: Sequence[Picture], contents: Sequence[bytes], pad_all: bool = False
    ) -> list[Seen]:  # fmt: skip
        """As `see`; padded where nobody is found otherwise, or (the reference evaluator's way) all of them."""
        if pad_all:
            return self.see(pictures, contents, padded=True)
        found = self.see(pictures, contents)
        nobody = [k for k, seen in enumerate(found) if not len(seen)]
        again = self.see([pictures[k] for k in nobody], [contents[k] for k in nobody], padded=True)
        for k, seen in zip(nobody, again, strict=True):
            found[k] = seen
        return found

    def _look(self, pictures: Sequence[Picture], padded: bool) -> list[Seen]:
        if not pictures:
            return []
        laid = [pad(picture) if padded else (picture, (0, 0)) for picture in pictures]
        detected = self.analyzer.detect([picture for picture, _ in laid])
        kept = [[face for face in faces if face.score >= self._least] for faces in detected]
        cut = getattr(self.analyzer, "crop", norm_crop)
        crops = [cut(picture, face.landmarks) for (picture, _), faces in zip(laid, kept, strict=True) for face in faces]
        rows = self.analyzer.embed(np.stack(crops)) if crops else np.zeros((0, 512), np.float32)
        seen, first = [], 0
        for picture, (_, (left, top)), faces in zip(pictures, laid, kept, strict=True):
            boxes = np.array([face.box for face in faces], np.float32).reshape(-1, 4) - (left, top, left, top)
            points = np.array([face.landmarks for face in faces], np.float32).reshape(-1, 5, 2) - (left, top)
            scores = np.array([face.score for face in faces], np.float32)
            height, width = picture.shape[:2]
            own = rows[first : first + len(faces)]
            seen.append(Seen(width, height, boxes.astype(np.float32), points.astype(np.float32), scores, own))
            first += len(faces)
        return seen


def pad(picture: Picture) -> tuple[Picture, tuple[int, int]]:
    """(in the middle of a black square of 1.5 times its longer side, (left, top) of it there)."""
    height, width = picture.shape[:2]
    side = int(PADDED * max(width, height))
    left, top = (side - width) // 2, (side - height) // 2
    square = np.zeros((side, side, 3), np.uint8)
    square[top : top + height, left : left + width] = picture
    return square, (left, top)


def _recalled(arrays: Arrays | None) -> Seen | None:
    if arrays is None or not arrays.keys() >= _NAMES:
        return None
    width, height = arrays["size"].tolist()
    return Seen(width, height, arrays["boxes"], arrays["landmarks"], arrays["scores"], arrays["embeddings"])


def _arrays(seen: Seen) -> Arrays:
    return {
        "size": np.array([seen.width, seen.height]), "boxes": seen.boxes, "landmarks": seen.landmarks,
        "scores": seen.scores, "embeddings": seen.embeddings,
    }  # fmt: skip
