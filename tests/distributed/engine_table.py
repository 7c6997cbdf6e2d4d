"""All that is trained for comparison: world size -> name of the case -> the case, as `engine_cases` takes it.

One table, so that all cases of a world size share their processes.
"""

from typing import Any

Table = dict[int, dict[str, dict[str, Any]]]

PLAIN = {"kind": "plain"}
SOAP = {"optimizer": {"kind": "soap"}}
MUON = {"optimizer": {"kind": "muon"}}
AVERAGED = {"optimizer": {"average_decay": 0.5}}
RULED = {
    "optimizer": {
        "rules": (
            {"parameters": ("*.mix.*",), "learning_rate_factor": 0.1},
            {"parameters": ("*.bias", "scale"), "weight_decay": 0.05},
        )
    }
}
CLIPPED = {"optimizer": {"gradient_clip": 0.01}}
STAGES = range(4)

TOY: Table = {
    1: {
        "plain": PLAIN,
        "plain frozen": {**PLAIN, "frozen": True},
        "plain clipped": {**PLAIN, **CLIPPED},
        "plain bf16": {**PLAIN, "precision": "bf16"},
        "plain accumulating 2": {**PLAIN, "accumulation": 2},
        "plain accumulating 4": {**PLAIN, "accumulation": 4},
        "plain recomputing": {**PLAIN, "recompute": True},
        "plain soap": {**PLAIN, **SOAP},
        "plain muon": {**PLAIN, **MUON},
        "plain averaged": {**PLAIN, **AVERAGED},
        "plain ruled": {**PLAIN, **RULED},
        "plain poisoned": {**PLAIN, "poisoned": 2},
        "plain poisoned loss": {**PLAIN, "accumulation": 2, "broken": 2},
        **{f"stage {stage}": {"stage": stage} for stage in STAGES},
        "stage 0 soap": {"stage": 0, **SOAP},
        "stage 0 muon": {"stage": 0, **MUON},
        "stage 0 soap accumulating 2": {"stage": 0, **SOAP, "accumulation": 2},
    },
    2: {
        **{f"stage {stage}": {"stage": stage} for stage in STAGES},
        **{f"stage {stage} accumulating 2": {"stage": stage, "accumulation": 2} for stage in STAGES},
        **{f"stage {stage} accumulating 4": {"stage": stage, "accumulation": 4} for stage in (0, 3)},
        **{f"stage {stage} recomputing": {"stage": stage, "recompute": True} for stage in STAGES},
        **{f"stage {stage} frozen": {"stage": stage, "frozen": True} for stage in STAGES},
        **{f"stage {stage} clipped": {"stage": stage, **CLIPPED} for stage in STAGES},
        **{f"stage {stage} averaged": {"stage": stage, **AVERAGED} for stage in STAGES},
        **{f"stage {stage} ruled": {"stage": stage, **RULED} for stage in (0, 2, 3)},
        **{f"stage {stage} offloading": {"stage": stage, "offload": "optimizer"} for stage in (1, 2)},
        "stage 3 offloading": {"stage": 3, "offload": "optimizer_and_weights"},
        **{f"stage {stage} bf16": {"stage": stage, "precision": "bf16"} for stage in (1, 2, 3)},
        **{f"stage {stage} poisoned": {"stage": stage, "poisoned": 2} for stage in STAGES},
        **{f"stage {stage} poisoned loss": {"stage": stage, "accumulation": 2, "broken": 2} for stage in STAGES},
        **{f"stage {stage} poisoned bf16": {"stage": stage, "precision": "bf16", "poisoned": 2} for stage in (1, 3)},
        "stage 2 bf16 accumulating 2": {"stage": 2, "precision": "bf16", "accumulation": 2},
        "stage 0 soap": {"stage": 0, **SOAP},
    },
}

SLOW = {"optimizer": {"learning_rate": 3e-4}}
MODELS: dict[str, dict[str, Any]] = {
    "tokeniser": {"model": "tokeniser", **SLOW},
    "dynamics": {"model": "dynamics", **SLOW},
    "dynamics, mostly frozen": {"model": "dynamics", "trainable": "processor_and_fields", **SLOW},
}
MODEL_ENGINES: dict[str, dict[str, Any]] = {
    "stage 0": {"stage": 0},
    "stage 1, recomputing": {"stage": 1, "recompute": True},
    "stage 2, accumulating": {"stage": 2, "accumulation": 2},
    "stage 3, recomputing": {"stage": 3, "recompute": True, "accumulation": 2},
}
MODEL_ENGINES_BF16: dict[str, dict[str, Any]] = {
    "bf16 stage 2": {"stage": 2, "precision": "bf16"},
    "bf16 stage 3": {"stage": 3, "precision": "bf16"},
}

REAL: Table = {
    1: {
        **{model: {**case, **PLAIN} for model, case in MODELS.items()},
        **{f"{model} bf16": {**case, **PLAIN, "precision": "bf16"} for model, case in MODELS.items()},
    },
    2: {
        f"{model} {engine}": {**MODELS[model], **case}
        for model in MODELS
        for engine, case in (MODEL_ENGINES | MODEL_ENGINES_BF16).items()
    },
}

ALL: Table = {size: TOY[size] | REAL[size] for size in TOY}
