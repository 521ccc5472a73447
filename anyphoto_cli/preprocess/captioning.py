"""Stage 3: one stream of requests over all chunks, answers in any order, each kept the moment it comes."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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
_UNASKED = {"text": "", "captioner": "", "problem": ""}


def caption_photos(
    photos: PhotoList,
    work: Work,
    selection: Selection,
    captioner: Captioner,
    config: PreprocessConfig,
    listener: Listener,
    most_failed: float = 1.0,
    retry_failed: bool = False,
    anew: Callable[[], None] = lambda: None,
) -> None:
    """Caption every kept photo that has no caption yet. A run that is cut off loses the answers under way, no others.

    most_failed: share of answers without a caption from which on it is not worth going on. retry_failed: such answers
    of before are asked for again, and no others. anew: called before a chunk that was captioned is written again: what
    rests on its captions must go first. The journal is taken as `forget_answers` leaves it. Raises EnvironmentFault
    where too many fail, and what the captioner raises when no further answer can be had.
    """
    journal = work.folder / "caption" / JOURNAL
    journal.parent.mkdir(parents=True, exist_ok=True)
    answers = {int(answer.id): answer for answer in _journalled(journal)}
    missing = work.missing("caption", len(photos))
    again = open_again(photos, work, selection, retry_failed)
    todo = sorted({*missing, *again, *(number // photos.chunk for number in answers)})

    def open_numbers(chunk: int) -> list[int]:
        answered = _answered(photos, work, selection, chunk, retry_failed)
        kept = (number for number in photos.numbers(chunk) if selection.keep[number])
        return [number for number in kept if number not in answers and number not in answered]

    def commit(chunk: int) -> None:
        if work.has("caption", chunk):
            anew()
        before = _answered(photos, work, selection, chunk, retry_failed)
        _commit(photos, work, selection, chunk, before, answers, captioner)

    left = {chunk: len(open_numbers(chunk)) for chunk in todo}
    # Of a stage that was cut off, what it has committed counts as well.
    problems = _problems(photos, work, selection, answers, _done(photos, work) if missing and not retry_failed else [])
    seen, failed = len(problems), [problem for problem in problems if problem]
    wanted = seen + sum(left.values())
    listener.work("Captions", int(selection.keep.sum()), int(selection.keep.sum()) - sum(left.values()))
    _not_too_many(failed, seen, wanted, most_failed)
    for chunk in [chunk for chunk in todo if not left[chunk]]:
        commit(chunk)
    open_chunks = [chunk for chunk in todo if left[chunk]]
    requests = _requests(photos, work, open_chunks, open_numbers, captioner, config)
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
                commit(chunk)
    if unanswered := sum(left.values()):
        raise EnvironmentFault(f"{captioner.name} left {unanswered} photos without an answer", remedy="Run it again")
    journal.unlink()


def _problems(
    photos: PhotoList, work: Work, selection: Selection, answers: Mapping[int, CaptionAnswer], chunks: Sequence[int]
) -> list[str]:
    """Of every answer so far, in `chunks` and in the journal; "" where it is a caption."""
    in_chunks = (_answered(photos, work, selection, chunk, False).items() for chunk in chunks)
    told = [row["problem"] for rows in in_chunks for number, row in rows if number not in answers]
    return told + [answer.problem for answer in answers.values()]


def _not_too_many(failed: Sequence[str], seen: int, wanted: int, most: float) -> None:
    if too_many(len(failed), seen, wanted, most):
        what = f"{len(failed)} of the first {seen} captions failed (limit {most:.0%}), the first: {failed[0]}"
        remedy = "Mend the captioner and add --retry-failed, or raise --max-failed"
        raise EnvironmentFault(what, field="--captioner", remedy=remedy)


def open_again(photos: PhotoList, work: Work, selection: Selection, retry_failed: bool) -> list[int]:
    """Chunks that were captioned and in which a photo stays that has no answer: photos that can be read since, or that
    are no longer excluded, or, with retry_failed, those whose caption failed.
    """
    return [
        chunk for chunk in _done(photos, work)
        if len(_answered(photos, work, selection, chunk, retry_failed)) < selection.keep[_span(photos, chunk)].sum()
    ]  # fmt: skip


def forget_answers(photos: PhotoList, work: Work, selection: Selection, retry_failed: bool) -> None:
    """What was said of photos that do not stay, and of the journal what chunks hold already; with retry_failed, also
    the failures of a run that was cut off. A caption in the journal counts more than a failure in a chunk.
    """
    answered, captioned = np.zeros(photos.count, bool), np.zeros(photos.count, bool)
    for chunk in _done(photos, work):
        rows, kept = work.read("caption", chunk)[0], selection.keep[_span(photos, chunk)]
        stay = [row if keep else dict(_UNASKED) for row, keep in zip(rows, kept, strict=True)]
        if stay != rows:
            work.write("caption", chunk, stay)
        answered[_span(photos, chunk)] = [bool(row["captioner"]) for row in stay]
        captioned[_span(photos, chunk)] = [bool(row["captioner"]) and not row["problem"] for row in stay]
    journal = work.folder / "caption" / JOURNAL
    answers = [
        answer for answer in _journalled(journal)
        if selection.keep[number := int(answer.id)] and not captioned[number]
        and not (answer.problem and (retry_failed or answered[number]))
    ]  # fmt: skip
    if answers:
        with committed(journal) as out:
            out.writelines(_line(answer).encode() for answer in answers)
    else:
        journal.unlink(missing_ok=True)


def _done(photos: PhotoList, work: Work) -> list[int]:
    return [chunk for chunk in range(len(photos)) if work.has("caption", chunk)]


def _span(photos: PhotoList, chunk: int) -> slice:
    numbers = photos.numbers(chunk)
    return slice(numbers.start, numbers.stop)


def _answered(photos: PhotoList, work: Work, selection: Selection, chunk: int, retry_failed: bool) -> dict[int, Row]:
    """Number -> row, of the photos of a chunk that stay and have an answer; with retry_failed, a caption."""
    if not work.has("caption", chunk):
        return {}
    return {
        number: row
        for number, row in zip(photos.numbers(chunk), work.read("caption", chunk)[0], strict=True)
        if selection.keep[number] and row["captioner"] and not (retry_failed and row["problem"])
    }


def _note(lines: io.TextIOBase, answer: CaptionAnswer) -> None:
    """On disk before the next one: a caption is the dearest thing of a run."""
    lines.write(_line(answer))
    lines.flush()
    os.fsync(lines.fileno())


def _line(answer: CaptionAnswer) -> str:
    text = {"id": answer.id, "text": answer.text, "problem": answer.problem}
    return json.dumps(text, ensure_ascii=True) + "\n"


def _journalled(file: Path) -> Iterator[CaptionAnswer]:
    """What came before the run was cut off; a last line that is torn is no answer, and is cut off."""
    if not file.is_file():
        return
    whole = 0
    with file.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                whole += len(line)
                row = json.loads(line)
                yield CaptionAnswer(row["id"], row["text"], row["problem"])
    os.truncate(file, whole)  # which a full disk allows, unlike writing it again


def _commit(
    photos: PhotoList, work: Work, selection: Selection, chunk: int, before: Mapping[int, Row],
    answers: dict[int, CaptionAnswer], captioner: Captioner,
) -> None:  # fmt: skip
    rows: list[Row] = []
    for number in photos.numbers(chunk):
        answer = answers.pop(number, None) if selection.keep[number] else None
        told = {"text": answer.text, "captioner": captioner.name, "problem": answer.problem} if answer else None
        rows.append(dict(told or before.get(number, _UNASKED)))
    work.write("caption", chunk, rows)


def _requests(
    photos: PhotoList,
    work: Work,
    chunks: Sequence[int],
    open_numbers: Callable[[int], list[int]],
    captioner: Captioner,
    config: PreprocessConfig,
) -> Iterator[CaptionRequest]:
    """One at a time, in the list's order: a photo is decoded when its turn comes."""
    for chunk in chunks:
        detected, listed = work.read("detect", chunk)[0], photos.photos(chunk)
        wanted = set(open_numbers(chunk))
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
