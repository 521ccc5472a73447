"""Location-aligned token pruning: of each canvas only the tokens under the face are kept. Source: paper 3.2, Eq. 13-14.

Latents and positions are indexed with the same mask, so a location token always sits where its pixels are. All
location tokens share one leading RoPE index: noise (0, h, w), location (1, h, w), text (0, 0, 0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from anyphoto_cli.runtime.uploads import upload


@dataclass(frozen=True, eq=False)
class LocationTokens:
    """[E_1 | .. | E_N] of one picture, with who and where.

    tokens: [L, 64] packed latents. ids: [L, 3] float32 RoPE ids (bfloat16 is exact only up to 256). lengths:
    (n_1 .. n_N), each at least 1, summing to L. embeddings: [N, 512] unit length. strengths: of each, from 0; what the
    picture's look at the face is multiplied with before it is normalised; None: 1 for all, as in training.
    """

    tokens: Tensor
    ids: Tensor
    lengths: tuple[int, ...]
    embeddings: Tensor
    strengths: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError("every identity needs at least one location token")
        if not sum(self.lengths) == len(self.tokens) == len(self.ids) or len(self.lengths) != len(self.embeddings):
            raise ValueError("tokens, ids, lengths and embeddings disagree")
        if self.strengths is not None and (len(self.strengths) != len(self.lengths) or min(self.strengths) < 0):
            raise ValueError("there must be one strength, at least 0, for each identity")

    def dropped(self) -> LocationTokens:
        """Identity taken out: tokens and embeddings zeroed, places kept. Source: paper 4.1, 15 % drop."""
        return replace(self, tokens=torch.zeros_like(self.tokens), embeddings=torch.zeros_like(self.embeddings))

    def to(
        self, device: torch.device | str | int, dtype: torch.dtype | None = None, non_blocking: bool = False
    ) -> LocationTokens:
        """On a device; tokens in `dtype` if one is given, ids and embeddings keep theirs.

        Offloading hooks move whatever has a `.to`, with just these arguments.
        """
        return replace(
            self,
            tokens=self.tokens.to(device, dtype or self.tokens.dtype, non_blocking),
            ids=self.ids.to(device, non_blocking=non_blocking),
            embeddings=self.embeddings.to(device, non_blocking=non_blocking),
        )


def pack(latents: Tensor) -> Tensor:
    """[n, 16, h, w] -> [n, h/2 * w/2, 64]: 2x2 latent pixels become one token, rows first, as FLUX packs its noise."""
    n, channels, h, w = latents.shape
    cells = latents.view(n, channels, h // 2, 2, w // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(n, (h // 2) * (w // 2), channels * 4)


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """[n, rows * columns, 64] -> [n, 16, 2 rows, 2 columns]: the inverse of `pack`."""
    n, _, channels = tokens.shape
    cells = tokens.view(n, rows, columns, channels // 4, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(n, channels // 4, rows * 2, columns * 2)


def grid_ids(rows: int, columns: int, index: int = 0) -> Tensor:
    """[rows * columns, 3] float32 RoPE ids (index, h, w), rows first."""
    h, w = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.full_like(h, index), h, w], -1).reshape(-1, 3).float()


def prune(latents: Tensor, masks: Tensor, embeddings: Tensor, rope_index: int = 1) -> LocationTokens:
    """E_i = pack(Z_i)[M_i], positions alike.

    latents: [N, 16, h, w] of the canvases. masks: [N, h/2, w/2] bool at token resolution. embeddings: [N, 512].
    Raises ValueError when a mask is empty. Source: Eq. 13.
    """
    device = latents.device
    ids = grid_ids(latents.shape[2] // 2, latents.shape[3] // 2, rope_index)
    kept = [mask.reshape(-1).nonzero()[:, 0] for mask in masks.cpu()]
    packed = pack(latents)
    cells = torch.cat([keep + number * packed.shape[1] for number, keep in enumerate(kept)])
    return LocationTokens(
        tokens=packed.flatten(0, 1)[upload(cells, device)],
        ids=upload(torch.cat([ids[keep] for keep in kept]), device),
        lengths=tuple(len(keep) for keep in kept),
        embeddings=upload(embeddings, device),
    )


NOISE, TEXT, IMAGE, JOINT = "noise", "text", "image", "joint"
"""Streams of a batch: [X_1 .. X_B], [T_1 .. T_B], [X | E], [T | X | E]."""


@dataclass(frozen=True)
class Spans:
    """Where everything lies in the flat streams of a batch; plain ints, so that nothing waits for the device.

    The image stream is [X_1 .. X_B | E_1,1 .. E_B,N], the joint stream puts [T_1 .. T_B] before it (Eq. 14). Samples
    may have different faces: location tokens are never padded. lengths: n of each identity, by sample. attention: a
    name of `isolated_attention.KERNELS`. located, identities: location tokens and identities of the whole batch. bias:
    of each sample, [|T| + |X| + L] logits that global queries add; None where all strengths are 1. rectangular: all
    samples have the same location tokens, and one attention call serves the batch. several: some sample has two
    identities or more. fused: blocks take `fused`'s kernels. weights: of a block's adapters (`cast_together`).

    For compiled blocks, to which plain ints would make every layout another block: index, stream -> [tokens] numbers of
    modulation rows; mask, of Eq. 19, where one is wanted; sizes, [2 + ΣN, 2] int64 on the CPU: (batch, text),
    (noise, 0), then sample and n of each identity.
    """

    batch: int
    text: int
    noise: int
    lengths: tuple[tuple[int, ...], ...]
    attention: str = "split"
    located: int = 0
    identities: int = 0
    index: Mapping[str, Tensor] | None = None
    bias: tuple[Tensor, ...] | None = None
    mask: Tensor | None = None
    sizes: Tensor | None = None
    rectangular: bool = True
    several: bool = False
    fused: bool = False
    weights: Mapping[nn.Module, tuple[Tensor, Tensor]] | None = None

    @classmethod
    def of(cls, batch: int, text: int, noise: int, faces: Sequence[LocationTokens], attention: str) -> Spans:
        """Spans of `batch` samples with `text` and `noise` tokens each; faces: one per sample, or none at all."""
        if faces and len(faces) != batch:
            raise ValueError(f"{batch} samples, but location tokens for {len(faces)}")
        lengths = tuple(face.lengths for face in faces) or ((),) * batch
        return cls._with(batch, text, noise, lengths, attention, _bias(text + noise, faces))

    @classmethod
    def of_lengths(cls, batch: int, text: int, noise: int, lengths: tuple[tuple[int, ...], ...]) -> Spans:
        """Without strengths."""
        return cls._with(batch, text, noise, lengths, "masked", None)

    @classmethod
    def _with(
        cls, batch: int, text: int, noise: int, lengths: tuple[tuple[int, ...], ...], attention: str,
        bias: tuple[Tensor, ...] | None,
    ) -> Spans:  # fmt: skip
        return cls(
            batch, text, noise, lengths, attention, sum(map(sum, lengths)), sum(map(len, lengths)), bias=bias,
            rectangular=len(set(lengths)) == 1, several=any(len(sample) > 1 for sample in lengths),
        )  # fmt: skip

    @classmethod
    def of_sizes(cls, sizes: Tensor, attention: str, bias: Sequence[Tensor] = ()) -> Spans:
        """The opposite of `sizes`."""
        (batch, text), (noise, _), *identities = sizes.tolist()
        lengths = tuple(tuple(n for sample, n in identities if sample == number) for number in range(batch))
        return cls._with(batch, text, noise, lengths, attention, tuple(bias) or None)

    def indexed(self, device: torch.device, mask: Tensor | None = None) -> Spans:
        """The same for compiled blocks: with an index and a mask on the device, and sizes, which stay on the CPU."""
        identities = [(number, n) for number, sample in enumerate(self.lengths) for n in sample]
        sizes = torch.tensor([(self.batch, self.text), (self.noise, 0), *identities])
        rows = self.row_numbers()
        index = {name: upload(rows[self.where(name)], device) for name in (NOISE, TEXT, IMAGE, JOINT)}
        return replace(self, index=index, mask=mask, sizes=sizes)

    def row_numbers(self) -> Tensor:
        """[S] int64 on the CPU, of the joint stream: each token's row of modulation, samples before identities."""
        samples, own = torch.arange(self.batch), torch.arange(self.batch, self.batch + self.identities)
        located = own.repeat_interleave(torch.tensor(self.flat_lengths, dtype=torch.long))
        return torch.cat([samples.repeat_interleave(self.text), samples.repeat_interleave(self.noise), located])

    def where(self, stream: str) -> slice:
        """A stream's tokens in the joint one."""
        text, noise = self.batch * self.text, self.batch * self.noise
        last = text + noise + self.located
        return {TEXT: slice(0, text), NOISE: slice(text, text + noise), IMAGE: slice(text, last)}.get(
            stream, slice(0, last)
        )

    def counts(self, stream: str) -> tuple[int, ...]:
        """Tokens of a sample in a stream, kind after kind; location tokens, where the stream has some, come after."""
        if stream == JOINT:
            # One sample's text and noise lie side by side, and share their row.
            return (self.text + self.noise,) if self.batch == 1 else (self.text, self.noise)
        return (self.text,) if stream == TEXT else (self.noise,)

    @property
    def flat_lengths(self) -> list[int]:
        """n of each identity, sample after sample."""
        return [n for sample in self.lengths for n in sample]


def _bias(shared: int, faces: Sequence[LocationTokens]) -> tuple[Tensor, ...] | None:
    """log strength over each face's keys, 0 over the `shared` global ones before them; made once a step."""
    if all(strength == 1 for face in faces for strength in face.strengths or ()):
        return None
    return tuple(_log_strengths(shared, face) for face in faces)


def _log_strengths(shared: int, face: LocationTokens) -> Tensor:
    strengths = torch.tensor(face.strengths or (1.0,) * len(face.lengths))
    own = strengths.log().repeat_interleave(torch.tensor(face.lengths))
    return upload(torch.cat([torch.zeros(shared), own]), face.tokens.device)
