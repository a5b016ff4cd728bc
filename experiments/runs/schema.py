"""What stages.json must hold of each stage, so that what is read later is there and in its range."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

FINETUNED, CONVERTED = "fine-tuned", "converted"  # the net that a run keeps
Results = dict[str, Any]

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _object(**fields: Any) -> type[BaseModel]:
    """An object of JSON with at least these fields."""
    of_fields = {name: (kind, ...) for name, kind in fields.items()}
    return create_model("Object", __config__=ConfigDict(extra="allow", strict=True), **of_fields)


TRAINED = {"validation_accuracy": Share, "epochs": int, "history": list[Results]}
SCORED = {"accuracy": Share, "accuracy_std": Share, "accuracy_by_step": list[Share]}
NETWORKS = {
    "train_ann": {"ann": _object(**TRAINED)},
    "convert": {"converted": _object(scaling_factor=Factor, logit_scale=Factor, thresholds=dict[str, Factor])},
    "finetune": {"hybrid": _object(**TRAINED, kept=Literal[FINETUNED, CONVERTED])},
    "evaluate": {
        "ann": _object(accuracy=Share),
        "converted": _object(**SCORED, accuracy_by_step_at_factor_1=list[Share]),
        "hybrid": _object(**SCORED),
        "spikes_per_neuron": dict[Literal["converted", "hybrid"], dict[str, NonNegative]],
        "environment": Results,
    },
}
DONE = {
    stage: _object(results=_object(**networks), config=Results, seconds=NonNegative, step=int | None)
    for stage, networks in NETWORKS.items()
}


def objection(stage: str, done: Any) -> str | None:
    """What is wrong with what stands of a stage in stages.json, or None."""
    if stage not in DONE:
        return f"there is no stage {stage}"
    try:
        DONE[stage].model_validate(done)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"] if part != "[key]") or "what stands there"
        value = "missing" if first["type"] == "missing" else f"{first['input']!r:.50}"
        return f"{name} of {stage} is {value}"
    return None
