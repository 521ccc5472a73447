import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from PIL import Image

from anyphoto_cli import registry
from anyphoto_cli.config.preprocess import PreprocessConfig, RunOptions
from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.preprocess.caption_checks import CaptionTask, clean, serve_line
from anyphoto_cli.seams import CaptionAnswer, Captioner, CaptionRequest

from .fake_caption_server import FakeCaptionServer, completion, dead_url, failure, good, mark

SECRET = "sk-canary-6f1c"
TASK = CaptionTask("Say what you see.", 120)


def jpeg_of(number):
    """Any bytes do for a server that looks at hashes only."""
    return b"\xff\xd8" + hashlib.sha256(str(number).encode()).digest() * 8


def requests(count, **more):
    return [CaptionRequest(str(n), jpeg_of(n), people=2, source=f"{n}.jpg", **more) for n in range(count)]


def openai_captioner(url, **how):
    from anyphoto_cli.preprocess.captioners.openai import OpenAICaptioner

    how = {"concurrency": 16, "first_wait": 0.02, "deadline": 30.0, "silence": 20.0, "key": SECRET} | how
    return OpenAICaptioner("some/Model-7B", TASK, url, **how)


def answers_of(captioner, asked):
    return {answer.id: answer for answer in captioner.captions(iter(asked))}


def one_line_fault(error):
    line = str(error.value)
    assert "\n" not in line and SECRET not in line and len(line) < 700
    return line


# ---- every captioner

FAKE_VLLM = '''
"""What of vllm is used: LLM, SamplingParams, RequestOutput."""
import base64, hashlib, json
from types import SimpleNamespace
LOADED, CHATS, LEFT = [], [], []
class SamplingParams:
    def __init__(self, *, temperature=1.0, seed=None, max_tokens=16):
        self.temperature, self.seed, self.max_tokens = temperature, seed, max_tokens
class LLM:
    def __init__(self, model, *, limit_mm_per_prompt, mm_processor_kwargs, max_model_len, tensor_parallel_size, seed):
        if "broken" in model:
            raise RuntimeError("Engine core initialization failed.\\nSee root cause above.")
        LOADED.append(dict(model=model, images=limit_mm_per_prompt["image"], pixels=mm_processor_kwargs["max_pixels"],
                           length=max_model_len, cards=tensor_parallel_size, seed=seed))
    def chat(self, messages, sampling_params=None, use_tqdm=True):
        CHATS.append((len(messages), sampling_params))
        said = [self._one(talk, sampling_params) for talk in messages]
        return LEFT + said
    def _one(self, talk, params):
        picture, text = talk[0]["content"]
        head, _, data = picture["image_url"]["url"].partition(",")
        assert head == "data:image/jpeg;base64" and text["text"]
        jpeg = base64.b64decode(data)
        if b"poison" in jpeg:
            raise ValueError("cannot identify image")
        if b"crash" in jpeg:
            raise RuntimeError("EngineCore died")
        text, finish = "A man under the mark " + hashlib.sha256(jpeg).hexdigest()[:20] + ".", "stop"
        if b"cut" in jpeg and params.temperature == 0:
            text, finish = "A man under", "length"
        return SimpleNamespace(outputs=[SimpleNamespace(text=text, finish_reason=finish)])
'''


@pytest.fixture
def fake_vllm(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "vllm.py").write_text(FAKE_VLLM)
    monkeypatch.syspath_prepend(folder)
    for name in ("VLLM_LOGGING_STREAM", "VLLM_NO_USAGE_STATS"):
        monkeypatch.setenv(name, "")  # put back afterwards
    yield lambda: sys.modules["vllm"]
    sys.modules.pop("vllm", None)


@pytest.fixture
def opened(tmp_path, fake_vllm, monkeypatch):
    """A registered captioner by name, with what it needs."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    rows = [json.dumps({"id": f"{n}.jpg", "caption": f"A caption under the mark {n}."}) for n in range(200)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    with FakeCaptionServer() as server:

        def open_(name, **options):
            config = PreprocessConfig(caption_url=server.url, caption_file=str(tmp_path / "rows.jsonl"))
            return registry.find("captioners", name)(config, RunOptions(**options))

        yield open_


@pytest.mark.parametrize("name", list(registry.BUILT_IN["captioners"]))
def test_contract(opened, name):
    captioner = opened(name, caption_concurrency=4)
    assert isinstance(captioner, Captioner) and captioner.name.startswith(name)
    assert captioner.looks == (name in ("vllm", "openai"))
    asked = requests(150)
    answers = list(captioner.captions(iter(asked)))
    assert sorted(a.id for a in answers) == sorted(r.id for r in asked)
    assert all(isinstance(a, CaptionAnswer) and a.problem == "" for a in answers)
    assert list(captioner.captions([])) == []


@pytest.mark.parametrize("name", list(registry.BUILT_IN["captioners"]))
def test_requests_are_drawn_late_and_an_early_end_is_fine(opened, name):
    drawn = []
    stream = opened(name, caption_concurrency=4).captions(drawn.append(r.id) or r for r in requests(150))
    next(stream)
    assert len(drawn) <= (64 if name == "vllm" else 6)
    stream.close()
    assert len(drawn) <= (64 if name == "vllm" else 6)


def test_a_failing_source_ends_the_stream(opened):
    def source():
        yield from requests(3)
        raise EnvironmentFault("has changed")

    with pytest.raises(EnvironmentFault, match="has changed"):
        list(opened("openai").captions(source()))
    assert not [t for t in threading.enumerate() if t.name == "captions"]


# ---- openai


def test_a_flaky_server_and_every_caption_is_of_its_own_picture():
    asked = requests(300)
    with FakeCaptionServer("flaky") as server:
        answers = answers_of(openai_captioner(server.url), asked)
    assert len(answers) == 300 and len(server.asked) > 380  # three in ten were asked again
    for request in asked:
        assert mark(request.jpeg) in answers[request.id].text and answers[request.id].problem == ""


def test_memory_is_flat_and_no_more_requests_than_allowed_are_under_way():
    alive, most = weakref.WeakSet(), []

    def source():
        for n in range(80):
            request = CaptionRequest(str(n), jpeg_of(n) + bytes(100_000), 1)
            alive.add(request)
            most.append(len(alive))
            yield request

    def slow(seen, times, body):
        time.sleep(0.02)
        return good(seen, times, body)

    with FakeCaptionServer(slow) as server:
        assert len(list(openai_captioner(server.url, concurrency=5).captions(source()))) == 80
    assert 2 <= server.most_at_once <= 5
    assert max(most) <= 5 + 3  # and those just finished


def test_what_is_sent(monkeypatch):
    with FakeCaptionServer() as server:
        answers_of(openai_captioner(server.url), requests(1))
    _, _, body, headers = server.asked[0]
    assert body["model"] == "some/Model-7B" and body["temperature"] == 0 and body["seed"] == 0
    assert 120 < body["max_tokens"] <= 400 and not body.get("stream")
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "text"]
    assert {k.lower(): v for k, v in headers.items()}["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("count", [40, 2])
def test_a_dead_server(count, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    config, began = PreprocessConfig(caption_url=dead_url()), time.monotonic()
    captioner = registry.find("captioners", "openai")(config, RunOptions())
    with pytest.raises(EnvironmentFault, match="the caption server does not answer") as error:
        list(captioner.captions(requests(count)))
    assert time.monotonic() - began < 30
    assert captioner.silence < 55  # a hung one is left in a minute, too
    line = one_line_fault(error)
    assert "vllm serve Qwen/Qwen2.5-VL-72B-Instruct --host 127.0.0.1 --limit-mm-per-prompt '{\"image\":1}' " in line
    assert "--mm-processor-kwargs '{\"max_pixels\":1048576}' --tensor-parallel-size " in line


@pytest.mark.parametrize("mode", ["drip", "hang"])
@pytest.mark.parametrize("how", [dict(deadline=0.7), dict(silence=1.0), dict(deadline=0.7, concurrency=1)])
def test_a_hung_server(mode, how):
    began = time.monotonic()
    with FakeCaptionServer(mode) as server, pytest.raises(EnvironmentFault, match="does not answer") as error:
        list(openai_captioner(server.url, **how).captions(requests(12 if "concurrency" not in how else 2)))
    one_line_fault(error)
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_a_wrong_key_or_model_stops_at_once(status):
    with FakeCaptionServer(status) as server, pytest.raises(EnvironmentFault, match=rf"\({status}\)") as error:
        list(openai_captioner(server.url).captions(requests(100)))
    assert len(server.asked) <= 16 and max(server.times.values()) == 1
    assert ("--caption-model" if status == "404" else "OPENAI_API_KEY") in one_line_fault(error)


def test_an_empty_account_stops_at_once():
    spent = failure(429, code="insufficient_quota")
    with FakeCaptionServer(lambda *_: spent) as server, pytest.raises(EnvironmentFault, match="nothing left to spend"):
        list(openai_captioner(server.url).captions(requests(20)))


@pytest.mark.parametrize(
    ("mode", "problem", "times"), [("cut", "cut", 2), ("blank", "blank", 2), ("refusal", "refused", 1)]
)
def test_a_bad_caption_is_never_given_as_one(mode, problem, times):
    with FakeCaptionServer(mode) as server:
        answers = answers_of(openai_captioner(server.url), requests(5))
    assert [(a.text, a.problem) for a in answers.values()] == [("", problem)] * 5
    assert set(server.times.values()) == {times}


def test_what_was_cut_is_asked_again_with_another_draw():
    seeds = []

    def first_cut(seen, times, body):
        seeds.append(body["seed"])
        return completion("Two people and", "length") if times == 1 else good(seen, times, body)

    with FakeCaptionServer(first_cut) as server:
        (answer,) = answers_of(openai_captioner(server.url), requests(1)).values()
    assert mark(jpeg_of(0)) in answer.text and seeds == [0, 1]


def test_control_characters_are_gone():
    with FakeCaptionServer("control_chars") as server:
        answers = answers_of(openai_captioner(server.url), requests(3))
    assert answers["1"].text == f"Two people under the mark {mark(jpeg_of(1))}."


def test_retry_after_is_obeyed():
    with FakeCaptionServer(lambda *a: good(*a) if a[1] > 1 else failure(429, headers={"Retry-After": "1"})) as server:
        answers_of(openai_captioner(server.url, silence=0.5), requests(1))  # being told to wait is no silence
    assert server.asked[1][1] - server.asked[0][1] >= 1.0


@pytest.mark.parametrize("told", ["nonsense", "-5", "nan", "inf", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_senseless_retry_after_is_none(told):
    with FakeCaptionServer(lambda *a: good(*a) if a[1] > 1 else failure(503, headers={"Retry-After": told})) as server:
        answers_of(openai_captioner(server.url), requests(1))
    assert server.asked[1][1] - server.asked[0][1] < 2.0


def test_a_server_that_dies_leaves_the_rest_to_the_next_run():
    asked, answered, lock = requests(60), [], threading.Lock()

    def mortal(seen, times, body):
        with lock:
            answered.append(seen)
            return good(seen, times, body) if len(answered) <= 25 else "drop"

    kept = {}
    with FakeCaptionServer(mortal) as server, pytest.raises(EnvironmentFault, match="does not answer"):
        for answer in openai_captioner(server.url, first_wait=0.001).captions(asked):
            kept[answer.id] = answer
    assert len(kept) == 25 and all(a.problem == "" for a in kept.values())
    with FakeCaptionServer() as server:
        rest = answers_of(openai_captioner(server.url), [r for r in asked if r.id not in kept])
    assert len(kept | rest) == 60 and all(mark(r.jpeg) in (kept | rest)[r.id].text for r in asked)


@pytest.mark.parametrize("status", [400, 500])
def test_one_picture_that_the_server_cannot_take(status):
    bad = mark(jpeg_of(7))
    with FakeCaptionServer(lambda *a: failure(status, "cannot take it") if a[0] == bad else good(*a)) as server:
        answers = answers_of(openai_captioner(server.url, first_wait=0.001), requests(30))
    assert answers["7"] == CaptionAnswer("7", "", f"{status} cannot take it")
    assert sum(bool(a.problem) for a in answers.values()) == 1
    assert server.times[bad] == (1 if status == 400 else 10)


def test_a_server_that_refuses_every_picture():
    with FakeCaptionServer("400") as server, pytest.raises(EnvironmentFault, match="does not answer .400") as error:
        list(openai_captioner(server.url).captions(requests(30)))
    assert "***" in one_line_fault(error)  # it quoted the key


def test_closing_early_ends_what_is_under_way():
    first = mark(jpeg_of(0))
    with FakeCaptionServer(lambda *a: good(*a) if a[0] == first else "hang") as server:
        stream = openai_captioner(server.url).captions(requests(10))
        assert next(stream).id == "0"
        while server.at_once < 9:
            time.sleep(0.01)
        began = time.monotonic()
        stream.close()
        assert time.monotonic() - began < 2
        while server.at_once and time.monotonic() - began < 3:
            time.sleep(0.02)
        assert server.at_once == 0
    assert not [t for t in threading.enumerate() if t.name == "captions"]


BODIES = [b"", b"<html>hello</html>", b"null", b"[]", b'{"choices": []}', b'{"choices": [{"message": null}]}',
          b'{"choices": [{"message": {"content": [1]}}]}', b'{"error": "busy"}', b"\xff\xfe", b"[" * 100_000]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_reply_that_is_no_completion(body):
    with FakeCaptionServer(lambda *a: (200, {}, body)) as server:
        (answer,) = answers_of(openai_captioner(server.url, first_wait=0.0001), requests(1)).values()
    assert answer == CaptionAnswer("0", "", "a reply that is no chat completion")


@pytest.mark.parametrize(
    ("mode", "said"), [("half", "peer closed"), ("drop", "disconnected"), ("endless", "an endless reply")]
)
def test_a_reply_without_end(mode, said):
    with FakeCaptionServer(mode) as server, pytest.raises(EnvironmentFault, match=f"answer .*{said}") as error:
        list(openai_captioner(server.url, first_wait=0.0001).captions(requests(12)))
    one_line_fault(error)


def test_redirects_are_not_followed():
    with FakeCaptionServer() as elsewhere:
        there = {"Location": f"{elsewhere.url}/chat/completions"}
        with FakeCaptionServer(lambda *a: (307, there, b"")) as server:
            (answer,) = answers_of(openai_captioner(server.url), requests(1)).values()
    assert answer.problem.startswith("307") and elsewhere.asked == []


@pytest.mark.parametrize(
    ("url", "said"),
    [(None, "needs the address"), ("127.0.0.1:8000", "is no address"), ("ftp://host/v1", "is no address"),
     ("http://", "is no address"), ("http://[::1/v1", "is no address"), ("http://me:pw@host/v1", "holds a secret"),
     ("http://host:99999/v1", "is no address")],
)  # fmt: skip
def test_addresses_that_are_none(url, said, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InputError, match=said) as error:
        registry.find("captioners", "openai")(PreprocessConfig(caption_url=url), RunOptions())
    assert "pw" not in str(error.value) and "--caption-url" in str(error.value)


def test_the_environment_names_address_and_key(monkeypatch):
    with FakeCaptionServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
        monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}\n")
        monkeypatch.setenv("HTTP_PROXY", dead_url())  # of no concern to a server on this machine
        captioner = registry.find("captioners", "openai")(PreprocessConfig(), RunOptions())
        answers_of(captioner, requests(1))
    assert SECRET in str(server.asked[0][3]) and SECRET not in repr(captioner)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-é")
    with pytest.raises(EnvironmentFault, match="OPENAI_API_KEY"):
        registry.find("captioners", "openai")(PreprocessConfig(), RunOptions())


def test_without_the_package(tmp_path):
    (tmp_path / "openai.py").write_text("raise ImportError")
    code = (
        "from anyphoto_cli.preprocess.captioners.openai import open_captioner\n"
        "from anyphoto_cli.config.preprocess import PreprocessConfig as P, RunOptions as R\n"
        "try: open_captioner(P(caption_url='http://127.0.0.1/v1'), R())\nexcept Exception as e: print(type(e).__name__, e)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                         env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])})  # fmt: skip
    assert run.stdout.strip() == (
        "EnvironmentFault captioner openai needs the openai package. Run: pip install 'anyphoto[caption]'"
    ), run.stderr


# ---- a real model class behind the protocol

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>"]  # fmt: skip


class TinyQwen:
    """Qwen2.5-VL's classes at 0.1 M random weights: its tokenizer, its image processor (PIL's), its model."""

    def __init__(self):
        import torch
        from tokenizers.pre_tokenizers import ByteLevel
        from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        vocab = {token: n for n, token in enumerate([*sorted(ByteLevel.alphabet()), *SPECIAL])}
        self.tokenizer = Qwen2Tokenizer(vocab, [], eos_token="<|im_end|>", additional_special_tokens=SPECIAL[1:])
        self.processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112})
        text = dict(
            vocab_size=len(vocab), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, bos_token_id=vocab[SPECIAL[0]], eos_token_id=vocab[SPECIAL[2]],
            pad_token_id=vocab[SPECIAL[0]], max_position_embeddings=4096,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        )  # fmt: skip
        vision = dict(depth=2, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=32, window_size=56,
                      fullatt_block_indexes=[1])  # fmt: skip
        self.pad = vocab["<|image_pad|>"]
        config = Qwen2_5_VLConfig(
            text_config=text, vision_config=vision, image_token_id=self.pad, video_token_id=vocab["<|video_pad|>"],
            vision_start_token_id=vocab["<|vision_start|>"], vision_end_token_id=vocab["<|vision_end|>"],
        )  # fmt: skip
        torch.manual_seed(0)
        self.model = Qwen2_5_VLForConditionalGeneration(config).eval()

    def answer(self, body):
        """A chat completion's body -> a sentence of what went into the model and what came out of it."""
        import base64

        import torch

        picture, text = body["messages"][0]["content"]
        image = Image.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].partition(",")[2])))
        pixels = self.processor(images=[image], return_tensors="pt")
        pads = "<|image_pad|>" * (int(pixels["image_grid_thw"].prod()) // 4)
        prompt = (
            f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>{text['text']}<|im_end|>\n<|im_start|>assistant\n"
        )
        tokens = self.tokenizer(prompt, return_tensors="pt")
        inputs = {**tokens, **pixels, "mm_token_type_ids": (tokens["input_ids"] == self.pad).long()}
        with torch.inference_mode():
            logits = self.model(**inputs).logits[0, -1]
            new = self.model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, tokens["input_ids"].shape[1] :]
        into = hashlib.sha256(pixels["pixel_values"].numpy().tobytes()).hexdigest()[:16]
        out = hashlib.sha256(logits.numpy().tobytes()).hexdigest()[:16]
        return f"The picture {into} gives the logits {out} and the tokens {'-'.join(map(str, new.tolist()))}."


def drawn_jpeg(seed):
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (6, 5, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((100, 120)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_tiny_qwen_behind_the_protocol_sees_each_picture():
    qwen, lock = TinyQwen(), threading.Lock()
    asked = [CaptionRequest(str(n), drawn_jpeg(n % 3), 1) for n in range(6)]

    def look(seen, times, body):
        with lock:
            return completion(qwen.answer(body))

    with FakeCaptionServer(look) as server:
        answers = answers_of(openai_captioner(server.url, concurrency=3, deadline=120, silence=60), asked)
    assert all(a.problem == "" and a.text.count("-") >= 1 for a in answers.values())
    words = [answers[str(n)].text.split() for n in range(6)]
    for place in (2, 6):  # pixels into the model, logits out of it
        assert len({w[place] for w in words[:3]}) == 3
        assert [w[place] for w in words[:3]] == [w[place] for w in words[3:]]
    assert qwen.answer(server.asked[0][2]).split()[2] in {w[2] for w in words}


# ---- vllm


def vllm_captioner(model="some/Model-7B"):
    config = PreprocessConfig(caption_model=model)
    return registry.find("captioners", "vllm")(config, RunOptions())


def test_vllm_in_batches_and_every_caption_is_of_its_own_picture(fake_vllm):
    asked = requests(130)
    answers = list(vllm_captioner().captions(asked))
    assert [a.id for a in answers] == [r.id for r in asked]
    assert all(mark(r.jpeg) in a.text for r, a in zip(asked, answers, strict=True))
    vllm = fake_vllm()
    assert [count for count, _ in vllm.CHATS] == [64, 64, 2]
    (loaded,) = vllm.LOADED
    assert loaded == dict(model="some/Model-7B", images=1, pixels=1048576, length=4096, cards=1, seed=0)
    assert (vllm.CHATS[0][1].temperature, vllm.CHATS[0][1].seed, vllm.CHATS[0][1].max_tokens) == (0.0, 0, 304)
    assert os.environ["VLLM_LOGGING_STREAM"] == ""  # what the user set stays


def test_vllm_asks_again_what_was_cut_and_finds_the_picture_it_cannot_take(fake_vllm):
    asked = requests(6)
    asked[2] = CaptionRequest("2", b"cut", 1)
    asked[4] = CaptionRequest("4", b"poison", 1)
    answers = list(vllm_captioner().captions(asked))
    assert [a.id for a in answers] == list("012345")
    assert mark(b"cut") in answers[2].text
    assert answers[4] == CaptionAnswer("4", "", "ValueError: cannot identify image")
    assert [bool(a.problem) for a in answers] == [False] * 4 + [True, False]


def test_vllm_that_fails_is_one_line(fake_vllm):
    for model, jpeg, said in [
        ("a/broken-72B", b"x", "cannot load a/broken-72B .RuntimeError: Engine core initialization failed"),
        ("m", b"crash", "has failed .RuntimeError: EngineCore died"),
        ("m", b"poison", "takes none of the pictures"),
    ]:
        with pytest.raises(EnvironmentFault, match=said) as error:
            list(vllm_captioner(model).captions([CaptionRequest("0", jpeg, 1), CaptionRequest("1", jpeg, 1)]))
        remedy = "name another --caption-model" if "load" in said else "--captioner openai --caption-url"
        assert remedy in one_line_fault(error)


def test_vllm_with_answers_left_over_stops_before_it_mixes_them(fake_vllm):
    captioner = vllm_captioner()
    list(captioner.captions(requests(1)))
    fake_vllm().LEFT.append(None)
    with pytest.raises(EnvironmentFault, match="2 answers to 1 pictures"):
        list(captioner.captions(requests(1)))


def test_without_vllm():
    from importlib.util import find_spec

    if find_spec("vllm"):
        pytest.skip("vLLM is installed here")
    with pytest.raises(EnvironmentFault, match="captioner vllm: vLLM is not installed") as error:
        vllm_captioner("Qwen/Qwen2.5-VL-7B-Instruct")
    line = one_line_fault(error)
    assert "pip install vllm" in line and "vllm serve Qwen/Qwen2.5-VL-7B-Instruct --host 127.0.0.1" in line


def test_a_vllm_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "vllm.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvironmentFault, match="libcudart") as error:
        list(vllm_captioner().captions(requests(1)))
    one_line_fault(error)


# ---- what is asked, what is an answer


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Sure, here is the caption: Two men shake hands.", "Two men shake hands."),
        ("Certainly! Here's a detailed caption for the image:\n\n\"Two men shake hands.\"", "Two men shake hands."),
        ("**Caption:** Two *men* shake `hands`.", "Two men shake hands."),
        ("## Caption: “A woman's hat.”", "A woman's hat."),
        ("```text\nTwo men.\n```", "Two men."),
        ("- Two men.\n- A dog.", "Two men. A dog."),
        ("Two men. Let me know if you need anything else!", "Two men."),
        ("<think>They look alike.</think>\nTwo men.<|im_end|>", "Two men."),
        ("\x1b]0;title\x07Two \x9b31mmen\u2066.\u2069 \ud800", "Two men."),
        ("Great Wall of China, two women in front of it.", "Great Wall of China, two women in front of it."),
        ("This is a photo with a sign that reads: caption this.", "This is a photo with a sign that reads: caption this."),
        ("A man said \"no\" to a \"yes\".", "A man said \"no\" to a \"yes\"."),
        ("Ein Café, 3*4 = 12.", "Ein Café, 3*4 = 12."),
    ],
)  # fmt: skip
def test_clean(said, kept):
    assert clean(said) == kept


def test_blank_lines_without_end_are_cleaned_at_once():
    began = time.process_time()
    assert clean("\n" * 20_000 + "Two men.") == "Two men."
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("said", "finish", "problem"),
    [
        ("Two men shake hands.", "stop", ""),
        ("Two men shake hands.", None, ""),
        ('A sign says "I can\'t stop", two men laugh.', "stop", ""),
        ("Two men look sorry.", "stop", ""),
        ("Two men shake", "length", "cut"),
        ("Two men shake", "abort", "cut"),
        ("Two men", "content_filter", "refused"),
        ("I’m sorry, but I can’t assist with that.", "stop", "refused"),
        ("Sure! However, I cannot identify the people in this image.", "stop", "refused"),
        ("As an AI language model I do not see pictures.", "stop", "refused"),
        ("抱歉，我无法识别图片中的人物。", "stop", "refused"),
        ("两个男人在握手。", "stop", "not in English"),
        ("", "stop", "blank"),
        ("...\u200b", "length", "blank"),
        ("<think>Let me see", "length", "blank"),
        ("word " * 121, "stop", "too long"),
        ("`" * 40_000, "stop", "too long"),  # at once
    ],
)
def test_judge(said, finish, problem):
    text, found = TASK.judge(said, finish)
    assert found == problem and bool(text) == (problem == "")


def test_a_refusal_field_is_a_refusal():
    with FakeCaptionServer(lambda *a: completion(None, refusal="I will not")) as server:
        (answer,) = answers_of(openai_captioner(server.url), requests(1)).values()
    assert answer == CaptionAnswer("0", "", "refused")


def test_the_prompt(tmp_path):
    own = tmp_path / "prompt.txt"
    task = CaptionTask.of(PreprocessConfig(caption_words=77))
    assert "at most 77 words" in task.prompt and "{" not in task.prompt
    assert all(word in task.prompt for word in ("clothes", "place", "style", "Never a name"))
    own.write_text("Say {it} in {words} words.")
    assert CaptionTask.of(PreprocessConfig(caption_prompt=str(own))).prompt == "Say {it} in 120 words."
    for content in (b" \n", b"\xff\xfe\x00"):
        own.write_bytes(content)
        with pytest.raises(InputError, match=r"prompt\.txt: caption_prompt: "):
            CaptionTask.of(PreprocessConfig(caption_prompt=str(own)))
    with pytest.raises(InputError, match="cannot be read"):
        CaptionTask.of(PreprocessConfig(caption_prompt=str(tmp_path)))


def test_the_serve_line_fits_the_model():
    import torch

    if torch.cuda.device_count():
        pytest.skip("counts this machine's cards")
    for model, cards in [("Qwen/Qwen2.5-VL-72B-Instruct", 4), ("Qwen/Qwen2.5-VL-32B-Instruct", 2), ("my model", 1)]:
        assert serve_line(model).endswith(f"--tensor-parallel-size {cards}")
    assert serve_line("my model").startswith("vllm serve 'my model' --host 127.0.0.1 ")


# ---- without a model


def test_template_counts_and_a_given_caption_wins(opened):
    def said(people, given=""):
        (answer,) = opened("template").captions([CaptionRequest("0", b"", people, given)])
        return answer.text

    assert [said(n) for n in (0, 1, 3, 13)] == [
        "A photo.", "A photo of one person.", "A photo of three people.", "A photo of 13 people.",
    ]  # fmt: skip
    assert said(3, " Three \x1b[1mfriends\x1b[0m\non a beach. ") == "Three friends on a beach."
    assert said(3, " \u200b\n") == "A photo of three people."


def file_captioner(file):
    return registry.find("captioners", "file")(PreprocessConfig(caption_file=str(file)), RunOptions())


def write_rows(file, rows):
    if file.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        file.write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)) + "\n")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_file(tmp_path, name):
    rows = [{"id": "a/1.jpg", "path": None, "caption": "One \u202eman."}, {"id": None, "path": "./b.jpg", "caption": "Two."},
            {"id": "c.jpg", "path": None, "caption": ""}, {"id": "a/1.jpg", "path": None, "caption": "One man."}]  # fmt: skip
    write_rows(tmp_path / name, rows)
    captioner = file_captioner(tmp_path / name)
    asked = [
        CaptionRequest(str(n), b"", 1, "", source) for n, source in enumerate(["a/1.jpg", "b.jpg", "c.jpg", "d.jpg"])
    ]
    answers = [(a.text, a.problem) for a in captioner.captions(asked)]
    assert answers == [("One man.", ""), ("Two.", ""), ("", "blank"), ("", f"not in {name}")]
    assert captioner.name == f"file:{name}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"id": "a", "caption": "x"}\nnonsense\n', "rows.jsonl: row 2: is no JSON object"),
        ('{"id": "a", "caption": "x"}\n\n[1]\n', "rows.jsonl: row 3: is no JSON object"),
        ('{"id": "a"}', "rows.jsonl: row 1: has no id and caption"),
        ('{"id": 7, "caption": "x"}', "rows.jsonl: row 1: has no id and caption"),
        ('{"id": "a", "caption": "x"}\n{"id": "a", "caption": "y"}', "rows.jsonl: row 2: 'a' has another caption above"),
        ("[" * 100_000, "rows.jsonl: row 1: is no JSON object"),
        (b'{"id": "a", "caption": "x"}\n\xff\xfe', "rows.jsonl: row 2: is no JSON object"),
    ],
)  # fmt: skip
def test_a_bad_file_names_its_row(tmp_path, content, said):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        file_captioner(file)
    assert said in one_line_fault(error)


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    for file, said in [(tmp_path / "x.parquet", "cannot be read"), (tmp_path / "gone.jsonl", "No such file")]:
        with pytest.raises(InputError, match=said) as error:
            file_captioner(file)
        one_line_fault(error)
    write_rows(tmp_path / "y.parquet", [{"name": "a", "text": "b"}])
    with pytest.raises(InputError, match="row 1: has no id and caption"):
        file_captioner(tmp_path / "y.parquet")
    with pytest.raises(InputError, match="--caption-file"):
        registry.find("captioners", "file")(PreprocessConfig(), RunOptions())
