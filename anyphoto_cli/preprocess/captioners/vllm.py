"""Captions from a vision-language model in this very process, through vLLM."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Any

from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.errors import EnvironmentFault, one_line
from anyphoto_cli.preprocess.caption_checks import ASK_AGAIN, CaptionTask, cards, draw, serve_line
from anyphoto_cli.preprocess.captioning import MOST_PIXELS
from anyphoto_cli.runtime.signals import come_through
from anyphoto_cli.seams import CaptionAnswer, Captioner, CaptionRequest

BATCH = 64
"""Pictures handed to vLLM at a time; how many of them it computes at once is its own affair."""
ENDS_S = 10.0
"""How long an engine that is being loaded may take to end after Ctrl-C; it is killed then."""
_PICTURE_AND_PROMPT = 2048
"""Tokens: a megapixel is 1338, the prompt some 250."""


@dataclass(frozen=True)
class VllmCaptioner:
    """The model is loaded with the first picture."""

    model: str
    task: CaptionTask
    looks = True

    @property
    def name(self) -> str:
        """The model is part of it."""
        return f"vllm:{self.model}"

    def captions(self, pictures: Iterable[CaptionRequest]) -> Iterator[CaptionAnswer]:
        """A batch at a time, so that memory stays flat."""
        source, engine = iter(pictures), None
        while batch := list(islice(source, BATCH)):
            engine = engine or self._load()
            yield from self._batch(engine, batch)

    def _load(self) -> Any:
        # Standard output is for results; and nobody asked for this run to be reported to anyone.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        try:
            from vllm import LLM

            with come_through(ENDS_S):  # it waits for its engine in a poll that swallows Ctrl-C
                return LLM(
                    model=self.model, limit_mm_per_prompt={"image": 1},
                    mm_processor_kwargs={"max_pixels": MOST_PIXELS}, seed=0,
                    max_model_len=max(4096, _PICTURE_AND_PROMPT + self.task.max_tokens),
                    tensor_parallel_size=max(cards(self.model), 1),
                )  # fmt: skip
        except ImportError as error:
            raise _lacking(self.model, f"vLLM cannot be imported ({_short(error)})") from error
        except Exception as error:  # whatever an engine may die of: memory, drivers, a model that is not there
            raise EnvironmentFault(
                f"vLLM cannot load {self.model} ({_short(error)})", field="captioner vllm",
                remedy="vLLM has said more above. Or name another --caption-model, a hub name or a folder",
            ) from error  # fmt: skip

    def _batch(self, engine: Any, batch: Sequence[CaptionRequest]) -> Iterator[CaptionAnswer]:
        answers = self._ask(engine, batch, again=False)
        once_more = [request for request, answer in zip(batch, answers, strict=True) if answer.problem in ASK_AGAIN]
        second = {answer.id: answer for answer in self._ask(engine, once_more, again=True)} if once_more else {}
        yield from (second.get(answer.id, answer) for answer in answers)

    def _ask(self, engine: Any, batch: Sequence[CaptionRequest], again: bool) -> list[CaptionAnswer]:
        """In the order of the batch. One that vLLM cannot take at all is found by asking one by one."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=self.task.max_tokens, **draw(again))
        try:
            talks = [self.task.conversation(request.jpeg) for request in batch]
            outputs = engine.chat(talks, params, use_tqdm=False)
        except ValueError as error:
            if len(batch) == 1:
                return [CaptionAnswer(batch[0].id, "", _short(error))]
            return self._one_by_one(engine, batch, again)
        except Exception as error:
            raise _lacking(self.model, f"vLLM has failed ({_short(error)})") from error
        if len(outputs) != len(batch):  # left over from a batch that it refused: whose answer is whose?
            raise _lacking(self.model, f"vLLM gave {len(outputs)} answers to {len(batch)} pictures")
        return [self._answer(request, output) for request, output in zip(batch, outputs, strict=True)]

    def _one_by_one(self, engine: Any, batch: Sequence[CaptionRequest], again: bool) -> list[CaptionAnswer]:
        answers = [answer for request in batch for answer in self._ask(engine, [request], again)]
        problems = {answer.problem for answer in answers}
        if len(problems) == 1 and "" not in problems:
            raise _lacking(self.model, f"vLLM takes none of the pictures ({problems.pop()})")
        return answers

    def _answer(self, request: CaptionRequest, output: Any) -> CaptionAnswer:
        said = output.outputs[0]
        return CaptionAnswer(request.id, *self.task.judge(said.text, said.finish_reason))


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return one_line(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)[:160]


def _lacking(model: str, what: str) -> EnvironmentFault:
    remedy = (
        "In an environment of its own, on a machine with GPUs: pip install vllm; then either run anyphoto there, or "
        f"{serve_line(model)} and give --captioner openai --caption-url http://127.0.0.1:8000/v1"
    )
    return EnvironmentFault(what, field="captioner vllm", remedy=remedy)


def open_captioner(config: PreprocessConfig, options: RunOptions) -> Captioner:
    """Raises EnvironmentFault without vLLM. It is not imported yet: that takes long and claims the GPUs."""
    if find_spec("vllm") is None:
        raise _lacking(config.caption_model, "vLLM is not installed")
    return VllmCaptioner(config.caption_model, CaptionTask.of(config))
