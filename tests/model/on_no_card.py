"""Small models, opened from their files, on a card that is not there: prints, as JSON, what each case came to.

Run by test_no_card.py in a process of its own: the card is summoned before torch is imported.
"""

import json
import sys
from contextlib import ExitStack, nullcontext

from benchmarks import no_card

no_card.summon()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from anyphoto_cli.config.method import MethodConfig  # noqa: E402
from anyphoto_cli.config.train import LossConfig  # noqa: E402
from anyphoto_cli.faces.recogniser_torch import load_recogniser  # noqa: E402
from anyphoto_cli.mini.shipped import face_pack_folder  # noqa: E402
from anyphoto_cli.model import bases, memory  # noqa: E402
from anyphoto_cli.model.pipeline import AnyPhotoPipeline  # noqa: E402
from anyphoto_cli.train.frozen import Parts  # noqa: E402
from anyphoto_cli.train.models import TEXT  # noqa: E402
from anyphoto_cli.train.objective import objective  # noqa: E402
from anyphoto_cli.train.sections import Sections  # noqa: E402
from benchmarks.fake_card import card  # noqa: E402
from benchmarks.models import Text, as_rendered, random_example  # noqa: E402
from tests.model.test_pipeline import FACES, SMALL  # noqa: E402

CARD, HOST = torch.device("cuda", 0), torch.device("cpu")


def with_adapter(pipeline):
    pipeline.transformer.add_anyphoto(MethodConfig(lora_rank=2))
    as_rendered(pipeline.transformer)


def rendered(mode):
    """[device, shape, KB on the card at most] of a picture of two people. Where weights come and go by their data, they
    are opened in main memory first, as `open_pipeline` has them, too.
    """
    with card() as there:
        folder, apart = bases.base_folder(bases.TINY_RANDOM), mode in ("hoisted", "group")
        how = (HOST, torch.bfloat16, "full") if apart else (CARD, torch.bfloat16, mode)
        pipeline = memory.open_pipeline(folder, AnyPhotoPipeline, *how, add_adapters=with_adapter)
        pipeline.set_progress_bar_config(disable=True)
        if apart:
            there.take_numbers(pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
            memory.place(pipeline, CARD, mode)
        there.begin()
        pictures = pipeline("two friends", faces=FACES, **SMALL | {"output_type": "pt"}).images
        return [str(pictures.device), list(pictures.shape), there.most // 1000]


def steps_of(guided):
    """All steps of a picture but the first, in which nothing may wait."""
    with card() as there, ExitStack() as inside:
        folder = bases.base_folder(bases.TINY_RANDOM)
        pipeline = memory.open_pipeline(folder, AnyPhotoPipeline, CARD, torch.bfloat16, "full", (), True, with_adapter)
        pipeline.set_progress_bar_config(disable=True)
        seen = []

        def after_a_step(_, number, __, state):
            seen.append(number)
            if number == 0:
                inside.enter_context(there.no_waiting())
            if number == 2:
                inside.close()
            return state

        more = {"true_cfg_scale": 2.0, "negative_prompt": "fog"} if guided else {}
        more |= {"num_inference_steps": 3, "output_type": "pt", "callback_on_step_end": after_a_step}
        pipeline("two friends", faces=FACES, **SMALL | more)
        return seen


def trained(waits):
    """Of two steps the second, in which masks and the like are there. [faces, whether all that learns is there]."""
    with card() as there:
        method, folder = MethodConfig(), bases.base_folder(bases.resolve_base("mini"))
        pipeline = memory.open_pipeline(folder, AnyPhotoPipeline, CARD, torch.bfloat16, "full", TEXT, offload=False)
        transformer, vae = pipeline.transformer.requires_grad_(False).train(), pipeline.vae.requires_grad_(False)
        transformer.add_anyphoto(method)
        recogniser = load_recogniser(face_pack_folder() / "w_mini.onnx").to(CARD)
        text = Text(CARD, 48, transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim)
        parts = Parts(transformer, vae, text, recogniser, CARD, torch.bfloat16)
        for step in range(2):
            examples = [random_example(256, people, np.random.default_rng(people)) for people in (2, 3)]
            told = dict(seed=0, step=step, rank=0, sections=Sections(HOST))
            with there.no_waiting() if step else nullcontext():
                terms = objective(examples, parts, LossConfig(), method, **told)
                if waits:
                    float(terms.flow)
            terms.loss.backward()
        return [terms.valid, all(p.grad.device == CARD for p in transformer.parameters() if p.requires_grad)]


def refused(what):
    """What no card would bear, or would have the host wait."""
    with card() as there, there.no_waiting():
        far, here = torch.ones(2, device=CARD), torch.ones(2)
        {
            "two devices": lambda: far + here, "a number": lambda: float(far.sum()), "to the host": far.cpu,
            "from ordinary memory": lambda: here.to(CARD), "into the card": lambda: far.copy_(here),
            "nothing": lambda: here.pin_memory().to(CARD, non_blocking=True) + far,
        }[what]()  # fmt: skip
        return "nothing"


CASES = {"rendered": rendered, "steps_of": steps_of, "trained": trained, "refused": refused}


def outcome(name, *given):
    try:
        return CASES[name](*given)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    print(json.dumps([outcome(*case) for case in json.loads(sys.argv[1])]))
