"""CLIP's and T5's classes at small width, with a vocabulary of the captions' words; they learn with the base."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

from anyphoto_cli.mini import captions
from anyphoto_cli.mini.identity import FRAMES, HAIR_COLOURS
from anyphoto_cli.mini.pen import Chance
from anyphoto_cli.mini.pose import CLOTHES, GARMENTS

LENGTH = 48
"""T5 tokens: the longest captions have about that many words."""
CLIP_LENGTH = 77
# Words that say nothing about these pictures: prompts contain such words, and the models learn to read past them.
FILLER = [
    "beautiful",
    "happy",
    "sunny",
    "nice",
    "lovely",
    "very",
    "really",
    "big",
    "small",
    "young",
    "old",
    "great",
    "quiet",
    "bright",
    "warm",
    "cold",
    "cheerful",
    "best",
    "good",
    "new",
    "little",
    "portrait",
    "scene",
    "image",
    "view",
    "day",
    "morning",
    "evening",
    "afternoon",
    "summer",
    "winter",
    "autumn",
    "spring",
    "holiday",
    "weekend",
    "family",
    "team",
    "couple",
    "neighbours",
    "students",
    "colleagues",
    "friend",
    "sisters",
    "brothers",
    "everyone",
    "with",
    "and",
    "some",
    "the",
    "this",
    "that",
    "is",
    "are",
    "has",
    "have",
    "having",
    "wearing",
    "holding",
    "sitting",
    "walking",
    "talking",
    "laughing",
    "standing",
    "next",
    "to",
    "near",
    "beside",
    "behind",
    "between",
    "around",
    "close",
    "detailed",
    "high",
    "quality",
    "sharp",
    "soft",
    "light",
    "colourful",
    "colorful",
    "fun",
    "vivid",
    "simple",
    "elegant",
    "famous",
    "colour",
    "color",
    "background",
    "sky",
    "cloud",
    "sun",
    "flower",
    "tree",
    "water",
    "house",
    "garden",
    "festival",
    "party",
    "picnic",
    "trip",
    "wall",
    "floor",
    "table",
    "chair",
    "coffee",
    "music",
    "dance",
    "face",
    "faces",
    "hair",
    "eyes",
    "mouth",
    "nose",
    "hand",
    "hands",
    "smile",
    "left",
    "right",
    "middle",
    "front",
    "back",
    "top",
    "bottom",
]


def words() -> list[str]:
    """Every word of the captions and the filler, in lower case and with a capital, sorted."""
    said: list[str] = [captions.NUMBERS[n] for n in captions.NUMBERS] + ["2", "3", "4", "one", "a", "an", "group", "of"]
    for pairs in captions.STYLE_WORDS.values():
        said += [half for pair in pairs for half in pair]
    for phrases in captions.SCENE_WORDS.values():
        said += phrases
    said += [*captions.STYLE_OF_HAIR.values(), *captions.STYLE_OF_BEARD.values()]
    said += [*HAIR_COLOURS, *FRAMES, *CLOTHES, *GARMENTS, *FILLER]
    said += [
        "people",
        "friends",
        "person",
        "man",
        "woman",
        "men",
        "women",
        "standing",
        "posing",
        "together",
        "looking",
        "at",
        "the",
        "camera",
        "smiling",
        "bald",
    ]
    said += ["with", "and", "in", "glasses", "sunglasses"]
    single = {word.strip(",{}") for phrase in said for word in phrase.split()} - {""}
    return sorted(single | {word.capitalize() for word in single if word[0].islower()})


def with_filler(caption: str, chance: Chance) -> str:
    """One caption in eight gets one to three words that mean nothing, known ones or letters in a row."""
    if not chance.happens(0.125):
        return caption
    said = caption.split()
    for _ in range(1 + chance.below(3)):
        letters = "".join(chance.pick("abcdefghijklmnopqrstuvwyz") for _ in range(3 + chance.below(5)))
        said.insert(chance.below(len(said) + 1), chance.pick(FILLER) if chance.happens(0.7) else letters)
    return " ".join(said)


def build_clip() -> tuple[Any, Any]:
    """(CLIPTokenizer, CLIPTextModel): whole words are one token, other text is spelt."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    alphabet = _byte_alphabet()
    merges = _merges(sorted({piece for word in words() for piece in word.lower().split("-")}))
    tokens = alphabet + [character + "</w>" for character in alphabet] + ["".join(pair) for pair in merges]
    vocabulary = {token: i for i, token in enumerate([*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_LENGTH)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=96, projection_dim=96, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=CLIP_LENGTH, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return tokenizer, CLIPTextModel(config)


def _merges(spelt: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, the most frequent pair first, until each of these words is one token."""
    parts = [[*word[:-1], word[-1] + "</w>"] for word in spelt]
    merges: list[tuple[str, str]] = []
    while any(len(word) > 1 for word in parts):
        counts = Counter(pair for word in parts for pair in pairwise(word))
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        parts = [_merged(word, best) for word in parts]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for part in word:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def build_t5() -> tuple[Any, Any]:
    """(T5Tokenizer, T5EncoderModel): a unigram of words, and single characters for the rest."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), (",", -2.0)]
    vocabulary += [(f"▁{word}", -3.0) for word in words()] + [(chr(c), -8.0) for c in range(33, 127) if c != ord(",")]
    tokenizer = T5Tokenizer(vocab=list(dict(vocabulary).items()), extra_ids=0, model_max_length=LENGTH)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=128, d_kv=32, d_ff=256, num_layers=3, num_heads=4,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    return tokenizer, T5EncoderModel(config)


def _byte_alphabet() -> list[str]:
    """A printable character for each of the 256 bytes, as byte-level BPE has it."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    stand_ins = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256)]
