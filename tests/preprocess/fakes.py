"""Stand-ins at the seams that need no models: people are coloured squares, and their colour is who they are.

Run as a program, this is `preprocess` with them, in one process: what the kill tests start and end.
"""

import sys
from pathlib import Path

import numpy as np

from anyphoto_cli import registry
from anyphoto_cli.types import Box, Face, Person

SIDE = 96
_TEMPLATE = np.array([[0.34, 0.46], [0.66, 0.46], [0.5, 0.64], [0.37, 0.82], [0.63, 0.82]])


def paint(colours, seed=0, size=(128, 160)):
    """[H, W, 3]: a square of each colour on noisy grey, so that pictures differ."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(90, 140, (*size, 3)).astype(np.uint8)
    picture[:: rng.integers(2, 9)] //= 2
    for k, colour in enumerate(colours):
        picture[20:68, 8 + 72 * k : 56 + 72 * k] = colour
    return picture


def colour_of(number):
    """A pure, strong colour a person."""
    return np.array([(number * 97 + 40) % 256, (number * 57 + 90) % 256, (number * 193 + 10) % 256], np.uint8)


class FakePersons:
    name, sha256 = "fake.onnx", "f" * 64

    def persons(self, pictures, least_score=0.25):
        return [[Person(Box(4, 10, 60, len(p)), 0.9)] for p in pictures]


class FakeFaces:
    """Finds the squares of `paint` in whole pictures, embeds their mean colour."""

    name, sha256, detects = "fake", "e" * 64, True

    def detect(self, pictures, size=640):
        return [self._find(p) for p in pictures]

    def _find(self, picture):
        found = []
        for x in (8, 80):
            box = picture[20:68, x : x + 48]
            if box.shape == (48, 48, 3) and box.reshape(-1, 3).std(0).max() < 6:
                points = _TEMPLATE * 48 + (x, 20)
                found.append(Face(Box(x, 20, x + 48, 68), points, 0.95))
        return found

    def embed(self, crops):
        # The middle only: what lies around a square differs from picture to picture.
        mean = np.round(crops[:, 44:68, 44:68].reshape(len(crops), -1, 3).mean(1) / 4)
        wave = np.arange(512)[None] * (1 + mean.sum(1, keepdims=True) % 97)
        rows = np.sin(wave + mean[:, :1]) + np.cos(wave * 0.7 + mean[:, 1:2]) + np.sin(wave * 1.3 + mean[:, 2:])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def register():
    """Under the name fake, in this process."""
    registry.BUILT_IN["person_models"]["fake"] = "tests.preprocess.fakes:FakePersons"
    registry.BUILT_IN["face_packs"]["fake"] = "tests.preprocess.fakes:FakeFaces"


def draw_photos(folder, photos=40, people=4):
    """photos/*.png with one or two people each, refs/pK/*.png; the same for the same numbers."""
    from PIL import Image

    for n in range(photos):
        who = [n % people, *([(n + 1) % people] if n % 3 else [])]
        _save(Image.fromarray(paint([colour_of(k) for k in who], seed=n)), folder / "photos" / f"{n:03d}.png")
    for k in range(people):
        for j in range(2):
            _save(Image.fromarray(paint([colour_of(k)], seed=1000 + 2 * k + j)), folder / "refs" / f"p{k}" / f"{j}.png")
    return folder


def _save(image, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


SETTINGS = dict(
    person_model="fake", face_pack="fake", captioner="template", min_side=64, min_sharpness=0.0, max_yaw=180.0,
    reference_min=10.0, min_face=10.0, match_threshold=0.95, near_duplicates=-1, shard_size=7, patch_size=112,
    train_size=128,
)  # fmt: skip


def main(photos, refs, out):
    from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
    from anyphoto_cli.preprocess import run

    register()
    run(Path(photos), Path(out), Path(refs), PreprocessConfig(**SETTINGS), RunOptions(executor="here", max_failed=1.0))


def peak_kib() -> int:
    """Of this process alone: what getrusage tells is never less than the parent had at the fork."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(
            next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")).split()[
                1
            ]
        )
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    from anyphoto_cli.cli.exits import exit_code_of

    code = exit_code_of(lambda: main(*sys.argv[1:]), [])
    print(peak_kib())
    sys.exit(code)
