"""`python -m paligemma train` with its model sharded over processes of the CPU.

`torchrun tests/helpers/shard_training.py config.yaml`. accelerate shards on GPUs only, so it is
told here that it does, over gloo; everything after that is what a cluster runs.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["ACCELERATE_USE_FSDP"] = "true"

from accelerate import Accelerator
from accelerate.state import DistributedType
from torch.distributed.tensor import DTensor

from paligemma.training import config, states
from paligemma.training import trainer as finetune


class Sharding(Accelerator):
    def __init__(self, fsdp_plugin, **options) -> None:
        super().__init__(fsdp_plugin=fsdp_plugin, **options)
        self.state.fsdp_plugin = fsdp_plugin
        self.state.distributed_type = DistributedType.FSDP


def save_sharded(out, values, module, adamw, is_main) -> None:
    assert all(isinstance(parameter, DTensor) for parameter in module.parameters())
    save(out, values, module, adamw, is_main)


save, states.save = states.save, save_sharded
finetune.Accelerator = Sharding
finetune.train(config.read(sys.argv[1]))
