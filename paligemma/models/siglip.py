"""The SigLIP vision tower: an image becomes one vector for each of its patches.

    pixels -> patches + positions -> L x [attention, MLP] -> LayerNorm

Source: SigLIP (arXiv 2303.15343), So400m/14 in PaliGemma. A plain pre-norm ViT: no CLS token, no
pooling head, biases everywhere. Parameter names are those of transformers 5.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma.config import VisionConfig

# Up to here, on a CPU, plain attention is differentiated twice as fast as the fused one.
FEW_PATCHES = 256


class SiglipEmbeddings(nn.Module):
    """Cut the image into patches, project each, and add its position embedding."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.patch_embedding = nn.Conv2d(config.num_channels, width, patch, stride=patch)
        self.position_embedding = nn.Embedding(config.num_image_tokens, width)

    def forward(self, pixel_values: Tensor) -> Tensor:
        patches = self.patch_embedding(pixel_values)  # [B, Dv, grid, grid]
        # Laid out token by token, as all layers read them: the convolution's strides would last to
        # the end of the tower, and the compiled backward pass made NaN of them on CPUs with AMX.
        tokens = patches.flatten(2).transpose(1, 2).contiguous()
        return tokens + self.position_embedding.weight


class SiglipAttention(nn.Module):
    """Multi-head self-attention; every patch attends to every patch."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, N, P, H]
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if q.requires_grad and q.device.type == "cpu" and q.shape[2] <= FEW_PATCHES:
            scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
            output = scores.float().softmax(-1).to(v.dtype) @ v
        else:
            output = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(output.transpose(1, 2).flatten(2))


class SiglipMLP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SiglipEncoderLayer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = SiglipAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SiglipMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class SiglipEncoder(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SiglipEncoderLayer(config) for _ in range(config.num_hidden_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class VisionTower(nn.Module):
    """Pixels in -1..1 [B, 3, R, R] -> features [B, P, Dv], row by row from the top left."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = SiglipEmbeddings(config)
        self.encoder = SiglipEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Raises ValueError if the images have another size than the position embedding."""
        expected = (self.config.num_channels, self.config.image_size, self.config.image_size)
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != torch.Size(expected):
            raise ValueError(
                f"pixel_values has shape {list(pixel_values.shape)}; "
                f"this tower takes [B, {', '.join(map(str, expected))}]."
            )
        x = self.embeddings(pixel_values.to(self.post_layernorm.weight.dtype))
        return self.post_layernorm(self.encoder(x))
