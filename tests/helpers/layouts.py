"""How the tensors of a checkpoint are named in the layouts in circulation."""


def older(name: str) -> str:
    name = name.replace("language_model.", "language_model.model.", 1)
    return name.replace("vision_tower.", "vision_tower.vision_model.", 1)


LAYOUTS = {
    "older": older,
    "older, as transformers 5 saves it": lambda name: name.replace(
        "language_model.", "language_model.model.", 1
    ),
    "newer": lambda name: "model." + name,
    "newer, inner vision_model": lambda name: (
        "model." + name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    ),
}
