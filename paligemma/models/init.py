"""The first weights of a model that has not been trained."""

import torch
from torch import Tensor, nn


def initialize(model: nn.Module, seed: int) -> None:
    """Unit variance through every matrix but two kinds, which start smaller.

    Those are the ones that end a residual branch, and the decoder's queries: a text token that
    attends to everything evenly can learn to attend to the image, one that attends to itself
    cannot.
    """
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # LayerNorm multiplies by its weight, RMSNorm by 1 + weight
            nn.init.constant_(parameter, float("vision_tower" in name and name.endswith("weight")))
        elif parameter.ndim == 1:
            nn.init.zeros_(parameter)
        else:
            fan_in = parameter[0].numel()
            ends = any(part in name for part in ("o_proj", "out_proj", "fc2", "down_proj"))
            scale = 0.3 if ends or ("language_model" in name and "q_proj" in name) else 1
            nn.init.normal_(parameter, std=fan_in**-0.5 * scale)
    positions = model.get_parameter("vision_tower.embeddings.position_embedding.weight")
    nn.init.normal_(positions, std=0.3)


def order_locations(table: Tensor, loc_ids: list[int]) -> None:
    """Start the rows `loc_ids` of the embedding table [V, D] as waves: neighbors begin alike.

    `loc_ids` are those of `<loc0000>` to `<loc1023>`.
    """
    place = torch.linspace(0, 1, len(loc_ids))[:, None]
    waves = 2 ** torch.linspace(0, 7, table.shape[1] // 2) * torch.pi / 2
    rows = torch.cat([(place * waves).sin(), (place * waves).cos()], 1)
    with torch.no_grad():
        table[loc_ids] = rows * table.std() / rows.std()
