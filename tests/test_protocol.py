"""The performance experiment under the protocol: the same numbers, and what they took."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))  # a folder of scripts

import coding
import protocol
from coding import COMMITTEE, MASKED
from protocol import Protocol, Settings
from secagg import graph, masks, seal
from secagg.graph import ALL, AUTO
from secagg.quantise import Quantiser
from secagg.records import TooFewError
from secagg.runner import Result

from fl.data.sampling import MinibatchSampler
from fl.simulation import algorithms, engine, pgd
from fl.simulation.algorithms import Broadcast, Moments
from fl.simulation.models import MODELS
from fl.simulation.rounds import Work
from fl.simulation.training import Samples, sample_losses

CLIENTS, BATCH, SIDE = 5, 4, 4
NOTHING, EVERYONE = Broadcast({}), range(CLIENTS)
SECURE = ("secagg", "secadam", "secadam_fedadam")


def settings(**values):
    return Settings(**{"clients": CLIENTS, "neighbours": ALL, "drop_out": 0.0, "seed": 3} | values)


def federation(algorithm, secure=None, local_steps=1):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, SIDE, SIDE, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, 40, dtype=np.int32)
    samples = Samples(jnp.asarray(images), jnp.asarray(labels), jnp.float32(255))
    model = MODELS["softmax"]()
    losses = sample_losses(model)
    aggregator = secure.aggregator() if secure else None
    work = Work(algorithms.ALGORITHMS[algorithm](), losses, pgd.none(), aggregator=aggregator)
    params = model.init(jax.random.key(0), samples.take(np.arange(1))[0])
    sampler = MinibatchSampler(np.array_split(np.arange(40), CLIENTS), BATCH, range(CLIENTS))
    return engine.start(work, params, samples, CLIENTS, local_steps), sampler


def train(algorithm, rounds, secure=None, local_steps=1):
    started, sampler = federation(algorithm, secure, local_steps)
    state, _ = started.run(started.state, sampler.draw(rounds, local_steps))
    return state


def flat(tree):
    return np.concatenate([np.zeros(0), *(np.ravel(leaf) for leaf in jax.tree.leaves(tree))])


@pytest.mark.parametrize(
    ("algorithm", "local_steps", "ratio"),
    [
        ("secagg", 1, COMMITTEE),
        ("secadam", 2, COMMITTEE),
        ("secadam", 2, MASKED),
        ("secadam_fedadam", 1, COMMITTEE),
    ],
)
def test_training_is_that_in_the_clear(algorithm, local_steps, ratio):
    secure = Protocol(settings(ratio=ratio))
    under = train(algorithm, 5, secure, local_steps)
    clear = train(algorithm, 5, None, local_steps)
    moved = np.abs(flat(clear.params) - flat(train(algorithm, 1).params)).max()
    assert moved > 1e-3
    np.testing.assert_allclose(flat(under.params), flat(clear.params), rtol=0, atol=2e-6)
    spent = secure.summary(5)
    assert spent["clipped"] == spent["dropped"] == spent["abandoned"] == 0
    entries = flat(clear.params).size * (1 if algorithm == "secagg" else 2)
    # The ratio goes up once, in half as many entries of half the size; sums go down to all.
    opened = ratio == COMMITTEE and algorithm != "secagg"
    least = 8 * entries + opened * 2 * entries / CLIENTS
    assert least < spent["sent_bytes"] < least + 4000
    assert (spent["received_bytes"] > 8 * entries + 1500) == opened
    assert all(spent[f"{stage}_s"] > 0 for stage in protocol.STAGES)


def moments(clients, entries, seed):
    """Moments as trained clients send them: first ones small, second ones over ten magnitudes."""
    rng = np.random.default_rng(seed)
    v = 10.0 ** rng.uniform(-14, -1, (clients, entries))
    m = rng.normal(0, 1, (clients, entries)) * np.sqrt(v)
    return Moments({"w": m.astype("float32")}, {"w": (v + 1e-16).astype("float32")})


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ratio_by", [MASKED, COMMITTEE])
def test_the_ratio_is_within_the_bound_of_quantisation(seed, ratio_by):
    sent = moments(CLIENTS, 2000, seed)
    aggregator = Protocol(settings(ratio=ratio_by)).aggregator()
    got, memory = aggregator.aggregate(sent, aggregator.init(None, CLIENTS), NOTHING, EVERYONE)
    assert bool(aggregator.accepts(memory))
    m, v = (np.asarray(part["w"], np.float64).mean(0) for part in sent)
    ratio = m / np.sqrt(v)
    # Each sum is off by its quantiser's error at most, magnified where q is smallest.
    span, spare = (masks.SPAN, 0) if ratio_by == MASKED else (0, seal.shift(CLIENTS))
    m_off, v_off = (
        Quantiser.for_sum(clip, CLIENTS, spare).error(CLIENTS) / CLIENTS
        for clip in (coding.M_CLIP * 2**span, coding.V_CLIP * 4**span)
    )
    smallest = 2.0**-span
    v_share = v_off / smallest**2 / v
    assert (v_share < 0.5).all()
    bound = (np.abs(m) + m_off / smallest) / np.sqrt(v * (1 - v_share)) - np.abs(ratio)
    # And float32, in which the server computes.
    bound += 1e-6 * np.abs(ratio) + 1e-9
    assert (np.abs(got.m["w"] / np.sqrt(got.v["w"]) - ratio) <= bound).all()
    if ratio_by == MASKED:  # what the server holds is not the moments: q is in it
        assert np.median(np.abs(np.log2(got.v["w"] / v))) > 0.5
    else:  # nor is it anything but the ratio
        assert (got.v["w"] == 1).all()


def test_updates_beyond_the_clip_range_are_counted():
    secure = Protocol(settings())
    aggregator = secure.aggregator()
    update = np.zeros((CLIENTS, 3), np.float32)
    update[1] = (100, -100, 1)
    got, _ = aggregator.aggregate({"w": update}, aggregator.init(None, CLIENTS), NOTHING, EVERYONE)
    limit = coding.UPDATE_CLIP / CLIENTS
    np.testing.assert_allclose(got["w"], [limit, -limit, 1 / CLIENTS], rtol=1e-6)
    assert secure.summary(1)["clipped"] == 2


@pytest.mark.parametrize("algorithm", SECURE)
def test_what_is_no_number_ends_a_run_as_in_the_clear(algorithm):
    """It cannot be sent: `run` takes the parameters for those of a run that diverged."""
    secure = Protocol(settings())
    started, sampler = federation(algorithm, secure)
    broken = jax.tree.map(lambda leaf: leaf * np.nan, started.state.params)
    state, _ = started.run(started.state._replace(params=broken), sampler.draw(1, 1))
    assert np.isnan(flat(state.params)).all()


def test_rounds_without_dealers_are_abandoned():
    """With few neighbours and many who drop out, all of the committee may be gone."""
    secure = Protocol(settings(clients=9, neighbours=2, drop_out=0.3, seed=0))
    aggregator, update = secure.aggregator(), np.ones((9, 3), np.float32)
    memory = aggregator.init(None, 9)
    for _ in range(40):
        sent = Moments({"w": update}, {"w": update})
        got, memory = aggregator.aggregate(sent, memory, NOTHING, range(9))
        if bool(aggregator.accepts(memory)):
            np.testing.assert_allclose(got.m["w"] / np.sqrt(got.v["w"]), 1, rtol=1e-6)
    assert 0 < secure.summary(40)["abandoned"] < 40


def test_no_round_is_played_twice():
    aggregator = Protocol(settings()).aggregator()
    update, memory = {"w": np.zeros((CLIENTS, 3), np.float32)}, aggregator.init(None, CLIENTS)
    aggregator.aggregate(update, memory, NOTHING, EVERYONE)
    with pytest.raises(ValueError, match="round 0 has been played"):
        aggregator.aggregate(update, memory, NOTHING, EVERYONE)


@pytest.mark.parametrize("ratio", [MASKED, COMMITTEE])
def test_second_moments_that_are_lost_lead_to_no_step(ratio):
    aggregator = Protocol(settings(ratio=ratio)).aggregator()
    nothing = {"w": np.zeros((CLIENTS, 3), np.float32)}
    got, _ = aggregator.aggregate(
        Moments(nothing, nothing), aggregator.init(None, CLIENTS), NOTHING, EVERYONE
    )
    assert (got.m["w"] / np.sqrt(got.v["w"])).tolist() == [0, 0, 0]


@pytest.mark.parametrize("algorithm", SECURE)
def test_survivors_are_averaged_and_rounds_of_too_few_are_abandoned(algorithm):
    secure = Protocol(settings(drop_out=0.3, seed=1))
    started, sampler = federation(algorithm, secure)
    state, abandoned = started.state, []
    for _ in range(12):
        before = flat(state.params).copy(), flat(state.server).copy()
        already = secure.summary(0).get("abandoned", 0)
        state, _ = started.run(state, sampler.draw(1, 1))
        abandoned.append(secure.summary(0)["abandoned"] > already)
        same = [
            np.array_equal(old, flat(new))
            for old, new in zip(before, (state.params, state.server), strict=True)
        ]
        assert same[0] == abandoned[-1]
        if abandoned[-1]:
            assert same[1]
    assert 0 < sum(abandoned) < 12
    # Averages are over rounds that gave a sum, in which at most two of the five are missing.
    entries = flat(state.params).size * (1 if algorithm == "secagg" else 2)
    assert 8 * entries * 0.8 <= secure.summary(12)["sent_bytes"]
    assert np.isfinite(flat(state.params)).all()
    assert int(state.memory[0]) == 12, "no round number is used twice"


def test_a_run_that_another_process_began_claims_no_totals():
    secure = Protocol(settings())
    assert secure.summary(3) == {}
    train("secagg", 2, secure)
    assert "abandoned" in secure.summary(2)
    later = secure.summary(3)
    assert later["sent_bytes"] > 0
    assert "abandoned" not in later


def test_runs_whose_ratio_a_committee_forms_repeat_to_the_bit():
    first, second = (train("secadam", 3, Protocol(settings(drop_out=0.1))) for _ in range(2))
    assert np.array_equal(flat(first.params), flat(second.params))


def test_means_are_over_survivors():
    secure = Protocol(settings(drop_out=0.2, seed=5))
    update = {"w": np.diag([1.0, 2, 3, 0.5, 1.5]).astype("float32")}
    aggregator = secure.aggregator()
    memory = aggregator.init(None, CLIENTS)
    seen = set()
    for _ in range(15):
        got, memory = aggregator.aggregate(update, memory, NOTHING, EVERYONE)
        if bool(aggregator.accepts(memory)):
            there = got["w"] > 0
            expected = update["w"].sum(0)[there] / there.sum()
            np.testing.assert_allclose(got["w"][there], expected, rtol=1e-6)
            seen.add(int(there.sum()))
    assert len(seen) > 1


def test_every_round_has_a_graph_of_its_own_for_as_many_as_drop_out(monkeypatch):
    seen = []

    def look(parameters, *_):
        seen.append(parameters.graph)
        raise TooFewError

    monkeypatch.setattr(protocol.runner, "play", look)
    secure = Protocol(settings(clients=100, neighbours=AUTO, drop_out=0.01))
    aggregator, memory = secure.aggregator(), secure.aggregator().init(None, 100)
    for _ in range(2):
        sent = {"w": np.zeros((100, 1), np.float32)}
        _, memory = aggregator.aggregate(sent, memory, NOTHING, range(100))
    assert seen[0] != seen[1]
    degree = graph.choose_degree(100, graph.most_gone(100, 0.01), 10)
    assert degree != graph.choose_degree(100, 10, 10)
    for each in seen:
        assert {len(others) for others in each.neighbours.values()} == {degree.neighbours}
        assert each.threshold == degree.threshold


def test_stages_take_what_clients_and_server_spent_on_them(monkeypatch):
    def made_up(parameters, *_):
        nobody = dict.fromkeys(range(CLIENTS), 10)
        client_s = dict.fromkeys(protocol.STAGES, 1.0)
        server_s = dict.fromkeys(protocol.STAGES, 2.0) | {"sum": 4.0}
        survivors = tuple(range(CLIENTS))
        return Result(np.zeros(1, np.uint64), survivors, nobody, nobody, client_s, server_s)

    monkeypatch.setattr(protocol.runner, "play", made_up)
    secure = Protocol(settings())
    aggregator = secure.aggregator()
    aggregator.aggregate(
        {"w": np.zeros((CLIENTS, 1), np.float32)}, aggregator.init(None, CLIENTS), NOTHING, EVERYONE
    )
    spent = secure.summary(1)
    assert spent["sent_bytes"] == spent["received_bytes"] == 10
    seconds = {stage: spent[f"{stage}_s"] for stage in protocol.STAGES}
    assert seconds == dict.fromkeys(protocol.STAGES, 3.0) | {"unmask": 7.0}


def test_what_was_broadcast_is_part_of_a_round(monkeypatch):
    seen = []

    def look(parameters, *_, **__):
        seen.append(parameters.broadcast)
        raise TooFewError

    monkeypatch.setattr(protocol.runner, "play", look)
    w = {"a": np.float32([1, 2]), "b": np.float32([3])}
    broadcasts = [
        Broadcast(w),
        Broadcast(w | {"a": np.float32([1, np.nextafter(np.float32(2), np.float32(3))])}),
        Broadcast({"a": w["a"][:1], "b": np.float32([2, 3])}),
        Broadcast({"a": w["a"].reshape(1, 2), "b": w["b"]}),
        Broadcast({"a": w["a"], "c": w["b"]}),
        Broadcast(w, {"a": w["a"], "b": w["b"]}),
        Broadcast(w),
    ]
    update = {"w": np.zeros((CLIENTS, 1), np.float32)}
    for received in broadcasts:
        aggregator = Protocol(settings()).aggregator()
        aggregator.aggregate(update, aggregator.init(None, CLIENTS), received, EVERYONE)
    assert len(set(seen)) == len(broadcasts) - 1
    assert seen[0] == seen[-1]


def test_the_engine_hands_the_protocol_what_it_broadcast(monkeypatch):
    seen = []
    monkeypatch.setattr(protocol, "digest", lambda got: seen.append(flat(got.params)) or bytes(32))
    secure = Protocol(settings())
    started, sampler = federation("secadam", secure)
    state = started.state
    for _ in range(2):
        broadcast = flat(state.params).copy()
        state, _ = started.run(state, sampler.draw(1, 1))
        assert np.array_equal(seen[-1], broadcast)
    assert not np.array_equal(*seen)


def test_neighbours_give_the_same_sum():
    update = {"w": np.random.default_rng(0).normal(size=(12, 7)).astype("float32")}
    aggregator = Protocol(settings(clients=12, neighbours=6)).aggregator()
    got, _ = aggregator.aggregate(update, aggregator.init(None, 12), NOTHING, range(12))
    np.testing.assert_allclose(got["w"], update["w"].mean(0), rtol=1e-5, atol=1e-7)
