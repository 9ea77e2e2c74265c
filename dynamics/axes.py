"""Type aliases of tensors by meaning, with letters for axes.

V: tokens of the vocabulary (rows). D: hidden size.
"""

from jaxtyping import Float
from torch import Tensor

EmbeddingMatrix = Float[Tensor, "V D"]
TokenScores = Float[Tensor, " V"]
HiddenVector = Float[Tensor, " D"]
