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
from paligemma.training.initialize import find_checkpoint
from paligemma.training.memory import needed_memory, planned_model
from paligemma.training.read_config import parse_run, read_run


class Sharding(Accelerator):
    def __init__(self, fsdp_plugin, **options) -> None:
        super().__init__(fsdp_plugin=fsdp_plugin, **options)
        self.state.fsdp_plugin = fsdp_plugin
        self.state.distributed_type = DistributedType.FSDP


def held(tensors) -> int:
    return sum(tensor.to_local().nbytes for tensor in tensors)


def save_sharded(output_dir, values, module, optimizers, is_main) -> None:
    assert all(isinstance(parameter, DTensor) for parameter in module.parameters())
    if is_main:  # what was computed is what is held
        states = [s for o in optimizers for each in o.state.values() for s in each.values()]
        run = parse_run(values["run"])
        need = needed_memory(planned_model(run, find_checkpoint(run)), run, shards=2)
        assert need.weights == held(module.parameters()), need
        assert need.optimizer == held(state for state in states if state.ndim), need
    save_state(output_dir, values, module, optimizers, is_main)


save_state, checkpoint.save_state = checkpoint.save_state, save_sharded
trainer.Accelerator = Sharding
trainer.train(read_run(sys.argv[1]))
