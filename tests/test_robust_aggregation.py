"""Robust aggregators against plain NumPy versions, and on attacks that they are known to stop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import load
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

robust_aggregation, sorting = load("mitigation", "robust_aggregation", "sorting")

pytestmark = pytest.mark.usefixtures("double_precision")

CLIENTS, ADVERSARIES = 11, 3
RULES = {
    "median": robust_aggregation.median(),
    "trimmed_mean": robust_aggregation.trimmed_mean(ADVERSARIES),
    "multi_krum": robust_aggregation.multi_krum(ADVERSARIES),
    "norm_bounding": robust_aggregation.norm_bounding(3.0),
    "geometric_median": robust_aggregation.geometric_median(),
    "foolsgold": robust_aggregation.foolsgold(),
}
ROBUST = sorted(set(RULES) - {"norm_bounding", "foolsgold"})
each_rule = pytest.mark.parametrize("rule", sorted(RULES))
seeds = st.integers(0, 2**32 - 1)


def flat(messages):
    """Messages [client, ...] as a matrix [client, entries]."""
    leaves = jax.tree.leaves(messages)
    return np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in leaves], axis=1)


def stacked(matrix):
    """A matrix [client, 14] as messages, such as SecAdam's pairs."""
    return {
        "m": {"kernel": jnp.asarray(matrix[:, :6].reshape(-1, 2, 3))},
        "v": (jnp.asarray(matrix[:, 6:13]), jnp.asarray(matrix[:, 13])),
    }


def draw(seed, clients=CLIENTS):
    return np.random.default_rng(seed).normal(size=(clients, 14))


def apply(rule, matrix, compile_it=jax.jit):
    """Aggregate messages [client, 14] -> their message [14]."""
    aggregator = RULES[rule] if isinstance(rule, str) else rule
    messages = stacked(matrix)
    memory = aggregator.init(jax.tree.map(lambda leaf: leaf[0], messages), len(matrix))
    message, _ = compile_it(aggregator.aggregate)(messages, memory)
    return flat(jax.tree.map(lambda leaf: leaf[None], message))[0]


def uncompiled(function):
    """Many unrolled steps take longer to compile than to run."""
    return function


def plain_median(x):
    return [float(np.median(column)) for column in x.T]


def plain_trimmed_mean(x):
    return [np.mean(sorted(column)[ADVERSARIES:-ADVERSARIES]) for column in x.T]


def plain_multi_krum(x):
    n, scores = len(x), []
    for i in range(n):
        distances = sorted(np.sum((x[i] - x[j]) ** 2) for j in range(n) if j != i)
        scores.append(sum(distances[: n - ADVERSARIES - 2]))
    return x[sorted(range(n), key=scores.__getitem__)[: n - ADVERSARIES]].mean(0)


def plain_norm_bounding(x):
    return np.mean([row * min(1, 3.0 / np.linalg.norm(row)) for row in x], axis=0)


def plain_geometric_median(x):
    z = x.mean(0)
    for _ in range(robust_aggregation.RFA_STEPS):
        weights = [1 / max(np.linalg.norm(row - z), robust_aggregation.RFA_SMOOTHING) for row in x]
        z = np.average(x, axis=0, weights=weights)
    return z


def plain_foolsgold(x):
    """One round, after Algorithm 1."""
    n = len(x)
    cs = np.zeros((n, n))
    for i, j in itertools.permutations(range(n), 2):
        cs[i, j] = x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])
    v = [max(0, *cs[i]) for i in range(n)]
    for i, j in itertools.permutations(range(n), 2):
        if v[j] > v[i]:
            cs[i, j] *= v[i] / v[j]
    alpha = np.array([min(1, max(0, 1 - max(0, *cs[i]))) for i in range(n)])
    alpha /= alpha.max()
    with np.errstate(divide="ignore"):
        alpha = np.clip(np.log(alpha / (1 - alpha)) + 0.5, 0, 1)
    return alpha @ x / alpha.sum()


PLAIN = {
    "median": plain_median,
    "trimmed_mean": plain_trimmed_mean,
    "multi_krum": plain_multi_krum,
    "norm_bounding": plain_norm_bounding,
    "geometric_median": plain_geometric_median,
    "foolsgold": plain_foolsgold,
}


@each_rule
@given(seed=seeds)
def test_is_what_numpy_makes_of_it(rule, seed):
    matrix = draw(seed)
    np.testing.assert_allclose(apply(rule, matrix), PLAIN[rule](matrix), 1e-9, 1e-12)


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two():
    matrix = draw(0, 10)
    np.testing.assert_allclose(apply("median", matrix), np.median(matrix, axis=0), 1e-12)


@each_rule
@given(seed=seeds)
def test_the_order_of_clients_does_not_matter(rule, seed):
    matrix = draw(seed)
    shuffled = np.random.default_rng(seed).permutation(matrix)
    np.testing.assert_allclose(apply(rule, matrix), apply(rule, shuffled), 1e-9, 1e-12)


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"foolsgold"}))
def test_what_all_agree_on_comes_out(rule):
    agreed = np.tile(draw(0, 1) / 10, (CLIENTS, 1))
    np.testing.assert_allclose(apply(rule, agreed), agreed[0], 1e-12)


@pytest.mark.parametrize("rule", ROBUST)
@pytest.mark.parametrize("size", [1e2, 1e6])
def test_messages_far_off_hardly_move_it(rule, size):
    honest = 1 + 0.1 * draw(1, CLIENTS - ADVERSARIES)
    poisoned = np.vstack([honest, -size * np.ones((ADVERSARIES, 14))])
    assert np.abs(poisoned.mean(0) - 1).max() > 20
    if rule == "geometric_median":
        # From a mean that far off, RFA needs more steps than its authors' three.
        got = apply(robust_aggregation.geometric_median(steps=100), poisoned, uncompiled)
    else:
        got = apply(rule, poisoned)
    assert np.abs(got - 1).max() < 0.2


def test_norm_bounding_leaves_a_large_message_no_more_weight_than_its_bound():
    honest = 0.1 * draw(2, CLIENTS - 1)
    replaced = np.vstack([honest, 1e6 * np.ones(14)])
    pulled = apply("norm_bounding", replaced) - np.vstack([honest, np.zeros(14)]).mean(0)
    assert np.linalg.norm(pulled) == pytest.approx(3.0 / CLIENTS)


def test_foolsgold_silences_clients_that_say_the_same():
    honest, same = draw(3, 5), np.ones((4, 14))
    got = apply("foolsgold", np.vstack([honest, same]))
    assert np.linalg.norm(got - honest.mean(0)) < np.linalg.norm(honest.mean(0))
    # How loud they are makes no difference.
    np.testing.assert_allclose(got, apply("foolsgold", np.vstack([honest, 1e6 * same])), 1e-9)


def test_foolsgold_remembers_over_rounds():
    aggregator, rng = robust_aggregation.foolsgold(), np.random.default_rng(4)
    memory = aggregator.init(jnp.zeros(500), 6)
    for _ in range(30):
        # Sybils whose single messages differ as much as those of the others.
        noise = rng.normal(size=(6, 500))
        shared = np.vstack([np.zeros((3, 500)), np.ones((3, 500))])
        message, memory = aggregator.aggregate(jnp.asarray(noise + shared), memory)
    assert np.linalg.norm(message - noise[:3].mean(0)) < 1e-6


def test_geometric_median_has_the_smallest_sum_of_distances():
    matrix = np.vstack([draw(5, 8), 10 + draw(6, 3)])
    found = apply(robust_aggregation.geometric_median(steps=200), matrix, uncompiled)
    best = minimize(
        lambda z: np.linalg.norm(matrix - z, axis=1).sum(), matrix.mean(0), method="BFGS", tol=1e-9
    )
    np.testing.assert_allclose(found, best.x, atol=1e-4)


def test_krum_tells_messages_apart_that_have_much_in_common():
    matrix = 1e4 + 0.01 * draw(7)
    matrix[:ADVERSARIES] += 0.1
    with jax.enable_x64(False):
        got = apply("multi_krum", matrix.astype(np.float32))
    np.testing.assert_allclose(got, matrix[ADVERSARIES:].mean(0), atol=0.005)


@pytest.mark.parametrize(
    ("rule", "clients", "sentence"),
    [
        (robust_aggregation.multi_krum(4), 10, "at least 11 clients, got 10"),
        (robust_aggregation.trimmed_mean(5), 10, "at least 11 clients, got 10"),
    ],
)
def test_too_few_clients_are_refused(rule, clients, sentence):
    with pytest.raises(ValueError, match=sentence):
        apply(rule, draw(0, clients))


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (robust_aggregation.trimmed_mean, -1),
        (robust_aggregation.multi_krum, -1),
        (robust_aggregation.norm_bounding, 0),
        (robust_aggregation.norm_bounding, float("nan")),
        (robust_aggregation.geometric_median, 0),
        (robust_aggregation.foolsgold, 0),
    ],
)
def test_values_out_of_range_are_refused(make, value):
    with pytest.raises(ValueError, match=str(value)):
        make(value)


@pytest.mark.parametrize(
    ("clients", "entries"),
    [
        (1, 3),
        (2, 1),
        (5, sorting.BLOCK - 1),
        (16, sorting.BLOCK),
        (17, sorting.BLOCK + 1),
        (100, 2 * sorting.BLOCK + 3),
    ],
)
def test_columns_are_sorted_exactly(clients, entries):
    rng = np.random.default_rng(clients)
    # Few different numbers, so that there are ties.
    matrix = rng.choice(rng.normal(size=5), (clients, entries))
    middle = sorting.reduce_sorted(jnp.asarray(matrix), lambda rows: rows[clients // 2])
    assert np.array_equal(middle, np.sort(matrix, axis=0)[clients // 2])
    tail = sorting.reduce_sorted(jnp.asarray(matrix), lambda rows: rows[: clients // 3].sum(0))
    np.testing.assert_allclose(tail, np.sort(matrix, axis=0)[: clients // 3].sum(0), rtol=1e-9)


def test_a_column_with_a_nan_becomes_nan_and_no_other():
    matrix = np.arange(12.0).reshape(4, 3)
    matrix[2, 1] = np.nan
    got = sorting.reduce_sorted(jnp.asarray(matrix), lambda rows: rows.sum(0))
    assert np.isnan(got).tolist() == [False, True, False]
