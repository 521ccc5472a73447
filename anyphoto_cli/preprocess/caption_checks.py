"""What a vision-language model is asked for a caption, and whether its answer is one."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import unicodedata
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from anyphoto_cli.config.preprocess import PreprocessConfig
from anyphoto_cli.errors import InputError
from anyphoto_cli.files.commit import sha256_of
from anyphoto_cli.preprocess.captioning import MOST_PIXELS

REFUSED, CUT, BLANK, LONG, FOREIGN = "refused", "cut", "blank", "too long", "not in English"
ASK_AGAIN = (CUT, BLANK)
"""What another draw may mend; a refusal or a language is said again."""
LONGEST_TOKEN = 16
"""Characters; words of English have four or five a token. Longer answers came past `max_tokens`."""
_WHOLE = ("stop", "eos", "eos_token", "end_turn", "", None)
_WITHHELD = ("content_filter", "safety")

_ANSI = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)
_TOKEN = re.compile(r"<\|[^|>]{1,30}\|>")
_FENCE = re.compile(r"^[^\S\n]*```\w*\s*$|^[^\S\n]*(?:[-*•]|#{1,6})\s+", re.MULTILINE)
_EMPHASIS = re.compile(r"(\*{1,3}|__|`+)(\S(?:.*?\S)?)\1")
_OPENING = re.compile(
    r"(?:(?:sure|certainly|of course|absolutely|okay|ok|great)(?: thing)?\s*[,.!:]\s*)*"
    r"(?:(?:here(?:['’]s| is)|this is|the following is|below is) (?:an?|the|my|your)(?: [\w,-]+){0,2} "
    r"(?:caption|description)\b[^.:]{0,60}:\s*)?"
    r"(?:(?:image |photo |detailed )?(?:caption|description|answer)\s*:\s*)?",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"(?<=[.!?])\s+(?:let me know|i hope this|feel free|is there anything|would you like me)\b[^.!?]*[.!?]?$",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}
_REFUSAL = re.compile(
    r"^(?:i(?:'m| am) (?:really |very |so |truly )?sorry|sorry\b|i apologi[sz]e|i (?:cannot|can't|can not|won't|"
    r"will not)\b|i(?:'m| am) (?:unable|not able)|unfortunately, i\b|抱歉|对不起|很抱歉|我无法|我不能)"
    r"|\bas an ai\b|\bi(?:'m| am)? (?:cannot|can't|can not|unable to|not able to) "
    r"(?:identify|assist|help|provide|describe|comply|fulfil|process|view|see|recogni[sz]e)\w*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class CaptionTask:
    """prompt: what is asked of every picture. words: the most a caption may have."""

    prompt: str
    words: int

    @classmethod
    def of(cls, config: PreprocessConfig) -> CaptionTask:
        """With the package's prompt, or the one in a file of the user's. Raises InputError when it cannot be read."""
        text = files("anyphoto_cli.preprocess").joinpath("caption_prompt.txt").read_text(encoding="utf-8")
        if config.caption_prompt is not None:
            text = _own_prompt(Path(config.caption_prompt))
        return cls(text.strip().replace("{words}", str(config.caption_words)), config.caption_words)

    @property
    def max_tokens(self) -> int:
        """Room for a caption that is somewhat too long: then it is known to be, instead of cut."""
        return 2 * self.words + 64

    def conversation(self, jpeg: bytes) -> list[dict[str, Any]]:
        """OpenAI's messages for one picture. As data: no server is ever told to fetch an address."""
        url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        picture = {"type": "image_url", "image_url": {"url": url}}
        return [{"role": "user", "content": [picture, {"type": "text", "text": self.prompt}]}]

    def judge(self, said: str, finish: str | None, withheld: bool = False) -> tuple[str, str]:
        """(caption, "") or ("", why there is none). finish: the server's finish_reason."""
        if len(said) > LONGEST_TOKEN * self.max_tokens:  # not looked at: marks without end take quadratic time
            return "", LONG
        text = clean(said)
        problem = self._problem(text, finish, withheld or finish in _WITHHELD)
        return ("", problem) if problem else (text, "")

    def _problem(self, text: str, finish: str | None, withheld: bool) -> str:
        letters = [c for c in text if c.isalpha()]
        if withheld or _REFUSAL.search(text.replace("’", "'")):
            return REFUSED
        if not letters:
            return BLANK
        if finish not in _WHOLE:
            return CUT
        if len(text.split()) > self.words:
            return LONG
        return FOREIGN if 2 * sum(map(str.isascii, letters)) < len(letters) else ""


def captioning_digests(config: PreprocessConfig) -> dict[str, str]:
    """sha256 of the prompt's text and of the file of captions; "" for what the captioner does not read. Raises
    InputError where they cannot be read.
    """
    prompt = "" if config.captioner in ("template", "file", "none") else CaptionTask.of(config).prompt
    file = Path(config.caption_file) if config.captioner == "file" and config.caption_file else None
    return {
        "caption_prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest() if prompt else "",
        "caption_file_sha256": sha256_of(file) if file else "",
    }


def clean(said: str) -> str:
    """`plain`, without a model's markdown and without its "Sure, here is the caption:" and "Let me know"."""
    text = _TOKEN.sub(" ", _THOUGHT.sub(" ", _ANSI.sub("", said)))
    text = plain(_EMPHASIS.sub(r"\2", _FENCE.sub(" ", text)))
    for _ in range(3):  # one wrapping may hold another
        text = _unquoted(_OPENING.sub("", text, count=1))
    return _CLOSING.sub("", text)


def plain(text: str) -> str:
    """One line without control, colour or direction characters."""
    return unicodedata.normalize("NFC", " ".join(_printable(_ANSI.sub("", text)).split()))


def _printable(text: str) -> str:
    """Spaces for spaces and line ends; nothing for control, format (bidi, zero width), surrogate and unknown ones."""
    kept = (" " if c.isspace() else c for c in text)
    return "".join(c for c in kept if unicodedata.category(c)[0] != "C" and c != "\ufffd")


def _unquoted(text: str) -> str:
    closing = _QUOTES.get(text[:1])
    whole = closing is not None and len(text) > 1 and text.endswith(closing) and closing not in text[1:-1]
    return text[1:-1].strip() if whole else text.strip()


def _own_prompt(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", file=file, field="caption_prompt") from error
    if not text.strip():
        raise InputError("is empty", file=file, field="caption_prompt")
    return text


def draw(again: bool) -> dict[str, Any]:
    """How tokens are chosen: the likeliest ones, and when asked again, others; the same would end the same."""
    return {"temperature": 0.7, "seed": 1} if again else {"temperature": 0.0, "seed": 0}


def serve_line(model: str) -> str:
    """The command that serves a model to `--captioner openai`, for the GPUs of this machine."""
    cards_to_use = cards(model) or _usual(model)
    return (
        f"vllm serve {shlex.quote(model)} --host 127.0.0.1 --limit-mm-per-prompt '{{\"image\":1}}' "
        f"--mm-processor-kwargs '{{\"max_pixels\":{MOST_PIXELS}}}' --tensor-parallel-size {cards_to_use}"
    )


def cards(model: str) -> int:
    """GPUs of this machine that a model can be split over, 0 without any. Heads must divide evenly: a power of two."""
    import torch

    seen = torch.cuda.device_count()
    most = 8 if _billions(model) >= 30 else 4  # Qwen2.5-VL-7B has 28 heads
    return min(1 << (seen.bit_length() - 1), most) if seen else 0


def _usual(model: str) -> int:
    """How many cards of 80 GB it takes in bfloat16."""
    size = _billions(model)
    return 4 if size >= 60 else 2 if size >= 30 else 1


def _billions(model: str) -> float:
    """From a name such as Qwen2.5-VL-72B-Instruct; 0 when it does not say."""
    found = re.search(r"(\d+(?:\.\d+)?)[bB]\b", model)
    return float(found[1]) if found else 0.0
