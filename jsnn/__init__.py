"""jsnn: hybrid conversion and spike-timing-dependent backpropagation (STDB) in JAX, arXiv:2005.01807.

surrogate, encoding      spikes and their surrogate derivatives; images to input spikes
neuron, models           LIF dynamics; VGG and ResNet, one definition for ANN and SNN
simulation, conversion   a network over time in chunks; thresholds balanced, ANN params to SNN variables
training, evaluation     one step for ANN and SNN; top-1 at every time step
parallel                 the same on all devices, by jax.pmap
"""
