"""Small models on an Apple GPU that is not there: prints, as JSON, what each case asked of it that MPS has not.

Run by test_no_mac.py in a process of its own: the device is summoned before torch is imported.
"""

import json
import sys
import traceback
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from unittest import mock

from benchmarks import no_card

no_card.summon(mac=True)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensor, FakeTensorMode  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from anyphoto_cli.config.method import MethodConfig  # noqa: E402
from anyphoto_cli.config.train import TrainConfig  # noqa: E402
from anyphoto_cli.faces.recogniser_torch import load_recogniser  # noqa: E402
from anyphoto_cli.mini.shipped import face_pack_folder  # noqa: E402
from anyphoto_cli.model import bases, memory  # noqa: E402
from anyphoto_cli.model.latent_preview import LatentPreview  # noqa: E402
from anyphoto_cli.model.pipeline import AnyPhotoPipeline  # noqa: E402
from anyphoto_cli.model.vae import decode, encode, to_pixels  # noqa: E402
from anyphoto_cli.train import metrics  # noqa: E402
from anyphoto_cli.train.distributed import Ranks  # noqa: E402
from anyphoto_cli.train.frozen import Parts  # noqa: E402
from anyphoto_cli.train.metrics import Meter  # noqa: E402
from anyphoto_cli.train.models import TEXT  # noqa: E402
from anyphoto_cli.train.objective import objective  # noqa: E402
from anyphoto_cli.train.optimiser import Optimiser, trained_parameters  # noqa: E402
from anyphoto_cli.train.text import LiveText  # noqa: E402
from benchmarks.fake_card import MOVING, Card  # noqa: E402
from benchmarks.models import as_rendered, random_example  # noqa: E402
from tests.model.mps_table import lacking  # noqa: E402
from tests.model.test_pipeline import FACES, SMALL  # noqa: E402

MINI = bases.resolve_base("mini")
MAC, HOST = torch.device("mps", 0), torch.device("cpu")
NO_SUCH_NUMBERS = {torch.float64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2}
"""What Metal has not."""


class Mac(Card):
    """missing: what was asked of the device that it has not. asked: all operators, by name."""

    kind = "mps"

    def __init__(self, fakes):
        super().__init__(fakes)
        self.missing, self.asked = {}, set()

    def __torch_dispatch__(self, function, types, given=(), named=None):
        if function.namespace == "prim":  # asks for a tensor's device
            return super().__torch_dispatch__(function, types, given, named)
        self._note(function, given, named)
        out = super().__torch_dispatch__(function, types, given, named)
        self._note(function, out)
        return out

    def told(self):
        """[missing, with the line that asked, all that was asked]."""
        return [self.missing, sorted(self.asked)]

    def _note(self, function, *tensors):
        there = [one for one in tree_leaves(tensors) if isinstance(one, FakeTensor) and one.device.type == "mps"]
        if not there:
            return
        self.asked.add(function.name())
        numbers = [str(one.dtype) for one in there if one.dtype in NO_SUCH_NUMBERS]
        if why := lacking(function) or (numbers and f"{numbers[0]} by {function.name()}"):
            self.missing.setdefault(why, _whose())


def _whose():
    """Line of the innermost file that is ours, or of a model's library."""
    for frame in reversed(traceback.extract_stack()):
        if any(f"/{name}/" in frame.filename for name in ("anyphoto_cli", "diffusers", "transformers", "peft")):
            return f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
    return ""


def _attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """torch's choice on MPS, which its build for CPUs cannot make."""
    if q.device.type != "mps":
        return torch._C._nn.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p, is_causal, scale=scale)
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    math = "_scaled_dot_product_attention_math" + ("" if learns else "_for_mps")
    return getattr(torch.ops.aten, math)(q, k, v, attn_mask, dropout_p, is_causal, scale=scale)[0]


THERE = [(F, "scaled_dot_product_attention", _attention), (torch.mps, "empty_cache", lambda: None)]


@contextmanager
def mac():
    """Within, "mps" is a device."""
    with ExitStack() as stack:
        for whose, name, stand_in in [*MOVING, *THERE]:
            stack.enter_context(mock.patch.object(whose, name, stand_in, create=whose is FakeTensor))
        fakes = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(Mac(fakes))


def with_adapter(pipeline):
    add_fresh(pipeline)
    as_rendered(pipeline.transformer)


def add_fresh(pipeline):
    pipeline.transformer.requires_grad_(False).add_anyphoto(MethodConfig(lora_rank=2))


def opened(there, base, mode="full", without=(), add_adapters=with_adapter):
    folder, apart = bases.base_folder(base), mode in ("hoisted", "group")
    how = (HOST, torch.bfloat16, "full") if apart else (MAC, torch.bfloat16, mode)
    pipeline = memory.open_pipeline(folder, AnyPhotoPipeline, *how, without, add_adapters=add_adapters)
    pipeline.set_progress_bar_config(disable=True)
    if apart:
        there.take_numbers(pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
        memory.place(pipeline, MAC, mode)
    return pipeline


def rendered(mode, attention, more):
    """A picture of two people, all of it."""
    with mac() as there:
        pipeline = opened(there, bases.TINY_RANDOM, mode)
        pipeline.transformer.attention = attention
        faces = [replace(face, strength=0.5) for face in FACES] if more.pop("weak", False) else FACES
        pictures = pipeline("two friends", faces=faces, **SMALL | {"output_type": "pt"} | more).images
        assert str(pictures.device) == "mps:0", pictures.device
        torch.isfinite(pictures).all()
        return there.told()


def decoded():
    """Latents of both kinds, pictures whole and in tiles, the preview's map."""
    with mac() as there:
        vae = opened(there, MINI, without=TEXT).vae
        pixels = to_pixels([np.zeros((128, 128, 3), np.uint8)] * 2, MAC)
        latents = encode(vae, pixels, "sample", torch.Generator().manual_seed(0)) + encode(vae, pixels)
        decode(vae, latents)
        vae.enable_tiling()
        vae.tile_sample_min_size, vae.tile_latent_min_size = 64, 8
        decode(vae, latents)
        with suppress(DynamicOutputShapeException):  # the map is fitted on the CPU, or it is told
            LatentPreview(vae, MAC, "mode")
    return there.told()


def trained(checkpointing=True, **loss):
    """A step, with all that is beside it."""
    with mac() as there, mock.patch.object(metrics, "memory_gb", lambda device: 0.0):
        pipeline = opened(there, MINI, add_adapters=add_fresh)
        config = TrainConfig(ema_decay=0.9, loss=loss, data={"shards": "none"}, output_dir="none")
        for model in (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
            model.requires_grad_(False)
        transformer = pipeline.transformer.train()
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        recogniser = load_recogniser(face_pack_folder() / "w_mini.onnx").to(MAC)
        text = LiveText(pipeline, config.method)
        parts = Parts(transformer, pipeline.vae, text, recogniser, MAC, torch.bfloat16, recompute=checkpointing)
        optimiser = Optimiser(trained_parameters(transformer), config)
        meter = Meter(config, Ranks(), transformer, MAC)
        examples = [random_example(256, people, np.random.default_rng(people)) for people in (1, 2)]
        terms = objective(examples, parts, config.loss, config.method, seed=0, step=0, rank=0)
        assert terms.valid == 3, terms.valid
        (terms.loss / 2).backward()
        meter.add(terms, examples)
        norm = optimiser.clip()
        optimiser.step(0)
        meter.line(1, norm, 0.1)
        optimiser.load_state(optimiser.state())
        with optimiser.averaged():
            pass
        return there.told()


def refused(what):
    """What no Apple GPU has."""
    with mac() as there, suppress(DynamicOutputShapeException):
        here = torch.ones(4, 4, device=MAC)
        {
            "float64": here.double, "from the host": lambda: torch.ones(2, dtype=torch.float64).to(MAC),
            "an operator": lambda: torch.linalg.eigvals(here), "one inside": lambda: torch.linalg.lstsq(here, here),
            "flash": lambda: torch.ops.aten._scaled_dot_product_flash_attention(*[here.expand(1, 1, 4, 4)] * 3),
            "nothing": lambda: (here @ here).softmax(0),
        }[what]()  # fmt: skip
    return there.told()


CASES = {"rendered": rendered, "decoded": decoded, "trained": trained, "refused": refused}


def outcome(name, *given):
    try:
        return CASES[name](*given)
    except Exception as error:
        if "-v" in sys.argv:
            traceback.print_exc()
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    print(json.dumps([outcome(*case) for case in json.loads(sys.argv[1])]))
