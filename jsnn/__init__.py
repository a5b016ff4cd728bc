"""jsnn: spiking networks as a transformation of JAX functions, trained with surrogate gradients (arXiv:2005.01807).

spiking                 the function of an ANN to an SNN; simulate, record, save and load it
lif, Neuron             neurons; surrogate: their derivatives; encoding: images to input spikes
balance_thresholds      ANN variables to SNN variables: convert, scale_thresholds; qcfs, trained_thresholds
train_step              one step for ANN and SNN; parallel_train_step: on all devices
from_torch, to_snntorch weights from PyTorch, networks to snnTorch; to_nir, from_nir; load_authors_checkpoint
models, data            the paper's architectures in plain Flax; data sets and sources of batches
"""

import importlib
from importlib.util import find_spec
from typing import Any

__version__ = "0.2.0"

# Where each public name lives. They are imported when they are first asked for: `import jsnn` costs nothing.
_HOMES = {
    "surrogate": "jsnn.neurons.surrogate",
    "encoding": "jsnn.encoding",
    "qcfs": "jsnn.quantization:qcfs",
    "models": "jsnn.models",
    "data": "jsnn.data",
    "Neuron": "jsnn.neurons:Neuron",
    "lif": "jsnn.neurons:lif",
    "hard_reset_lif": "jsnn.neurons:hard_reset_lif",
    "adaptive_lif": "jsnn.neurons:adaptive_lif",
    "current_lif": "jsnn.neurons:current_lif",
    "refractory_lif": "jsnn.neurons:refractory_lif",
    "SNN": "jsnn.network:SNN",
    "spiking": "jsnn.network:spiking",
    "accelerate": "jsnn.network:accelerate",
    "Presentation": "jsnn.network:Presentation",
    "simulate": "jsnn.network:simulate",
    "record": "jsnn.network:record",
    "save": "jsnn.network:save",
    "load": "jsnn.network:load",
    "layer_shapes": "jsnn.network:layer_shapes",
    "balance_thresholds": "jsnn.conversion:balance_thresholds",
    "trained_thresholds": "jsnn.conversion:trained_thresholds",
    "convert": "jsnn.conversion:convert",
    "scale_thresholds": "jsnn.conversion:scale_thresholds",
    "paper_thresholds": "jsnn.conversion:paper_thresholds",
    "from_torch": "jsnn.exchange:from_torch",
    "load_authors_checkpoint": "jsnn.exchange:load_authors_checkpoint",
    "to_snntorch": "jsnn.exchange.snntorch:to_snntorch",
    "to_nir": "jsnn.exchange.to_nir:to_nir",
    "from_nir": "jsnn.exchange.from_nir:from_nir",
    "train_step": "jsnn.training.step:train_step",
    "init_state": "jsnn.training.step:init_state",
    "ann_forward": "jsnn.training.forward:ann_forward",
    "snn_forward": "jsnn.training.forward:snn_forward",
    "averaged": "jsnn.training.forward:averaged",
    "summed": "jsnn.training.forward:summed",
    "weights_and_neurons": "jsnn.training.within_bounds:weights_and_neurons",
    "ann_evaluation": "jsnn.training.evaluation:ann_evaluation",
    "snn_evaluation": "jsnn.training.evaluation:snn_evaluation",
    "parallel_train_step": "jsnn.training.parallel:parallel_train_step",
    "parallel_evaluation": "jsnn.training.parallel:parallel_evaluation",
    "evaluate_split": "jsnn.training.parallel:evaluate_split",
}
# Those that need a package which an extra of jsnn installs: (the package, the extra). Without it `__all__` lacks them.
_EXTRAS = {"to_snntorch": ("snntorch", "torch"), "to_nir": ("nir", "nir"), "from_nir": ("nir", "nir")}
_missing = {name for name, (package, _) in _EXTRAS.items() if find_spec(package) is None}
__all__ = sorted({*_HOMES, "__version__"} - _missing)


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jsnn' has no attribute {name!r}")
    if name in _missing:
        package, extra = _EXTRAS[name]
        raise ModuleNotFoundError(f'jsnn.{name} needs {package}: pip install "jsnn[{extra}]".', name=package)
    module, _, attribute = _HOMES[name].partition(":")
    home = importlib.import_module(module)
    globals()[name] = value = getattr(home, attribute) if attribute else home
    return value


def __dir__() -> list[str]:
    return __all__
