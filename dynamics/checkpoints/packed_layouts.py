"""Arithmetic of quantised weights: decoding of stored codes and scales to numbers.

V rows (tokens), D columns (features), G groups of columns that share a scale. A layout receives the
parts for n <= V token ids: parts stored by row as those n rows, the other parts whole. All
arithmetic is in float32, so that a number is rounded once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

WORD = 32  # bits of the integers that codes are packed into
_BYTE = 8

# Place of column j of eight in an AWQ word, counted in codes from the lowest bits.
_AWQ_ORDER = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])


@dataclass(frozen=True)
class ScaledRows:
    """Rows of codes c that stand for (c - offset - zero_point) * scale / divisor + bias.

    Parts: `codes` (n, D) or packed (n, words); `scale` (n, G), or (blocks of rows, G) whole, or
    (1, 1) whole; `zero_point` of the same shape, or packed along rows; `bias` (n, G); `g_idx` (D,),
    the group of each column.

    Attributes:
        description: Type of the codes and scales, and the tool that writes them, for messages.
        width: D.
        bits: Bits of a packed code, 0 for codes that are not packed. Packed codes form a
            stream of bits from the lowest bit of the first byte on, without gaps.
        offset: Number that packing added to each code.
        divisor: Code whose decoded value is the scale itself.
        block_rows: Rows that share a scale; 1 where scales are stored by row.
        block_columns: Columns that share a scale.
        exponents: Whether scales are uint8 exponents of 2 with bias 127 (OCP MX, E8M0).
        packed_zero_points: Whether zero points are packed along rows, offset as codes are.
    """

    description: str
    width: int
    bits: int = 0
    offset: int = 0
    divisor: float = 1.0
    block_rows: int = 1
    block_columns: int = 1
    exponents: bool = False
    packed_zero_points: bool = False

    def decode(self, parts: Mapping[str, Tensor], ids: np.ndarray) -> Float[Tensor, "n D"]:
        """Compute rows in float32.

        Args:
            parts: Stored tensors by name.
            ids: Token ids of the rows, ascending.
        """
        codes = parts["codes"]
        if self.bits:
            codes = unpack_bits(codes, self.bits, self.width) - self.offset
        values = codes.float()
        if (zero_point := parts.get("zero_point")) is not None:
            if self.packed_zero_points:
                # -> (n, G), signed as the codes are
                zero_point = unpack_words(zero_point, torch.from_numpy(ids), self.bits)
                zero_point = zero_point - self.offset
            else:
                zero_point = self._of_rows(zero_point, ids)
            values -= self._of_columns(zero_point.float(), parts.get("g_idx"))
        if (scale := parts.get("scale")) is not None:
            scale = self._of_rows(scale, ids).float()
            if self.exponents:
                # OCP Microscaling Formats (MX) v1.0: E8M0, an exponent of 2 with bias 127.
                scale = torch.exp2(scale - 127)
            values *= self._of_columns(scale, parts.get("g_idx"))
        if self.divisor != 1:
            values /= self.divisor
        if (bias := parts.get("bias")) is not None:
            values += self._of_columns(bias.float(), None)
        return values

    def _of_rows(self, grid: Tensor, ids: np.ndarray) -> Tensor:
        """Return one row of scales per id, or one for all: (n or 1, G).

        A grid of single rows holds those of the ids already; one of blocks of rows comes whole.
        """
        grid = grid.reshape(grid.shape[0] if grid.dim() else 1, -1)
        if self.block_rows == 1 or len(grid) == 1:
            return grid
        return grid[torch.from_numpy(ids // self.block_rows)]

    def _of_columns(self, grid: Tensor, g_idx: Tensor | None) -> Tensor:
        """Expand groups to columns: (n, G) -> (n, D), or (n, 1) where all columns share one."""
        if grid.shape[1] == 1:
            return grid
        if g_idx is not None and (g_idx >= 0).all():  # -1 where a group is of adjacent columns
            return grid[:, g_idx.long()]
        return grid.repeat_interleave(self.block_columns, dim=1)[:, : self.width]


@dataclass(frozen=True)
class Lookup:
    """4-bit codes that pick from 16 numbers, times the largest magnitude of their block.

    Blocks run through the matrix row after row, whatever its width. Parts: `codes` (n, D / 2), of
    two codes in a byte the first in the high bits; `quant_map` (16,); `absmax` (blocks,). Where
    the magnitudes are themselves quantised, `absmax` holds 8-bit codes, with `nested_quant_map`
    (256,) and `nested_absmax` (blocks of blocks,).

    Attributes:
        description: Type of the codes and scales, and the tool that writes them, for messages.
        width: D.
        block: Numbers in a block.
        nested_block: Blocks that share a nested magnitude, 0 where there is none.
        nested_offset: Number subtracted from magnitudes before they were quantised.
    """

    description: str
    width: int
    block: int
    nested_block: int = 0
    nested_offset: float = 0.0

    def decode(self, parts: Mapping[str, Tensor], ids: np.ndarray) -> Float[Tensor, "n D"]:
        """Compute rows in float32.

        Args:
            parts: Stored tensors by name.
            ids: Token ids of the rows, ascending.
        """
        pairs = parts["codes"]
        # The first code of a byte is in its high bits.
        codes = torch.stack([pairs >> 4, pairs & 15], dim=-1).view(len(ids), self.width)
        starts = torch.from_numpy(ids).long()[:, None] * self.width
        first_blocks = starts // self.block
        places = (starts + torch.arange(self.width)) // self.block - first_blocks  # (n, D)
        blocks = first_blocks + torch.arange(int(places.max()) + 1)  # (n, blocks of a row)
        absmax = parts["absmax"].flatten()
        blocks.clamp_(max=len(absmax) - 1)  # the last row may have fewer
        magnitudes = absmax[blocks]
        if self.nested_block:
            # Double dequantisation, Dettmers et al. 2023 (QLoRA), eq. 6; bitsandbytes subtracts an
            # offset beforehand.
            outer = parts["nested_absmax"].flatten()[blocks // self.nested_block]
            magnitudes = parts["nested_quant_map"][magnitudes.int()] * outer + self.nested_offset
        return parts["quant_map"].float()[codes.int()] * magnitudes.float().gather(1, places)


@dataclass(frozen=True)
class PackedColumns:
    """GPTQ and AWQ: the transposed matrix, (c - zero point) * scale per group of features.

    Parts, all whole: `scales` (G, V). GPTQ packs features, `qweight` (D / codes, V); AWQ packs
    tokens, `qweight` (D, V / codes). Both pack the tokens of `qzeros` (G, V / codes). `g_idx` (D,)
    is the group of each feature; without it, a group is of adjacent features.

    Attributes:
        description: Type of the codes and scales, and the tool that writes them, for messages.
        width: D.
        bits: Bits of a code.
        awq: Whether packed as AWQ does, eight tokens in a word in its own order.
        zero_point_offset: Number that the writer subtracted from zero points.
    """

    description: str
    width: int
    bits: int
    awq: bool = False
    zero_point_offset: int = 0

    def decode(self, parts: Mapping[str, Tensor], ids: np.ndarray) -> Float[Tensor, "n D"]:
        """Compute rows in float32.

        Args:
            parts: Stored tensors by name.
            ids: Token ids of the rows, ascending.
        """
        tokens = torch.from_numpy(ids).long()
        columns = tokens // 8 * 8 + _AWQ_ORDER[tokens % 8] if self.awq else tokens
        features = torch.arange(self.width)
        if self.awq:
            codes = unpack_words(parts["qweight"].T, columns, self.bits)
        else:
            codes = unpack_words(parts["qweight"][:, tokens], features, self.bits).T
        zero_points = unpack_words(parts["qzeros"].T, columns, self.bits) + self.zero_point_offset
        scales = parts["scales"][:, tokens].T.float()
        groups = features // (self.width // scales.shape[1])
        if (g_idx := parts.get("g_idx")) is not None:
            groups = g_idx.long()
        return (codes - zero_points[:, groups]).float() * scales[:, groups]


Layout = ScaledRows | Lookup | PackedColumns
"""Decoder of the rows of a quantised matrix from its parts."""


def unpack_bits(words: Int[Tensor, "n words"], bits: int, width: int) -> Int[Tensor, "n D"]:
    """Unpack codes from rows that are dense streams of bits.

    Args:
        words: Integers of any type, contiguous along a row.
        bits: Bits of a code, at most 8.
        width: Codes in a row; bits beyond them are padding.
    """
    stream = words.contiguous().view(torch.uint8)
    if _BYTE % bits:  # codes cross the borders of bytes: go through single bits
        flags = np.unpackbits(stream.numpy(), axis=1, bitorder="little")
        flags = flags[:, : width * bits].reshape(len(flags), width, bits)
        return torch.from_numpy(np.packbits(flags, axis=2, bitorder="little")[..., 0]).int()
    shifts = torch.arange(0, _BYTE, bits, dtype=torch.uint8)
    codes = (stream[..., None] >> shifts) & ((1 << bits) - 1)
    return codes.flatten(1)[:, :width].int()


def unpack_words(
    words: Int[Tensor, "words n"], index: Int[Tensor, " m"], bits: int
) -> Int[Tensor, "m n"]:
    """Unpack selected codes from words that are packed along the first axis.

    Args:
        words: int32.
        index: Positions of the codes along the first axis.
        bits: Bits of a code; must divide 32.
    """
    per_word = WORD // bits
    shifts = (index % per_word * bits).int()
    return (words[index // per_word] >> shifts[:, None]) & ((1 << bits) - 1)
