"""Controllers: numbers that follow the run, stepped once after every training step.

    state = controller(state, metrics)      a new dict of floats; the old one is left as it is
    state = controller(state, metrics, field)      with a field that it reads, None where the step did not measure it
    state["value"]                          the output, 0-dim data under the controller's name
    state["value/0"], ["value/1"], ...      the output of a controller that gives a vector

With an empty state and empty metrics a controller gives its initial state. A metric that a step did not measure, or
that is not finite, leaves the numbers that depend on it unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev

from llmrl.ops.shared.ranges import require_fraction, require_positive

State = dict[str, float]
Metrics = Mapping[str, float]


def entropy_history(state: State, metrics: Metrics) -> State:
    """The mean over past steps of the mean token entropy, nats; nan before the first step.

        h_k = h_(k-1) + (H_k - h_(k-1)) / k

    Reads the metric entropy. Source: EPO, arXiv 2509.22576, which keeps one history per turn of an episode.
    """
    state = {"value": math.nan, "steps": 0.0} | state
    entropy = _measured(metrics, "entropy")
    if entropy is None:
        return state
    steps = state["steps"] + 1
    before = state["value"] if state["steps"] else 0.0
    return {"value": before + (entropy - before) / steps, "steps": steps}


def mean_log_ratio(state: State, metrics: Metrics) -> State:
    """The mean over all completions of past steps of their log ratio to the reference, nats; 0 before the first step.

        m = m + (u - m) n / N        N = N + n

    Reads the metrics completion_log_ratios, u, and trajectories, n. Source: the reward shift of BCO, arXiv 2404.04656,
    which also counts the completions of the step itself.
    """
    state = {"value": 0.0, "completions": 0.0} | state
    mean, count = _measured(metrics, "completion_log_ratios"), _measured(metrics, "trajectories")
    if mean is None or not count:
        return state
    completions = state["completions"] + count
    return {"value": state["value"] + (mean - state["value"]) * count / completions, "completions": completions}


def adaptive_kl(state: State, metrics: Metrics, *, target: float = 0.1, horizon: float = 10_000.0) -> State:
    """The factor of a KL coefficient that keeps the KL near its target; 1 at the start.

        error = clip(kl_k1 / target - 1, -0.2, 0.2)
        b     = b (1 + error trajectories / horizon)

    Reads the metrics kl_k1, the step's mean per token, and trajectories, its number of samples. target: nats per token;
    horizon: samples. Raises ValueError for a target or horizon that is not positive. Source: arXiv 1909.08593.
    """
    require_positive(target=target, horizon=horizon)
    state = {"value": 1.0} | state
    kl, trajectories = _measured(metrics, "kl_k1"), _measured(metrics, "trajectories")
    if kl is None or trajectories is None:
        return state
    error = _clip(kl / target - 1, -0.2, 0.2)
    return {"value": state["value"] * (1 + error * trajectories / horizon)}


def kl_gate(
    state: State,
    metrics: Metrics,
    *,
    threshold: float = 0.3,
    strength: float = 0.1,
    entropy_floor: float = 2.0,
    velocity: float = 0.001,
    proportional: float = 0.3,
    integral: float = 0.01,
    derivative: float = 0.05,
    window: int = 50,
) -> State:
    """A KL coefficient that is 0 until the KL passes a threshold, which follows the reward's progress.

        value = 2 strength relu(kl - limit) gate
        kl    = 0.9 kl + 0.1 kl_k1                          starts at 0
        gate  = max(0.5, entropy_floor / (entropy + 0.1))   1 before the first entropy
        limit = clip((threshold + pid) phase, 0.1, 0.6)
        pid   = proportional e + integral clip(sum e, -1, 1) + derivative (e - previous e)
        e     = rise of the reward's moving average (0.95, 0.05) in this step - velocity
        phase = 1.5 before `window` rewards; then, of the last `window` rewards,
                1.2 if their mean is 0.01 above that of the `window` before them, else
                1.0 if their std is under 0.02 and their mean above 0.7, else 0.8

    Reads the metrics kl_k1 and entropy, the step's means per token in nats, and reward. Raises ValueError for a
    threshold, strength or entropy_floor that is not positive, or a window under 2.
    Source: SAFE, arXiv 2602.04651, and its released code.
    """
    require_positive(threshold=threshold, strength=strength, entropy_floor=entropy_floor)
    if window < 2:
        raise ValueError(f"window: {window} is not valid, expected at least 2 steps")
    state = {"value": 0.0, "kl": 0.0, "gate": 1.0, "pid": 0.0, "phase": 1.5} | state
    reward = _measured(metrics, "reward")
    if reward is not None:
        state |= _pid(state, reward, velocity, proportional, integral, derivative)
        state |= _phase(state, reward, window)
    entropy = _measured(metrics, "entropy")
    if entropy is not None:
        state["gate"] = max(0.5, entropy_floor / (entropy + 0.1))
    kl = _measured(metrics, "kl_k1")
    if kl is not None:
        state["kl"] = 0.9 * state["kl"] + 0.1 * kl
    limit = _clip((threshold + state["pid"]) * state["phase"], 0.1, 0.6)
    state["value"] = 2 * strength * max(state["kl"] - limit, 0.0) * state["gate"]
    return state


def hypervolume(
    state: State,
    metrics: Metrics,
    *,
    objectives: tuple[str, ...] = ("eval/accuracy",),
    reference: tuple[float, ...] | None = None,
) -> State:
    """A factor of the whole reward: large after an evaluation that pushed the Pareto front outwards; 1 at the start.

        value = 0.5 + 1.5 tanh(gain)        gain = HV(front + {s}) - HV(front)

    s: the metrics named by objectives, all to be maximised; HV(front): the exact volume between the reference and the
    points of the front. reference: one number per objective; by default the first evaluation's scores, so the first
    evaluation leaves the factor at 1. Steps without all of the objectives leave the factor as it is. Raises ValueError
    without objectives, or if reference has another length. Source: arXiv 2509.11452.
    """
    if not objectives:
        raise ValueError("objectives: () is not valid, expected names of metrics")
    if reference is not None and len(reference) != len(objectives):
        raise ValueError(f"reference: {reference} is not valid, expected one number for each of {objectives}")
    state = {"value": 1.0} | state
    scores = [_measured(metrics, name) for name in objectives]
    point = tuple(score for score in scores if score is not None)
    if len(point) < len(objectives):
        return state
    front = _points(state, "front", len(objectives))
    origin = reference or next(iter(_points(state, "reference", len(objectives))), None)
    if origin is None:
        return state | _flattened("reference", [point])
    gain = _volume([*front, point], origin) - _volume(front, origin)
    kept = {key: value for key, value in state.items() if not key.startswith("front/")}
    if gain > 0:
        front = [old for old in front if any(a > b for a, b in zip(old, point, strict=True))] + [point]
    return kept | _flattened("front", front) | {"value": 0.5 + 1.5 * math.tanh(max(gain, 0.0))}


def reward_influence(
    state: State, metrics: Metrics, influence: Sequence[float] | None, *, learning_rate: float = 1e-6, mu: float = 1e-4
) -> State:
    """Weights of K reward functions, larger for those whose gradient helps all: value/0 ... value/K-1, their sum 1.

        log w_k = log w_k + learning_rate I_k / mu        w = softmax(log w), equal at the start

    influence: I_k = sum_j cos(g_k, g_j), g_k the policy gradient under reward function k alone. Before the first
    measurement K is not known, and the output is the single weight 1, which stands for equal weights. Raises ValueError
    for a learning_rate or mu that is not positive, or if the number of influences changes. Source: arXiv 2509.11452.
    """
    require_positive(learning_rate=learning_rate, mu=mu)
    state = state or {"value/0": 1.0}
    influences = [float(value) for value in influence] if influence is not None else []
    if not influences or not all(map(math.isfinite, influences)):
        return state
    before = _series(state, "log_weight") or [0.0] * len(influences)
    if len(before) != len(influences):
        raise ValueError(f"influence: {len(influences)} numbers are not valid, expected {len(before)} as before")
    moved = [weight + learning_rate * influence / mu for weight, influence in zip(before, influences, strict=True)]
    top = max(moved)
    log_total = top + math.log(sum(math.exp(weight - top) for weight in moved))
    log_weights = [weight - log_total for weight in moved]
    return _numbered("log_weight", log_weights) | _numbered("value", [math.exp(weight) for weight in log_weights])


def value_scale(
    state: State, metrics: Metrics, return_moments: Sequence[float] | None, *, decay: float = 0.99
) -> State:
    """The running mean and standard deviation of the turns' returns, value/0 and value/1; 0 and 1 at the start.

        m = sum_k w_k mean_k / sum_k w_k        q: the same of the mean squares        w_k = decay^(steps since k)
        value/0 = m        value/1 = sqrt(max(q - m^2, 0.01))

    return_moments: the step's mean and mean square. The sum of the weights makes the first steps unbiased. Raises
    ValueError for a decay outside (0, 1]. Source: value normalization in MAPPO, arXiv 2103.01955.
    """
    require_positive(decay=decay)
    require_fraction(decay=decay)
    state = {"value/0": 0.0, "value/1": 1.0, "mean": 0.0, "square": 0.0, "weight": 0.0} | state
    found = [float(value) for value in return_moments] if return_moments is not None else []
    if len(found) != 2 or not all(map(math.isfinite, found)):
        return state
    mean, square = (decay * state[name] + value for name, value in zip(("mean", "square"), found, strict=True))
    weight = decay * state["weight"] + 1.0
    centre = mean / weight
    spread = math.sqrt(max(square / weight - centre**2, 0.01))
    return {"value/0": centre, "value/1": spread, "mean": mean, "square": square, "weight": weight}


def _pid(
    state: State, reward: float, velocity: float, proportional: float, integral: float, derivative: float
) -> State:
    if "reward" not in state:
        return {"reward": reward, "error": 0.0, "error_sum": 0.0}
    rise = 0.05 * (reward - state["reward"])
    error = rise - velocity
    error_sum = _clip(state["error_sum"] + error, -1.0, 1.0)
    output = proportional * error + integral * error_sum + derivative * (error - state["error"])
    return {"reward": state["reward"] + rise, "error": error, "error_sum": error_sum, "pid": output}


def _phase(state: State, reward: float, window: int) -> State:
    rewards = [*_series(state, "rewards"), reward][-2 * window :]
    kept = _numbered("rewards", rewards)
    if len(rewards) < window:
        return kept
    recent = rewards[-window:]
    earlier = rewards[:window] if len(rewards) == 2 * window else recent
    if fmean(recent) > fmean(earlier) + 0.01:
        return kept | {"phase": 1.2}
    return kept | {"phase": 1.0 if pstdev(recent) < 0.02 and fmean(recent) > 0.7 else 0.8}


def _volume(points: Sequence[tuple[float, ...]], origin: tuple[float, ...]) -> float:
    """The volume of the union of the boxes from `origin` to each point, summed over slices of the first axis."""
    inside = [point for point in points if all(a > b for a, b in zip(point, origin, strict=True))]
    if not inside:
        return 0.0
    if len(origin) == 1:
        return max(inside)[0] - origin[0]
    volume, start = 0.0, origin[0]
    for end in sorted({point[0] for point in inside}):
        slice_points = [point[1:] for point in inside if point[0] >= end]
        volume += (end - start) * _volume(slice_points, origin[1:])
        start = end
    return volume


def _measured(metrics: Metrics, name: str) -> float | None:
    value = metrics.get(name)
    return value if value is not None and math.isfinite(value) else None


def _clip(value: float, low: float, high: float) -> float:
    return max(low, min(high, value))


def _numbered(prefix: str, values: Sequence[float]) -> State:
    return {f"{prefix}/{index}": value for index, value in enumerate(values)}


def _series(numbers: Mapping[str, float], prefix: str) -> list[float]:
    """The values under prefix/0, prefix/1, ... in their order, as many as there are."""
    values = []
    while (value := numbers.get(f"{prefix}/{len(values)}")) is not None:
        values.append(value)
    return values


def _flattened(prefix: str, points: Sequence[tuple[float, ...]]) -> State:
    return _numbered(prefix, [number for point in points for number in point])


def _points(state: State, prefix: str, dimensions: int) -> list[tuple[float, ...]]:
    numbers = _series(state, prefix)
    return [tuple(numbers[start : start + dimensions]) for start in range(0, len(numbers), dimensions)]
