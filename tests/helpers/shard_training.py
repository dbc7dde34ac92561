"""`paligemma train` with its model sharded over processes of the CPU.

    torchrun tests/helpers/shard_training.py config.yaml

accelerate shards on GPUs only, so it is told here that it does, over gloo; everything after that is
what a cluster runs.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["ACCELERATE_USE_FSDP"] = "true"

from accelerate import Accelerator
from accelerate.state import DistributedType
from torch.distributed.tensor import DTensor

from paligemma.training import checkpoint, trainer
from paligemma.training.config import read_run


class Sharding(Accelerator):
    def __init__(self, fsdp_plugin, **options) -> None:
        super().__init__(fsdp_plugin=fsdp_plugin, **options)
        self.state.fsdp_plugin = fsdp_plugin
        self.state.distributed_type = DistributedType.FSDP


def save_sharded(output_dir, values, module, optimizers, is_main) -> None:
    assert all(isinstance(parameter, DTensor) for parameter in module.parameters())
    save_state(output_dir, values, module, optimizers, is_main)


save_state, checkpoint.save_state = checkpoint.save_state, save_sharded
trainer.Accelerator = Sharding
trainer.train(read_run(sys.argv[1]))
