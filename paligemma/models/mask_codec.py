"""The mask codec: a 64×64 mask as a 4×4 grid of codes, the sixteen `<seg>` tokens of an object.

A VQ-VAE whose structure and parameter names are those of big_vision's `vae-oid.npz` (SegMENTS
decoder, google-research/big_vision, proj/paligemma); widths are read from the file.
Shapes: n masks, C code width (512 as published), V codebook rows (128).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from paligemma.npz import check_npz

MAX_NUMBERS = 20_000_000  # in a file; the published one has 2 million
MASK_SIZE = 64  # pixels a side
GRID = 4  # codes a side
NUM_CODES = GRID * GRID


class Residual(nn.Module):
    """x + conv1(relu(conv3(relu(conv3(x)))))."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


def _encoder(widths: list[int], code_width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip([1, *widths], widths, strict=False):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    layers += [Residual(widths[-1]), Residual(widths[-1]), nn.Conv2d(widths[-1], code_width, 1)]
    return nn.Sequential(*layers)


def _decoder(widths: list[int], code_width: int) -> nn.Sequential:
    hidden = widths[0]
    layers = [nn.Conv2d(code_width, hidden, 1), nn.ReLU(), Residual(hidden), Residual(hidden)]
    for before, after in zip([hidden, *widths], widths, strict=False):
        layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 1))


class MaskCodec(nn.Module):
    """Masks to codes and back.

    `encoder_widths` and `decoder_widths` are the channels after each of the four strided
    convolutions; the first decoder width is also that of its residual blocks.
    """

    def __init__(
        self,
        encoder_widths: Sequence[int] = (16, 32, 64, 128),
        decoder_widths: Sequence[int] = (128, 64, 32, 16),
        codebook_size: int = 128,
        code_width: int = 512,
    ):
        super().__init__()
        self.encoder = _encoder(list(encoder_widths), code_width)
        self.decoder = _decoder(list(decoder_widths), code_width)
        self.codebook = nn.Parameter(torch.randn(codebook_size, code_width))

    @classmethod
    def load(cls, path: str | Path) -> "MaskCodec":
        """Read an npz with the published keys. Raises ValueError if it is missing or not one."""
        try:
            check_npz(path, MAX_NUMBERS)
            with np.load(path, allow_pickle=False) as archive:
                arrays = {key: torch.from_numpy(archive[key]).float() for key in archive.files}
        except FileNotFoundError:
            raise ValueError(f"There is no mask codec at {path}.") from None
        except Exception as error:
            raise ValueError(f"{path} is not a readable mask codec (.npz): {error}.") from error
        arrays["codebook"] = arrays.pop("_vq_vae._embedding", torch.empty(0, 0))
        try:
            codec = cls(
                [arrays[f"encoder.{n}.weight"].shape[0] for n in (0, 2, 4, 6)],
                [arrays[f"decoder.{n}.weight"].shape[1] for n in (4, 6, 8, 10)],
                *arrays["codebook"].shape,
            )
            codec.load_state_dict(arrays)
        except (KeyError, IndexError, TypeError, RuntimeError) as error:
            raise ValueError(f"{path} is not a PaliGemma mask codec: {error}.") from error
        return codec.eval().requires_grad_(False)

    def save(self, path: str | Path) -> None:
        """Write the npz that `load` and the published decoders read."""
        arrays = {key: value.detach().cpu().numpy() for key, value in self.state_dict().items()}
        arrays["_vq_vae._embedding"] = arrays.pop("codebook")
        np.savez(path, **arrays)

    def embed(self, masks: Tensor) -> Tensor:
        """Masks [n, 64, 64] of 0…1 → vectors before quantisation [n, 16, C]."""
        return self.encoder(masks[:, None] * 2 - 1).flatten(2).transpose(1, 2)

    def nearest(self, vectors: Tensor) -> Tensor:
        """Vectors [n, 16, C] → the rows of the codebook closest to them [n, 16]."""
        distances = self.codebook.square().sum(1) - 2 * vectors @ self.codebook.T
        return distances.argmin(-1)

    def reconstruct(self, vectors: Tensor) -> Tensor:
        """Vectors [n, 16, C] → soft masks [n, 64, 64], about -1…1."""
        return self.decoder(vectors.transpose(1, 2).unflatten(2, (GRID, GRID)))[:, 0]

    @torch.no_grad()
    def encode(self, masks: Tensor) -> Tensor:
        """Masks [n, 64, 64] of 0…1, cropped to their boxes → codes [n, 16]."""
        masks = torch.as_tensor(masks)
        if masks.ndim != 3 or masks.shape[1:] != (MASK_SIZE, MASK_SIZE):
            raise ValueError(f"masks must be [n, 64, 64], not {list(masks.shape)}.")
        return self.nearest(self.embed(masks.to(self.codebook)))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [n, 16] → soft masks [n, 64, 64], about -1…1; the mask is where they are > 0."""
        codes = torch.as_tensor(codes, device=self.codebook.device).long()
        if codes.ndim != 2 or codes.shape[1] != NUM_CODES:
            raise ValueError(f"codes must be [n, 16], not {list(codes.shape)}.")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < len(self.codebook):
            raise ValueError(f"codes must lie in 0…{len(self.codebook) - 1}.")
        return self.reconstruct(self.codebook[codes])
