"""Our sections -> the complete dictionary that DeepSpeed reads. Pure.

Every key that DeepSpeed 0.19.8 knows is written, its defaults too: they have changed under their users
(`gradient_clipping` went from 0 to 1.0 within 0.19), and unknown keys at the top are ignored without a word.
The optimiser, the schedule and the snapshots are ours; DeepSpeed gets none of its own.
"""

from typing import Any

from trainer.config.schema import EngineConfig, OptimizerConfig
from trainer.interfaces import PERSISTENT_ELEMENTS

BUCKET_ELEMENTS = 50_000_000
"""Gradients reduced, or weights gathered, in one message: 200 MB of float32."""

NEVER = 2**62
"""Steps between two of DeepSpeed's own log lines."""


def zero_config(
    engine: EngineConfig, optimizer: OptimizerConfig, *, world_size: int, accumulation: int
) -> dict[str, Any]:
    """`accumulation`: micro-batches of one rank in one step. Our engine clips stage 0, DeepSpeed the others."""
    return {
        "train_batch_size": engine.micro_batch_size * world_size * accumulation,
        "train_micro_batch_size_per_gpu": engine.micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "managed_gradient_accumulation": True,
        "gradient_clipping": optimizer.gradient_clip if engine.zero_stage > 0 else 0.0,
        "zero_optimization": _sharding(engine.zero_stage) | _offload(engine.offload),
        "zero_allow_untested_optimizer": False,
        "zero_force_ds_cpu_optimizer": False,
        **_precision(engine.precision),
        **_communication(),
        **_silence(),
        **_unused(),
    }


def _sharding(stage: int) -> dict[str, Any]:
    """`overlap_comm` is off: it is for NCCL streams, and its gain is to be measured before it is trusted.

    Stages 1 and 2 reduce a bucket of gradients to all ranks at once either way; with `reduce_scatter` they copy it
    before and after.
    """
    return {
        "stage": stage,
        "contiguous_gradients": True,
        "reduce_scatter": stage == 3,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "use_multi_rank_bucket_allreduce": True,
        "allgather_partitions": True,
        "allgather_bucket_size": BUCKET_ELEMENTS,
        "overlap_comm": False,
        "compute_grad_norm": True,
        "load_from_fp32_weights": True,
        "elastic_checkpoint": False,
        "zenflow": None,
        "sub_group_size": 1_000_000_000,
        "ignore_unused_parameters": True,
        "legacy_stage1": False,
        "round_robin_gradients": False,
        "parameter_alignment": False,
        "zero_hpz_partition_size": 1,
        "zero_quantized_weights": False,
        "zero_quantized_nontrainable_weights": False,
        "zero_quantized_gradients": False,
        "memory_efficient_linear": True,
        "pipeline_loading_checkpoint": False,
        "override_module_apply": True,
        "log_trace_cache_warnings": False,
        "enable_sanity_checks": False,
        "save_muon_momentum_buffer_in_memory": False,
        "leaf_module": {"classes": [], "names": [], "name_suffixes": []},
        **_gathering(),
    }


def _offload(offload: str) -> dict[str, Any]:
    """With our own optimiser, which then steps on the CPU: it needs `zero_force_ds_cpu_optimizer` off."""
    optimizer = {
        "device": "cpu",
        "nvme_path": None,
        "buffer_count": 4,
        "pin_memory": True,
        "pipeline_read": False,
        "pipeline_write": False,
        "fast_init": False,
        "ratio": 1.0,
        "super_offload": False,
        "cpuadam_cores_perc": 0.8,
    }
    weights = {
        "device": "cpu",
        "nvme_path": None,
        "buffer_count": 5,
        "buffer_size": 100_000_000,
        "max_in_cpu": 1_000_000_000,
        "pin_memory": True,
    }
    return {
        "offload_optimizer": None if offload == "none" else optimizer,
        "offload_param": weights if offload == "optimizer_and_weights" else None,
    }


def _gathering() -> dict[str, Any]:
    """Stage 3: how far ahead weights are gathered, and which small ones stay."""
    return {
        "stage3_prefetch_bucket_size": BUCKET_ELEMENTS,
        "stage3_param_persistence_threshold": PERSISTENT_ELEMENTS,
        "stage3_model_persistence_threshold": 2**63 - 1,
        "stage3_max_live_parameters": 1_000_000_000,
        "stage3_max_reuse_distance": 1_000_000_000,
        "stage3_gather_16bit_weights_on_model_save": False,
        "stage3_module_granularity_threshold": 0,
        "stage3_use_all_reduce_for_fetch_params": False,
        "stage3_allgather_sequential": False,
    }


def _precision(precision: str) -> dict[str, Any]:
    """bf16: weights and activations in bfloat16; master weights, optimiser states and accumulated gradients float32.

    A step whose gradients are not finite is left out, in both precisions.
    """
    return {
        "bf16": {
            "enabled": precision == "bf16",
            "immediate_grad_update": False,
            "check_grad_overflow": True,
            "bf16_master_weights_and_grads": False,
            "bf16_optimizer_states": False,
        },
        "fp16": {"enabled": False, "auto_cast": False},
        "torch_autocast": {"enabled": False},
        "data_types": {
            "grad_accum_dtype": "fp32",
            "param_dtype": None,
            "buffer_dtype": None,
            "keep_in_fp32_modules": [],
        },
    }


def _communication() -> dict[str, Any]:
    return {
        "communication_data_type": None,
        "seq_parallel_communication_data_type": "fp32",
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "gradient_allreduce_op": "mean",
        "disable_allgather": False,
        "use_data_before_expert_parallelism": False,
    }


def _silence() -> dict[str, Any]:
    return {
        "steps_per_print": NEVER,
        "wall_clock_breakdown": False,
        "memory_breakdown": False,
        "dump_state": False,
        "timers": {"throughput": {"enabled": False, "synchronized": False}},
        "flops_profiler": {"enabled": False},
        "tensorboard": {"enabled": False},
        "wandb": {"enabled": False},
        "csv_monitor": {"enabled": False},
        "comet": {"enabled": False},
    }


def _unused() -> dict[str, Any]:
    """Doors that stay shut: recomputation, compilation and snapshots are done by us, from outside."""
    return {
        "disable_python_gc": False,
        "dataloader_drop_last": False,
        "activation_checkpointing": {
            "partition_activations": False,
            "number_checkpoints": None,
            "contiguous_memory_optimization": False,
            "synchronize_checkpoint_boundary": False,
            "profile": False,
            "cpu_checkpointing": False,
        },
        "compile": {"deepcompile": False},
        "checkpoint": {"load_universal": False, "use_node_local_storage": False, "tag_validation": "Warn"},
        "data_efficiency": {"enabled": False},
        "autotuning": {"enabled": False},
        "hybrid_engine": {"enabled": False},
    }
