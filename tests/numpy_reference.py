"""One layer of spiking neurons as plain NumPy loops: the yardstick for a neuron's membrane, spikes and STDB gradient.

Written from the equations of the method (soft reset, strict threshold, no delay) alone; shares no code with jsnn.
"""

import numpy as np


def lif_loop(current: np.ndarray, threshold: float, leak: float) -> tuple[np.ndarray, np.ndarray]:
    """Drive resting neurons with currents [T, ...]; return their membranes u and spikes o, both [T, ...].

    u[t] = leak * u[t-1] + I[t] - v * o[t-1]    and    o[t] = 1 if u[t] / v - 1 > 0 else 0.
    """
    membranes, spikes = np.zeros_like(current), np.zeros_like(current)
    membrane, spike = np.zeros_like(current[0]), np.zeros_like(current[0])
    for t in range(len(current)):
        membrane = leak * membrane + current[t] - threshold * spike
        spike = (membrane / threshold - 1 > 0).astype(current.dtype)
        membranes[t], spikes[t] = membrane, spike
    return membranes, spikes


def stdb_surrogate(spikes: np.ndarray, t: int, alpha: float, beta: float) -> float:
    """Return do[t]/dz[t] of one neuron from its spike train [T]: only spikes before t count, without any it is 0."""
    earlier = np.flatnonzero(spikes[:t])
    return alpha * float(np.exp(-beta * (t - earlier[-1]))) if earlier.size else 0.0


def stdb_gradient_loop(
    current: np.ndarray, threshold: float, leak: float, alpha: float, beta: float, cotangent: np.ndarray
) -> np.ndarray:
    """Return d sum(cotangent * spikes) / d current, [T, ...], neuron by neuron and backwards in time.

    u[t] acts on o[t] through the surrogate and on u[t+1] through the leak; the reset carries no gradient. So with
    g[t] = d sum / d u[t],    g[t] = cotangent[t] * surrogate[t] / v + leak * g[t+1],    g[T] = 0,
    and since u[t] contains I[t] with weight 1, g[t] is the derivative by the current too.
    """
    steps = len(current)
    spikes = lif_loop(current, threshold, leak)[1].reshape(steps, -1)
    cotangent = cotangent.reshape(steps, -1)
    gradient = np.zeros_like(current).reshape(steps, -1)
    for neuron in range(spikes.shape[1]):
        later = 0.0
        for t in reversed(range(steps)):
            surrogate = stdb_surrogate(spikes[:, neuron], t, alpha, beta)
            later = cotangent[t, neuron] * surrogate / threshold + leak * later
            gradient[t, neuron] = later
    return gradient.reshape(current.shape)
