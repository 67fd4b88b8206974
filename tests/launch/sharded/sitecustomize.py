"""On the path of a rank that is to shard: Accelerate does so on GPUs only, PyTorch on any device,
so Accelerate is told of GPUs."""

import os

if os.environ.get("ACCELERATE_USE_FSDP") and "RANK" in os.environ:
    from accelerate import DistributedType, PartialState
    from torch.distributed import fsdp

    begin, shard = PartialState.__init__, fsdp.fully_shard

    def begin_as_on_gpus(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    def shard_aloud(module, *args, **kwargs):
        print("sharded:", type(module).__name__, flush=True)
        return shard(module, *args, **kwargs)

    PartialState.__init__, fsdp.fully_shard = begin_as_on_gpus, shard_aloud
