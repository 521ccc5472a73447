"""`tiny-random`: a FLUX of 160 thousand random numbers, made of the real classes, tokenizers included.

It lets every line of the real path run in a second on a CPU. It has learnt nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

_WORDS = [
    "a",
    "an",
    "and",
    "of",
    "on",
    "in",
    "at",
    "with",
    "two",
    "three",
    "four",
    "people",
    "men",
    "women",
    "friends",
    "photo",
    "portrait",
    "standing",
    "park",
    "beach",
]


def build_tiny_random(folder: Path) -> None:
    """Write a diffusers FLUX folder; the same numbers on every machine."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxPipeline,
        FluxTransformer2DModel,
    )

    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(20260316)
        tokenizer, text_encoder = _clip()
        tokenizer_2, text_encoder_2 = _t5()
        transformer = FluxTransformer2DModel(
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        )
        vae = AutoencoderKL(
            latent_channels=16,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            sample_size=1024,
        )
        scheduler = FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, max_image_seq_len=4096
        )
    finally:
        torch.random.set_rng_state(state)
    for encoder in (text_encoder, text_encoder_2):
        # In a process group transformers saves on rank 0 only, but here the first to come builds, each on its disk.
        encoder.should_save_on_this_rank = lambda is_main_process: is_main_process
    pipeline = FluxPipeline(scheduler, vae, text_encoder, tokenizer, text_encoder_2, tokenizer_2, transformer)
    pipeline.save_pretrained(folder)


def _clip() -> tuple[Any, Any]:
    """Bytes, and a few whole words so that merges are exercised."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    alphabet = _byte_alphabet()
    tokens = alphabet + [character + "</w>" for character in alphabet]
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        left = word[0]
        for i, character in enumerate(word[1:], 2):
            pair = (left, character + ("</w>" if i == len(word) else ""))
            left = "".join(pair)
            if pair not in merges:
                merges.append(pair)
                tokens.append(left)
    vocabulary = {token: i for i, token in enumerate([*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        projection_dim=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, CLIPTextModel(config).eval()


def _t5() -> tuple[Any, Any]:
    """A unigram of a few words and single letters."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary += [(f"▁{word}", -3.0) for word in _WORDS] + [(chr(c), -6.0) for c in range(33, 127)]
    tokenizer = T5Tokenizer(vocab=list(dict(vocabulary).items()), extra_ids=0, model_max_length=512)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return tokenizer, T5EncoderModel(config).eval()


def _byte_alphabet() -> list[str]:
    """A printable character for each of the 256 bytes, as byte-level BPE has it."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    stand_ins = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256)]
