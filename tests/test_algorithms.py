"""The algorithms as pure functions, against closed forms and formulas written out by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.simulation import pooling
from fl.simulation.algorithms import (
    ALGORITHMS,
    ALIASES,
    Broadcast,
    Moments,
    adam,
    build,
    fedadam,
    fedavg,
    fedprox,
    scaffold,
    secadam,
    secadam_fedadam,
    secagg,
)

B1, B2, EPSILON = 0.9, 0.999, 1e-8
SHAPES = {"kernel": (3, 2), "bias": (2,)}

pytestmark = pytest.mark.usefixtures("double_precision")

RAW = partial(secadam, offset=1e-8, bias_correction=False)  # one of the published variants

seeds = st.integers(0, 2**32)


def draw(rng, spread=1.0):
    """Draw a pytree like the parameters."""
    return {name: jnp.asarray(rng.normal(0, spread, shape)) for name, shape in SHAPES.items()}


def mean(trees):
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *trees)


def take_steps(algorithm, w, state, gradients):
    """Let a client take local steps along given gradients -> (message, state)."""
    received, local = algorithm.broadcast(w, algorithm.init_server(w)), w
    for gradient in gradients:
        local, state = algorithm.local_step(received, local, state, gradient)
    return algorithm.message(received, local, state)


def send(algorithm, w, gradients):
    """As `take_steps`, of a client that has just come."""
    return take_steps(algorithm, w, algorithm.init_client(w), gradients)[0]


def step_server(algorithm, w, state, message):
    step, state = algorithm.server_step(w, state, message, 1.0)
    return optax.apply_updates(w, step), state


def assert_close(got, want, rtol=1e-12, atol=1e-15):
    for name in SHAPES:
        np.testing.assert_allclose(got[name], want[name], rtol, atol)


def moments_by_hand(gradients):
    """The bias-corrected moments after these gradients, as weighted sums, for one entry each."""
    k = len(gradients)
    m = sum((1 - B1) * B1 ** (k - 1 - j) * g for j, g in enumerate(gradients)) / (1 - B1**k)
    v = sum((1 - B2) * B2 ** (k - 1 - j) * g**2 for j, g in enumerate(gradients)) / (1 - B2**k)
    return m, v


class TestFedAvg:
    @given(seeds, st.integers(1, 5))
    def test_one_step_is_centralised_descent_on_the_mean_loss(self, seed, clients):
        rng = np.random.default_rng(seed)
        w, targets = draw(rng), [draw(rng) for _ in range(clients)]

        def loss(w, target):
            return sum(jnp.sum(jnp.cosh(w[name] - target[name])) for name in SHAPES)

        algorithm = fedavg()
        messages = [send(algorithm, w, [jax.grad(loss)(w, target)]) for target in targets]
        got, _ = step_server(algorithm, w, algorithm.init_server(w), mean(messages))
        g = jax.grad(lambda w: sum(loss(w, target) for target in targets) / clients)(w)
        assert_close(got, jax.tree.map(lambda w, g: w - 0.1 * g, w, g), 1e-10)

    @pytest.mark.parametrize("build", [fedavg, adam, fedadam, secagg])
    def test_sends_how_far_the_client_went(self, build):
        rng = np.random.default_rng(0)
        w, gradients = draw(rng), [draw(rng) for _ in range(3)]
        client = reference.Adam(0.001) if build is adam else reference.SGD(0.1)
        for name in SHAPES:
            w_i = w[name]
            client.t, client.m, client.v = 0, 0, 0
            for gradient in gradients:
                w_i = client.step(w_i, gradient[name])
            np.testing.assert_allclose(send(build(), w, gradients)[name], w[name] - w_i, 1e-9)

    @pytest.mark.parametrize("build", [fedavg, adam, secagg])
    def test_takes_the_mean_update_off_the_parameters(self, build):
        rng = np.random.default_rng(0)
        w, message, algorithm = draw(rng), draw(rng), build()
        state = algorithm.init_server(w)
        for _ in range(3):  # the same in every round
            got, state = step_server(algorithm, w, state, message)
            assert_close(got, jax.tree.map(jnp.subtract, w, message))


class TestRates:
    """Those of SGD and of Adam alike: twice the rate is twice the step."""

    @pytest.mark.parametrize("name", ALGORITHMS)
    def test_the_servers_can_be_chosen(self, name):
        rng = np.random.default_rng(0)
        w, gradients = draw(rng), [draw(rng)]
        steps = []
        for rate in (0.3, 0.6):
            algorithm = ALGORITHMS[name](server_rate=rate)
            message = send(algorithm, w, gradients)
            steps.append(algorithm.server_step(w, algorithm.init_server(w), message, 1.0)[0])
        assert_close(steps[1], jax.tree.map(lambda step: 2 * step, steps[0]))

    @pytest.mark.parametrize("name", ALGORITHMS)
    def test_the_clients_can_be_chosen_and_is_what_it_is_said_to_be(self, name):
        rng = np.random.default_rng(0)
        w, gradient = draw(rng), draw(rng)
        usual, other = ALGORITHMS[name](), ALGORITHMS[name](client_rate=0.03)
        steps = []
        for algorithm in (usual, other):
            received = algorithm.broadcast(w, algorithm.init_server(w))
            local, _ = algorithm.local_step(received, w, algorithm.init_client(w), gradient)
            rate = algorithm.client_rate
            steps.append(jax.tree.map(lambda w_i, w, rate=rate: (w_i - w) / rate, local, w))
        assert other.client_rate == 0.03
        assert_close(*steps, 1e-9)


class TestServersAdam:
    @pytest.mark.parametrize("local_steps", [1, 3])
    @pytest.mark.parametrize("name", ["fedadam", "secadam_fedadam"])
    def test_is_adam_by_hand(self, name, local_steps):
        rng = np.random.default_rng(0)
        if name == "fedadam":
            algorithm, by_hand = fedadam(), reference.Adam(0.01, B1, B2)
        else:
            algorithm = secadam_fedadam(local_steps=local_steps)
            by_hand = reference.Adam(0.001, B1**local_steps, B2**local_steps)
        w = draw(rng)
        expected, state = w["kernel"], algorithm.init_server(w)
        for _ in range(5):
            message = draw(rng)
            u = message["kernel"]
            if name == "secadam_fedadam":
                message = Moments(message, jax.tree.map(jnp.square, draw(rng)))
                u = message.m["kernel"] / jnp.sqrt(message.v["kernel"])
            w, state = step_server(algorithm, w, state, message)
            expected = by_hand.step(expected, u)
            np.testing.assert_allclose(w["kernel"], expected, 1e-10)

    def test_the_first_step_is_the_rate_along_the_sign(self):
        rng = np.random.default_rng(0)
        w, algorithm = draw(rng), fedadam()
        message = draw(rng)
        got, _ = step_server(algorithm, w, algorithm.init_server(w), message)
        assert_close(got, jax.tree.map(lambda w, g: w - 0.01 * jnp.sign(g), w, message), 1e-4, 1e-5)


class TestSecAdam:
    @pytest.mark.parametrize("steps", [1, 2, 7])
    def test_sends_bias_corrected_moments(self, steps):
        rng = np.random.default_rng(steps)
        w, gradients = draw(rng), [draw(rng, 10.0**-step) for step in range(steps)]
        message = send(secadam(), w, gradients)
        for name in SHAPES:
            m, v = moments_by_hand([gradient[name] for gradient in gradients])
            np.testing.assert_allclose(message.m[name], m, 1e-10)
            np.testing.assert_allclose(message.v[name], v + EPSILON**2, 1e-10)

    def test_moments_live_on_from_round_to_round(self):
        rng = np.random.default_rng(0)
        algorithm, gradients = secadam(), [draw(rng) for _ in range(6)]
        state = algorithm.init_client(draw(rng))
        for number in range(3):  # rounds of two steps, each from other parameters
            message, state = take_steps(algorithm, draw(rng), state, gradients[2 * number :][:2])
        m, v = moments_by_hand([gradient["kernel"] for gradient in gradients])
        np.testing.assert_allclose(message.m["kernel"], m, 1e-10)
        np.testing.assert_allclose(message.v["kernel"], v + EPSILON**2, 1e-10)

    def test_the_clients_take_steps_of_adam_meanwhile(self):
        rng = np.random.default_rng(0)
        algorithm, gradients, by_hand = secadam(), [draw(rng) for _ in range(4)], reference.Adam(1)
        local = start = draw(rng)
        state = algorithm.init_client(start)
        expected = start["kernel"]
        for gradient in gradients:
            local, state = algorithm.local_step(Broadcast(start), local, state, gradient)
            by_hand.rate = 0.001
            expected = by_hand.step(expected, gradient["kernel"])
        np.testing.assert_allclose(local["kernel"], expected, 1e-10)

    def test_does_not_send_where_the_client_is(self):
        rng = np.random.default_rng(0)
        gradients = [draw(rng) for _ in range(2)]
        here, there = (send(secadam(), draw(rng), gradients) for _ in range(2))
        assert_close(here.m, there.m)
        assert_close(here.v, there.v)

    @given(seeds, st.integers(1, 5))
    def test_steps_along_the_ratio_of_the_means(self, seed, clients):
        rng = np.random.default_rng(seed)
        w, algorithm = draw(rng), secadam()
        messages = [Moments(draw(rng), jax.tree.map(jnp.square, draw(rng))) for _ in range(clients)]
        state = algorithm.init_server(w)
        got, _ = step_server(algorithm, w, state, mean(messages))
        for name in SHAPES:
            m = sum(message.m[name] for message in messages) / clients
            v = sum(message.v[name] for message in messages) / clients
            np.testing.assert_allclose(got[name], w[name] - 0.001 * m / np.sqrt(v), 1e-12)

    def test_the_ratio_of_the_means_is_not_the_mean_of_the_ratios(self):
        one, other = (jax.tree.map(jnp.ones_like, draw(np.random.default_rng(0))) for _ in range(2))
        sent = [Moments(one, one), Moments(other, jax.tree.map(lambda leaf: 9 * leaf, other))]
        u = secadam().reveal(mean(sent))
        np.testing.assert_allclose(u["bias"], 1 / 5**0.5)  # and not (1 + 1/3) / 2

    @given(seeds)
    def test_the_mask_cancels(self, seed):
        rng = np.random.default_rng(seed)
        algorithm = secadam()
        sent = [send(algorithm, draw(rng), [draw(rng), draw(rng)]) for _ in range(3)]
        q = jax.tree.map(lambda leaf: jnp.exp(5 * leaf), draw(rng))
        masked = [
            Moments(
                jax.tree.map(lambda q, m: q * m, q, message.m),
                jax.tree.map(lambda q, v: q**2 * v, q, message.v),
            )
            for message in sent
        ]
        u, same = (algorithm.reveal(mean(messages)) for messages in (sent, masked))
        assert_close(same, u, 1e-10)

    @pytest.mark.parametrize("rounds", [1, 5])
    @pytest.mark.parametrize("name", ["secadam", "secadam_fedadam"])
    @pytest.mark.parametrize("float_type", ["float32", "float64"])
    def test_entries_that_never_get_a_gradient_stay(self, float_type, name, rounds):
        algorithm, rng = ALGORITHMS[name](), np.random.default_rng(0)
        w = start = jax.tree.map(lambda leaf: leaf.astype(float_type), draw(rng))
        dead = np.zeros((3, 2), bool)
        dead[1] = True
        client, server = algorithm.init_client(w), algorithm.init_server(w)
        for _ in range(rounds):
            g = jax.tree.map(lambda leaf: leaf.astype(float_type), draw(rng))
            g["kernel"] = jnp.where(dead, 0, g["kernel"])
            message, client = take_steps(algorithm, w, client, [g])
            assert np.all(message.m["kernel"][dead] == 0)
            np.testing.assert_allclose(message.v["kernel"][dead], EPSILON**2, 1e-6)
            w, server = step_server(algorithm, w, server, message)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(w))
        assert np.array_equal(w["kernel"][dead], start["kernel"][dead])
        assert not np.any(w["kernel"][~dead] == start["kernel"][~dead])

    def test_the_offset_is_added_to_the_corrected_second_moment(self):
        rng = np.random.default_rng(0)
        w, gradients = draw(rng), [draw(rng), draw(rng)]
        plain, offset = (send(secadam(offset=added), w, gradients) for added in (0.0, 0.5))
        assert_close(offset.v, jax.tree.map(lambda v: v + 0.5, plain.v))
        assert_close(offset.m, plain.m)

    @pytest.mark.parametrize("steps", [1, 4])
    def test_moments_can_be_sent_raw_as_published(self, steps):
        rng = np.random.default_rng(0)
        w, gradients = draw(rng), [draw(rng) for _ in range(steps)]
        message = send(RAW(), w, gradients)
        m, v = moments_by_hand([gradient["kernel"] for gradient in gradients])
        np.testing.assert_allclose(message.m["kernel"], m * (1 - B1**steps), 1e-10)
        np.testing.assert_allclose(message.v["kernel"], v * (1 - B2**steps) + 1e-8, 1e-10)


class TestMeanClient:
    """See `pooling`."""

    @pytest.mark.parametrize(
        "build", [fedavg, secagg, fedadam, fedprox, secadam, secadam_fedadam, RAW]
    )
    @settings(max_examples=6)
    @given(seed=seeds, clients=st.integers(1, 4))
    def test_is_the_mean_of_the_messages(self, build, seed, clients):
        rng = np.random.default_rng(seed)
        algorithm = build()
        w, shortcut = draw(rng), pooling.find(algorithm)
        states = [algorithm.init_client(w)] * clients
        pooled = algorithm.init_client(w)
        for _ in range(4):
            w = draw(rng)  # the server may do what it likes in between
            gradients = [draw(rng, spread) for spread in rng.uniform(0.01, 10, clients)]
            done = [
                take_steps(algorithm, w, state, [gradient])
                for state, gradient in zip(states, gradients, strict=True)
            ]
            messages, states = zip(*done, strict=True)
            statistics = shortcut.statistics or (lambda gradient: gradient)
            message, pooled = shortcut.message(pooled, mean([statistics(g) for g in gradients]))
            expected = mean(messages)
            assert jax.tree.structure(message) == jax.tree.structure(expected)
            for one, other in zip(*map(jax.tree.leaves, (message, expected)), strict=True):
                np.testing.assert_allclose(one, other, 1e-10, 1e-14)

    @pytest.mark.parametrize("build", [adam, scaffold])
    def test_there_is_none_where_clients_keep_what_is_not_linear(self, build):
        assert pooling.find(build()) is None

    def test_there_is_none_for_messages_that_are_not_linear(self):
        def sign_descent(received, local, state, gradient):
            return jax.tree.map(lambda w, g: w - 0.1 * jnp.sign(g), local, gradient), state

        assert pooling.find(fedavg()._replace(local_step=sign_descent)) is None


class TestFedProx:
    def test_is_fedavg_on_the_loss_and_the_distance_from_w(self):
        """Closed form: g + mu (w_i - w) is the gradient of loss + mu / 2 |w_i - w|^2."""
        rng = np.random.default_rng(0)
        w, gradients, mu = draw(rng), [draw(rng) for _ in range(3)], 0.7
        received, local, state = Broadcast(w), w, fedprox(proximity=mu).init_client(w)
        expected = w["kernel"]
        for gradient in gradients:
            local, state = fedprox(proximity=mu).local_step(received, local, state, gradient)

            def objective(w_i, g=gradient["kernel"]):
                return jnp.sum(g * w_i) + mu / 2 * jnp.sum((w_i - w["kernel"]) ** 2)

            expected = expected - 0.1 * jax.grad(objective)(expected)
        np.testing.assert_allclose(local["kernel"], expected, 1e-12)

    def test_stays_at_the_proximal_point(self):
        """Many steps along a constant gradient end at w - g / mu, however many they are."""
        rng = np.random.default_rng(0)
        w, g = draw(rng), draw(rng)
        algorithm = fedprox(proximity=2.0)
        message = send(algorithm, w, [g] * 300)
        assert_close(message, jax.tree.map(lambda g: g / 2, g), 1e-9)

    def test_without_proximity_is_fedavg(self):
        rng = np.random.default_rng(0)
        w, gradients = draw(rng), [draw(rng) for _ in range(3)]
        assert_close(send(fedprox(proximity=0.0), w, gradients), send(fedavg(), w, gradients))


class TestScaffold:
    """Clients with quadratic losses |w - a_i|^2 / 2, whose gradients are w - a_i."""

    def run(self, algorithm, rounds, local_steps, cohort, targets):
        w = draw(np.random.default_rng(0))
        server, clients = algorithm.init_server(w), [algorithm.init_client(w) for _ in targets]
        for number in range(rounds):
            received, messages = algorithm.broadcast(w, server), []
            taking_part = cohort(number)
            for client in taking_part:
                local, own = w, clients[client]
                for _ in range(local_steps):
                    gradient = jax.tree.map(jnp.subtract, local, targets[client])
                    local, own = algorithm.local_step(received, local, own, gradient)
                message, clients[client] = algorithm.message(received, local, own)
                messages.append(message)
            share = len(taking_part) / len(targets)
            step, server = algorithm.server_step(w, server, mean(messages), share)
            w = optax.apply_updates(w, step)
        return w, server, clients

    def test_first_round_is_fedavgs(self):
        rng = np.random.default_rng(1)
        targets = [draw(rng) for _ in range(3)]
        got, *_ = self.run(scaffold(local_steps=4), 1, 4, lambda _: range(3), targets)
        want, *_ = self.run(fedavg(), 1, 4, lambda _: range(3), targets)
        assert_close(got, want, 1e-12)

    def test_control_variates_are_mean_gradients_of_the_local_steps(self):
        rng = np.random.default_rng(1)
        targets = [draw(rng) for _ in range(3)]
        _, server, clients = self.run(scaffold(local_steps=4), 1, 4, lambda _: range(3), targets)
        start = draw(np.random.default_rng(0))
        for own, target in zip(clients, targets, strict=True):
            # w - a shrinks by 0.9 a step.
            expected = jax.tree.map(
                lambda w, a: (w - a) * (1 + 0.9 + 0.9**2 + 0.9**3) / 4, start, target
            )
            assert_close(own, expected, 1e-10)
        assert_close(server, mean(clients), 1e-10)

    def test_server_control_stays_the_mean_of_all_clients_under_partial_participation(self):
        rng = np.random.default_rng(1)
        targets = [draw(rng) for _ in range(5)]
        _, server, clients = self.run(
            scaffold(local_steps=2), 7, 2, lambda number: [number % 5, (number + 2) % 5], targets
        )
        assert_close(server, mean(clients), 1e-10)

    def test_finds_the_optimum_where_fedavg_drifts(self):
        """Losses of unequal curvature: FedAvg's fixed point is not the minimum, SCAFFOLD's is."""
        curvatures, targets = (1.0, 9.0), (-1.0, 1.0)
        optimum = sum(c * a for c, a in zip(curvatures, targets, strict=True)) / sum(curvatures)

        def end(algorithm):
            w = jnp.zeros(1)
            server, clients = algorithm.init_server(w), [algorithm.init_client(w)] * 2
            for _ in range(400):
                received, messages = algorithm.broadcast(w, server), []
                for client, (curvature, target) in enumerate(zip(curvatures, targets, strict=True)):
                    local, own = w, clients[client]
                    for _ in range(5):
                        gradient = curvature * (local - target)
                        local, own = algorithm.local_step(received, local, own, gradient)
                    message, clients[client] = algorithm.message(received, local, own)
                    messages.append(message)
                step, server = algorithm.server_step(w, server, mean(messages), 1.0)
                w = w + step
            return float(w[0])

        assert abs(end(scaffold(local_steps=5)) - optimum) < 1e-6
        assert abs(end(fedavg()) - optimum) > 0.05


class TestNames:
    def test_are_the_specs(self):
        assert set(ALGORITHMS) == {
            "fedavg",
            "adam",
            "fedadam",
            "secagg",
            "secadam",
            "secadam_fedadam",
            "fedprox",
            "scaffold",
        }

    def test_published_names_are_aliases(self):
        assert ALIASES == {"sgd": "fedavg", "ours": "secadam", "oursfedadam": "secadam_fedadam"}

    def test_an_algorithm_is_told_the_local_steps_if_it_depends_on_them(self):
        rng = np.random.default_rng(0)
        w, gradients = draw(rng), [draw(rng)] * 2
        one, two = (send(build("scaffold", local_steps=steps), w, gradients) for steps in (1, 2))
        assert_close(one.control, jax.tree.map(lambda leaf: 2 * leaf, two.control))
        assert_close(send(build("fedavg", local_steps=2), w, gradients), one.update)

    def test_secure_aggregation_is_asked_for_where_privacy_rests_on_it(self):
        secure = {name for name, build in ALGORITHMS.items() if build().secure}
        assert secure == {"secagg", "secadam", "secadam_fedadam"}
