"""Captions from a server that speaks OpenAI's protocol: `vllm serve` on this machine or another, or any like it.

An event loop on a thread of its own keeps so many requests under way; the caller's thread draws pictures and hands out
answers. A request has a deadline for all its tries together, because a client's timeouts are for each read. A request
that fails while others succeed has itself to blame; when only failures come, the server has, and the run stops.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.errors import EnvironmentFault, InputError, one_line
from anyphoto_cli.preprocess.caption_checks import ASK_AGAIN, CaptionTask, draw, serve_line
from anyphoto_cli.seams import CaptionAnswer, Captioner, CaptionRequest

IN_A_ROW = 8
"""So many requests failed for good and none succeeded since: the server is to blame."""
TRIES = 10
TRIES_UNREACHED = 4
"""Of a server that has never been reached: it will not have been started."""
LONGEST_WAIT_S = 8.0
MOST_BYTES = 2**20
NO_KEY = "EMPTY"
"""What vLLM's own examples send to a server that wants no key."""
_STOPS = {401: "refuses the key", 403: "refuses the key", 404: "has no such model or address"}
_WORTH_A_TRY = (408, 409, 425, 429)


@dataclass(frozen=True)
class OpenAICaptioner:
    """deadline: s, for all tries of a caption. silence: s without any answer after which the server has hung.
    first_wait: s, before the second try; it doubles with each.
    """

    model: str
    task: CaptionTask
    url: str
    key: str = field(repr=False)
    concurrency: int = 32
    deadline: float = 300.0
    silence: float = 50.0
    first_wait: float = 0.5
    looks = True

    @property
    def name(self) -> str:
        """The model is part of it."""
        return f"openai:{self.model}"

    def captions(self, pictures: Iterable[CaptionRequest]) -> Iterator[CaptionAnswer]:
        """Answers as they come, at most `concurrency` requests ahead of them. Closing it ends what is under way."""
        source, more, verdict = iter(pictures), True, _Verdict(self)
        with _Line(self) as line:
            while more or line.under_way:
                if more and len(line.under_way) < self.concurrency:
                    request = next(source, None)
                    more = request is not None
                    if request is not None:
                        line.send(request)
                    outcome = line.hear(0)
                else:
                    outcome = line.hear(0.25)
                if outcome is not None:
                    yield from verdict.on(outcome, line.answered_at)
                elif line.silent_for() > self.silence:
                    raise self.fault(f"nothing came in {self.silence:.0f} s")
            yield from verdict.at_the_end()

    def fault(self, problem: str) -> EnvironmentFault:
        """The one line that a run without a server ends with."""
        remedy = f"Start it: {serve_line(self.model)}; then run this again. It goes on where it stopped"
        return EnvironmentFault(f"the caption server does not answer ({problem})", file=self.url, remedy=remedy)


@dataclass(frozen=True)
class _Failed:
    """A request that was given up. unreached: no reply came at all. began: when its last try did."""

    answer: CaptionAnswer
    unreached: bool
    began: float


_Said = tuple[str, str | None, bool]
"""Text, finish_reason, and whether a caption was refused."""


class _GivenUp(Exception):
    """Further tries of this request would end the same."""


class _NoCompletion(Exception):
    """A reply that is not what the protocol says."""


@dataclass
class _Try:
    """What a request is at."""

    began: float = 0.0
    problem: str = ""
    unreached: bool = True


class _Verdict:
    """Holds failures back until it is known whose they are: a run that goes on later asks those again."""

    def __init__(self, captioner: OpenAICaptioner) -> None:
        self.captioner, self.held = captioner, list[_Failed]()

    def on(self, outcome: CaptionAnswer | _Failed, answered_at: float) -> Iterator[CaptionAnswer]:
        if isinstance(outcome, _Failed):
            self.held.append(outcome)
        else:
            yield outcome
        yield from [failed.answer for failed in self.held if failed.began < answered_at]
        self.held = [failed for failed in self.held if failed.began >= answered_at]
        if len(self.held) >= IN_A_ROW:
            raise self.captioner.fault(self.held[-1].answer.problem)

    def at_the_end(self) -> Iterator[CaptionAnswer]:
        if any(failed.unreached for failed in self.held):
            raise self.captioner.fault(self.held[-1].answer.problem)
        yield from [failed.answer for failed in self.held]


class _Line:
    """A client in an event loop on a thread of its own. under_way: requests not yet heard of, and since when."""

    def __init__(self, captioner: OpenAICaptioner) -> None:
        self.captioner = captioner
        self.under_way: dict[Future[CaptionAnswer | _Failed], float] = {}
        self.heard_at = self.answered_at = 0.0
        self._closing = False
        self._done: queue.SimpleQueue[Future[CaptionAnswer | _Failed]] = queue.SimpleQueue()

    def __enter__(self) -> _Line:
        self._client = _client(self.captioner)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="captions", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        if not self._thread.is_alive():
            self._loop.close()

    async def _close(self) -> None:
        self._closing = True
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            # A connection that is cancelled between its start and its first step warns on standard error.
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    def send(self, request: CaptionRequest) -> None:
        future = asyncio.run_coroutine_threadsafe(self._caption(request), self._loop)
        self.under_way[future] = time.monotonic()
        future.add_done_callback(self._done.put)

    def hear(self, patience: float) -> CaptionAnswer | _Failed | None:
        """The next outcome, None when there is none within so many seconds. Raises what ends the run."""
        try:
            future = self._done.get(timeout=patience) if patience else self._done.get_nowait()
        except queue.Empty:
            return None
        del self.under_way[future]
        return future.result()

    def silent_for(self) -> float:
        """Seconds, while anything is asked."""
        asked = [since for future, since in self.under_way.items() if not future.done()]
        return time.monotonic() - max(self.heard_at, min(asked)) if asked else 0.0

    async def _caption(self, request: CaptionRequest) -> CaptionAnswer | _Failed:
        """One request to its end, whichever it is."""
        at = _Try()
        try:
            async with asyncio.timeout(self.captioner.deadline):
                return CaptionAnswer(request.id, *await self._twice(request, at))
        except TimeoutError:
            at.problem = f"no caption in {self.captioner.deadline:g} s" + (f": {at.problem}" if at.problem else "")
        except _GivenUp:
            pass
        return _Failed(CaptionAnswer(request.id, "", at.problem), at.unreached, at.began)

    async def _twice(self, request: CaptionRequest, at: _Try) -> tuple[str, str]:
        judge = self.captioner.task.judge
        text, problem = judge(*await self._persist(request, at, again=False))
        if problem in ASK_AGAIN:
            text, problem = judge(*await self._persist(request, at, again=True))
        return text, problem

    async def _persist(self, request: CaptionRequest, at: _Try, again: bool) -> _Said:
        """Until there is a reply, or no hope of one."""
        tries = 0
        while not self._closing:
            tries, at.began, at.unreached = tries + 1, time.monotonic(), True
            try:
                said = await self._ask(request, again)
            except Exception as error:
                await asyncio.sleep(self._after(error, at, tries))
            else:
                self.heard_at = self.answered_at = time.monotonic()
                return said
        raise _GivenUp

    async def _ask(self, request: CaptionRequest, again: bool) -> _Said:
        """One try. As base64 only now: of the pictures that wait, only the JPEGs are kept."""
        task = self.captioner.task
        create = self._client.chat.completions.with_streaming_response.create
        async with create(
            model=self.captioner.model, messages=task.conversation(request.jpeg), max_tokens=task.max_tokens,
            **draw(again),
        ) as response:  # fmt: skip
            return _said(await _body(response))

    def _after(self, error: Exception, at: _Try, tries: int) -> float:
        """Seconds until the next try. Raises _GivenUp, or EnvironmentFault when every request would end like this."""
        import openai

        wait: float = min(self.captioner.first_wait * 2 ** (tries - 1), LONGEST_WAIT_S) * random.uniform(0.5, 1.0)
        if isinstance(error, openai.APIStatusError):
            return self._after_status(error, at, tries, wait)
        at.problem, at.unreached = self._hidden(_told(error)), not isinstance(error, _NoCompletion)
        never = at.unreached and not self.heard_at and not isinstance(error, openai.APITimeoutError)
        if tries >= (TRIES_UNREACHED if never else TRIES):
            raise _GivenUp from error
        return wait

    def _after_status(self, error: Any, at: _Try, tries: int, wait: float) -> float:
        status = int(error.status_code)
        at.problem, at.unreached = self._hidden(f"{status} {_words(error)}".strip()), False
        if status in _STOPS or error.code == "insufficient_quota":
            raise self._stop(status)
        wait = max(wait, _retry_after(error.response.headers.get("retry-after", "")))
        if status == 429:  # alive, and says so: only the deadline ends this
            self.heard_at = max(self.heard_at, time.monotonic() + wait)
        elif tries >= TRIES or (status < 500 and status not in _WORTH_A_TRY):
            raise _GivenUp from error
        return wait

    def _hidden(self, text: str) -> str:
        """Servers quote what they were sent."""
        return text if self.captioner.key == NO_KEY else text.replace(self.captioner.key, "***")

    def _stop(self, status: int) -> EnvironmentFault:
        remedy = "Put the right key into OPENAI_API_KEY"
        if status == 404:
            remedy = f"Give --caption-model as {self.captioner.url}/models names it; the address mostly ends in /v1"
        what = f"the caption server {_STOPS.get(status, 'says that this key has nothing left to spend')} ({status})"
        return EnvironmentFault(what, file=self.captioner.url, remedy=remedy)


def _client(captioner: OpenAICaptioner) -> Any:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    # No redirects: neither key nor pictures go where nobody sent them. Retries are ours: they obey the deadline.
    # A cluster's proxy does not know this machine's own servers.
    local = urlsplit(captioner.url).hostname in ("127.0.0.1", "localhost", "::1")
    http = DefaultAsyncHttpxClient(follow_redirects=False, trust_env=not local)
    return AsyncOpenAI(api_key=captioner.key, base_url=captioner.url, max_retries=0, timeout=captioner.deadline,
                       http_client=http)  # fmt: skip


async def _body(response: Any) -> bytes:
    """At most a mebibyte: what a caption server says more is not a caption."""
    body = bytearray()
    async for part in response.iter_bytes():
        body += part
        if len(body) > MOST_BYTES:
            raise _NoCompletion("an endless reply")
    return bytes(body)


def _said(body: bytes) -> _Said:
    """What a chat completion holds."""
    try:
        choice = json.loads(body)["choices"][0]
        message = choice["message"]
        said, finish, refusal = message.get("content"), choice.get("finish_reason"), message.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _NoCompletion("a reply that is no chat completion") from error
    if not isinstance(said, str | None) or not isinstance(finish, str | None):
        raise _NoCompletion("a reply that is no chat completion")
    return said or "", finish, bool(refusal)


def _told(error: Exception) -> str:
    """An error of the connection in a few words."""
    if isinstance(error, _NoCompletion):
        return str(error)
    cause = error.__cause__ or error
    return one_line(f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__)[:120].rstrip(".")


def _words(error: Any) -> str:
    """What the server says about it."""
    told = error.body.get("message") if isinstance(error.body, dict) else None
    return one_line(str(told or error.response.reason_phrase))[:160]


def _retry_after(told: str) -> float:
    """Seconds that the server asks for, by a number or a date; 0 when it does not, or speaks nonsense."""
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(told).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return seconds if 0 < seconds < 86400 else 0.0


def open_captioner(config: PreprocessConfig, options: RunOptions) -> Captioner:
    """Raises InputError without an address, EnvironmentFault without the openai package."""
    try:
        import openai  # noqa: F401
    except ImportError as error:
        remedy = "Run: pip install 'anyphoto[caption]'"
        raise EnvironmentFault("captioner openai needs the openai package", remedy=remedy) from error
    # A slower server than most: whoever gives it six times as long has it waited for as much longer.
    silence = max(50.0, options.caption_deadline / 6)
    return OpenAICaptioner(
        config.caption_model, CaptionTask.of(config), _address(config), _key(), options.caption_concurrency,
        options.caption_deadline, silence,
    )  # fmt: skip


def _address(config: PreprocessConfig) -> str:
    url = config.caption_url or os.environ.get("OPENAI_BASE_URL", "").strip()
    if not url:
        remedy = f"Give --caption-url http://127.0.0.1:8000/v1 after: {serve_line(config.caption_model)}"
        raise InputError("captioner openai needs the address of a server", field="--caption-url", remedy=remedy)
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise InputError("is no address", field="--caption-url", remedy="As in http://127.0.0.1:8000/v1") from None
    if "@" in parts.netloc or parts.query:
        raise InputError("holds a secret", field="--caption-url", remedy="Keys go into OPENAI_API_KEY")
    if not good:
        raise InputError(f"{url!r} is no address", field="--caption-url", remedy="As in http://127.0.0.1:8000/v1")
    return url.rstrip("/")


def _key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip() or NO_KEY
    if not (key.isascii() and key.isprintable()):
        raise EnvironmentFault("OPENAI_API_KEY holds characters that no key has")
    return key
