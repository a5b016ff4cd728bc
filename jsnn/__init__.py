"""jsnn: hybrid conversion and spike-timing-dependent backpropagation (STDB) in JAX, arXiv:2005.01807.

surrogate, encoding      spikes and their surrogate derivatives; images to input spikes
neuron, packed           LIF dynamics; the same with spike trains as bits
convolution, products    what layers compute with, fast on every platform
modules, models          neurons in linen; VGG and ResNet, one definition for ANN and SNN
simulation, bptt         a network over time in chunks; its gradient from spike trains alone
conversion, balancing    ANN params to SNN variables; thresholds balanced in one pass
operations               what a network costs, in multiply-accumulates, accumulates and energy
diagnostics              whether batches agree on a surrogate's gradient, where it leads, which neurons are silent
training                 one step for ANN and SNN; top-1 at every time step; all devices by jax.pmap; checkpoints
"""
