"""One layer of spiking neurons as plain NumPy loops: the yardstick for neurons' membranes, spikes and STDB's gradient.

Written from the equations of each (strict threshold, no delay) alone; shares no code with jsnn. Parameters are scalars
or broadcastable to [...].
"""

import numpy as np

Parameter = float | np.ndarray
Run = tuple[np.ndarray, np.ndarray]


def lif_loop(
    current: np.ndarray, threshold: Parameter, leak: Parameter, initial: Parameter = 0.0, period=0, hard_reset=False
) -> Run:
    """Drive neurons with currents [T, ...]; return their membranes u and spikes o, both [T, ...].

    u[t] = leak * u[t-1] + I[t] - v * o[t-1],    u[-1] = initial * v    and    o[t] = 1 if u[t] / v - 1 > 0 else 0.

    No spike where there was one in the last `period` steps; a hard reset sets u[t-1] to 0 in place of taking v off.
    """
    membranes, spikes = np.zeros_like(current), np.zeros_like(current)
    membrane, spike = np.zeros_like(current[0]) + initial * threshold, np.zeros_like(current[0])
    for t in range(len(current)):
        kept, reset = (membrane * (1 - spike), 0) if hard_reset else (membrane, threshold * spike)
        membrane = leak * kept + current[t] - reset
        has_fired = spikes[max(0, t - period) : t].any(0)
        spike = ((membrane / threshold - 1 > 0) & ~has_fired).astype(current.dtype)
        membranes[t], spikes[t] = membrane, spike
    return membranes, spikes


def adaptive_lif_loop(
    current: np.ndarray, threshold: Parameter, leak: Parameter, decay: Parameter, strength: Parameter
) -> Run:
    """Soft reset by a threshold w that rises with every spike.

    a[t] = decay * a[t-1] + o[t-1],    w[t] = v * (1 + strength * a[t])
    u[t] = leak * u[t-1] + I[t] - w[t-1] * o[t-1]    and    o[t] = 1 if u[t] / w[t] - 1 > 0 else 0.
    """
    membranes, spikes = np.zeros_like(current), np.zeros_like(current)
    membrane, spike, adaptation = (np.zeros_like(current[0]) for _ in range(3))
    raised = threshold * (1 + strength * adaptation)
    for t in range(len(current)):
        membrane = leak * membrane + current[t] - raised * spike
        adaptation = decay * adaptation + spike
        raised = threshold * (1 + strength * adaptation)
        spike = (membrane / raised - 1 > 0).astype(current.dtype)
        membranes[t], spikes[t] = membrane, spike
    return membranes, spikes


def current_lif_loop(current: np.ndarray, threshold: Parameter, leak: Parameter, decay: Parameter) -> Run:
    """Soft reset behind a synapse: i[t] = decay * i[t-1] + (1 - decay) * I[t] in place of I[t]."""
    synapse, filtered = np.zeros_like(current), np.zeros_like(current[0])
    for t in range(len(current)):
        filtered = decay * filtered + (1 - decay) * current[t]
        synapse[t] = filtered
    return lif_loop(synapse, threshold, leak)


def stdb_gradient_loop(
    current: np.ndarray, threshold: float, leak: float, alpha: float, beta: float, cotangent: np.ndarray
) -> np.ndarray:
    """Return d sum(cotangent * spikes) / d current, [T, ...], neuron by neuron and backwards in time.

    u[t] acts on o[t] through the surrogate, 0 before the first spike, and on u[t+1] through the leak; the reset carries
    no gradient. So with g[t] = d sum / d u[t],    g[t] = cotangent[t] * surrogate[t] / v + leak * g[t+1],    g[T] = 0,
    and since u[t] contains I[t] with weight 1, g[t] is the derivative by the current too.
    """
    steps = len(current)
    spikes = lif_loop(current, threshold, leak)[1].reshape(steps, -1)
    cotangent = cotangent.reshape(steps, -1)
    gradient = np.zeros_like(current).reshape(steps, -1)
    for neuron in range(spikes.shape[1]):
        later = 0.0
        for t in reversed(range(steps)):
            earlier = np.flatnonzero(spikes[:t, neuron])
            surrogate = alpha * np.exp(-beta * (t - earlier[-1])) if earlier.size else 0.0
            later = cotangent[t, neuron] * surrogate / threshold + leak * later
            gradient[t, neuron] = later
    return gradient.reshape(current.shape)
