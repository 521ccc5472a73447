"""Stage 3: one stream of requests over all chunks, answers in any order, each kept the moment it comes."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files.commit import committed
from anyphoto_cli.preprocess.loading import Unreadable, load_photo
from anyphoto_cli.preprocess.selection import Selection
from anyphoto_cli.preprocess.stage_run import too_many
from anyphoto_cli.preprocess.work import PhotoList, Row, Work
from anyphoto_cli.registry import find, names
from anyphoto_cli.runtime.progress import Listener
from anyphoto_cli.seams import CaptionAnswer, Captioner, CaptionRequest
from anyphoto_cli.types import Picture

MOST_PIXELS = 2**20
JOURNAL = "journal.jsonl"


def caption_photos(
    photos: PhotoList,
    work: Work,
    selection: Selection,
    captioner: Captioner,
    config: PreprocessConfig,
    listener: Listener,
    most_failed: float = 1.0,
) -> None:
    """Caption every kept photo that has no caption yet. A run that is cut off loses the answers under way, no others.

    most_failed: share of answers without a caption from which on it is not worth going on. Raises EnvironmentFault
    then, and what the captioner raises when no further answer can be had.
    """
    todo = work.missing("caption", len(photos))
    journal = work.folder / "caption" / JOURNAL
    journal.parent.mkdir(parents=True, exist_ok=True)
    answers = _read_journal(journal)
    left = {chunk: sum(_wanted(n, selection, answers) for n in photos.numbers(chunk)) for chunk in todo}
    wanted = len(answers) + sum(left.values())
    listener.work("Captions", int(selection.keep.sum()), int(selection.keep.sum()) - sum(left.values()))
    failed = [answer.problem for answer in answers.values() if answer.problem]
    seen = len(answers)
    _not_too_many(failed, seen, wanted, most_failed)
    for chunk in [chunk for chunk in todo if not left[chunk]]:
        _commit(photos, work, selection, chunk, answers, captioner)
    open_chunks = [chunk for chunk in todo if left[chunk]]
    requests = _requests(photos, work, open_chunks, selection, answers, captioner, config)
    with journal.open("a", encoding="utf-8") as lines:
        for answer in captioner.captions(requests):
            number = int(answer.id)
            answers[number] = answer
            _note(lines, answer)
            listener.done(1)
            seen += 1
            failed += [answer.problem] if answer.problem else []
            _not_too_many(failed, seen, wanted, most_failed)
            chunk = number // photos.chunk
            left[chunk] -= 1
            if not left[chunk]:
                _commit(photos, work, selection, chunk, answers, captioner)
    if missing := sum(left.values()):
        raise EnvironmentFault(f"{captioner.name} left {missing} photos without an answer", remedy="Run it again")
    journal.unlink()


def _not_too_many(failed: Sequence[str], seen: int, wanted: int, most: float) -> None:
    if too_many(len(failed), seen, wanted, most):
        what = f"{len(failed)} of the first {seen} captions failed (limit {most:.0%}), the first: {failed[0]}"
        remedy = "Mend the captioner and add --retry-failed, or raise --max-failed"
        raise EnvironmentFault(what, field="--captioner", remedy=remedy)


def forget_failed_answers(work: Work) -> None:
    """Of the answers of a run that was cut off those without a caption: they are asked for again."""
    journal = work.folder / "caption" / JOURNAL
    kept = [answer for answer in _read_journal(journal).values() if not answer.problem]
    if journal.is_file():
        with committed(journal) as out:
            out.writelines(_line(answer).encode() for answer in kept)


def forget_unasked(photos: PhotoList, work: Work, selection: Selection) -> None:
    """Chunks are captioned again in which a photo stays that nobody was asked about: photos that could not be read at
    first and now can may change which of its near-duplicates stays.
    """
    for chunk in range(len(photos)):
        if work.has("caption", chunk):
            rows = work.read("caption", chunk)[0]
            if any(
                selection.keep[n] and not row["captioner"] for n, row in zip(photos.numbers(chunk), rows, strict=True)
            ):
                work.file("caption", chunk).unlink()


def _note(lines: io.TextIOBase, answer: CaptionAnswer) -> None:
    """On disk before the next one: a caption is the dearest thing of a run."""
    lines.write(_line(answer))
    lines.flush()
    os.fsync(lines.fileno())


def _line(answer: CaptionAnswer) -> str:
    text = {"id": answer.id, "text": answer.text, "problem": answer.problem}
    return json.dumps(text, ensure_ascii=True) + "\n"


def _read_journal(file: Path) -> dict[int, CaptionAnswer]:
    """What came before the run was cut off; a last line that is torn is no answer."""
    found: dict[int, CaptionAnswer] = {}
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return found
    whole = text[: text.rfind("\n") + 1]
    for line in whole.splitlines():
        row = json.loads(line)
        found[int(row["id"])] = CaptionAnswer(row["id"], row["text"], row["problem"])
    if whole != text:
        file.write_text(whole, encoding="utf-8")
    return found


def _commit(
    photos: PhotoList, work: Work, selection: Selection, chunk: int, answers: dict[int, CaptionAnswer],
    captioner: Captioner,
) -> None:  # fmt: skip
    rows: list[Row] = []
    for number in photos.numbers(chunk):
        answer = answers.pop(number, None) if selection.keep[number] else None
        text, problem = (answer.text, answer.problem) if answer else ("", "")
        rows.append({"text": text, "captioner": captioner.name if answer else "", "problem": problem})
    work.write("caption", chunk, rows)


def _wanted(number: int, selection: Selection, answers: Mapping[int, CaptionAnswer]) -> bool:
    return bool(selection.keep[number]) and number not in answers


def _requests(
    photos: PhotoList,
    work: Work,
    chunks: Sequence[int],
    selection: Selection,
    answers: Mapping[int, CaptionAnswer],
    captioner: Captioner,
    config: PreprocessConfig,
) -> Iterator[CaptionRequest]:
    """One at a time, in the list's order: a photo is decoded when its turn comes."""
    for chunk in chunks:
        detected, listed = work.read("detect", chunk)[0], photos.photos(chunk)
        wanted = {number for number in photos.numbers(chunk) if _wanted(number, selection, answers)}
        for number, photo, row in zip(photos.numbers(chunk), listed, detected, strict=True):
            if number not in wanted:
                continue
            jpeg = b""
            if captioner.looks:
                loaded = load_photo(photo, config.max_side)
                if isinstance(loaded, Unreadable) or loaded.sha256 != row["sha256"]:
                    remedy = "Give a new folder with -o, or put the photo back"
                    raise EnvironmentFault("has changed since this run first read it", file=photo.id, remedy=remedy)
                jpeg = small_jpeg(loaded.pixels)
            yield CaptionRequest(str(number), jpeg, len(row["faces"]), row["caption"], photo.id)


def small_jpeg(picture: Picture) -> bytes:
    """At most a megapixel: what a vision-language model is given."""
    from PIL import Image

    image = Image.fromarray(np.asarray(picture))
    scale = min(1.0, (MOST_PIXELS / (image.width * image.height)) ** 0.5)
    if scale < 1:
        image = image.resize((max(int(image.width * scale), 1), max(int(image.height * scale), 1)))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def open_captioner(config: PreprocessConfig, options: RunOptions) -> Captioner:
    """The one that the configuration names. Raises InputError where there is none of that name."""
    if config.captioner not in (known := names("captioners")):
        remedy = f"Captioners: {', '.join(known)}"
        raise InputError(f"{config.captioner!r} is no captioner", field="--captioner", remedy=remedy)
    opened: Captioner = find("captioners", config.captioner)(config, options)
    return opened


def caption_one(captioner: Captioner, picture: Picture) -> str:
    """One picture's caption. Raises EnvironmentFault where it gives none."""
    [answer] = captioner.captions([CaptionRequest("0", small_jpeg(picture), 0)])
    if not answer.text:
        raise EnvironmentFault(f"{captioner.name} gave no caption ({answer.problem})", field="--captioner")
    return answer.text
