"""Engines by GPU: how long their steps take and what fits into their memory.

`A100_40GB` is the one the Gateway API Inference Extension's simulator was fitted to: one A100 of 40 GB with a 7B model
that keeps half a MB for each token. The others are by arithmetic, not by measurement, so that fleets of them serve the
same model: 8B parameters in 16 bits with grouped queries (131 kB of cache for each token), as vLLM serves it.

                      dense BF16    memory             decode base     per cached token    per prompt token   cache
    A100 80 GB SXM    312 TFLOPS    80 GB, 2.04 TB/s   16 GB: 12 ms    131 kB: 0.098 µs    16 GFLOP: 103 µs   57 GB
    H100 80 GB SXM    989 TFLOPS    80 GB, 3.35 TB/s   7 ms            0.06 µs             33 µs              57 GB
    H200 141 GB SXM   989 TFLOPS    141 GB, 4.8 TB/s   5 ms            0.042 µs            33 µs              108 GB

Data sheets of NVIDIA A100, H100 and H200; two thirds of the memory's speed and half of the peak arithmetic are reached.
Batches are vLLM's defaults for each: 2,048 tokens and 256 sequences on an A100, 8,192 and 1,024 on the others.
"""

from dataclasses import replace

from picker.sim.engine import EngineConfig
from picker.sim.timing import TimingModel

A100_40GB = EngineConfig(num_blocks=2_810, max_num_batched_tokens=2_048, max_num_seqs=256, max_lora=0)
A100 = EngineConfig(
    num_blocks=27_000,
    max_num_batched_tokens=2_048,
    max_num_seqs=256,
    max_lora=0,
    timing=TimingModel(
        prefill_base_s=0.014, prefill_s_per_token=1.03e-4, decode_base_s=0.012, decode_s_per_kv_token=9.8e-8,
        decode_s_per_sequence=3e-5,
    ),
)  # fmt: skip
H100 = EngineConfig(
    num_blocks=27_000,
    max_num_batched_tokens=8_192,
    max_num_seqs=1_024,
    max_lora=0,
    timing=TimingModel(
        prefill_base_s=0.009, prefill_s_per_token=3.3e-5, decode_base_s=0.007, decode_s_per_kv_token=6e-8,
        decode_s_per_sequence=2e-5,
    ),
)  # fmt: skip
H200 = replace(
    H100,
    num_blocks=51_500,
    timing=TimingModel(
        prefill_base_s=0.007, prefill_s_per_token=3.3e-5, decode_base_s=0.005, decode_s_per_kv_token=4.2e-8,
        decode_s_per_sequence=2e-5,
    ),
)  # fmt: skip

GPUS = {"a100-40gb": A100_40GB, "a100": A100, "h100": H100, "h200": H200}
FLEETS = {"mixed": ("a100", "h100", "h200")}
"""Names of several: replicas are of each in turn."""


def fleet(names: tuple[str, ...], replicas: int) -> tuple[str, ...]:
    """The GPU of each replica: the named ones in turn. KeyError for one that is unknown."""
    kinds = [kind for name in names for kind in FLEETS.get(name, (name,))]
    for kind in kinds:
        GPUS[kind]
    return tuple(kinds[slot % len(kinds)] for slot in range(replicas))
