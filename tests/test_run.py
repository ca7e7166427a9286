"""Runs from the first round to the last: evaluation, convergence, divergence, interruption."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tqdm import tqdm

from fl.data.sampling import Cohort, MinibatchSampler
from fl.simulation import algorithms, checkpoint, dispatch, engine, keeping, pgd, run
from fl.simulation.mapping import LOOP, MAPPINGS
from fl.simulation.models import MODELS
from fl.simulation.resting import Resting
from fl.simulation.rounds import Work
from fl.simulation.training import Samples, sample_losses

CLIENTS, BATCH, SIDE = 3, 4, 4
MODEL = MODELS["softmax"]()
PLAN = run.Plan(rounds=9, local_steps=1, evaluate_every=4)


class Killed(BaseException):
    """Stands for the end of a process in the middle of a run."""


@pytest.fixture(params=["secadam", "adam"])
def algorithm(request):
    return request.param


# Federations that compute the same share what is compiled.
@lru_cache
def computed(algorithm, **rates):
    losses = sample_losses(MODEL)
    return Work(algorithms.ALGORITHMS[algorithm](**rates), losses, pgd.pgd(losses, 1e-3))


def make(algorithm="fedavg", mapping=None, cohort=None, **rates):
    """A small federation of random images, of which so many take part; a sampler at its start."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, SIDE, SIDE, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, 40, dtype=np.int32)
    samples = Samples(jnp.asarray(images), jnp.asarray(labels), jnp.float32(255))
    params = MODEL.init(jax.random.key(0), samples.take(np.arange(1))[0])
    chosen = cohort and Cohort(cohort, np.random.default_rng(1))
    parts, seeds = np.array_split(np.arange(40), CLIENTS), [500] * CLIENTS
    sampler = MinibatchSampler(parts, BATCH, seeds, chosen)
    rest, work = cohort is not None, computed(algorithm, **rates)
    return engine.start(work, params, samples, CLIENTS, 1, mapping, rest=rest), sampler


def weight_sum(params):
    """Stands for an accuracy: any other function of the parameters would do."""
    return float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(params)))


SCORES = {"sum": weight_sum}


def bits(tree):
    leaves = [
        leaf.packed() if isinstance(leaf, Resting) else leaf for leaf in jax.tree.leaves(tree)
    ]
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(leaves)]


def test_evaluates_every_few_rounds_and_after_the_last_one():
    outcome = run.train(*make(), SCORES, PLAN)
    assert [evaluation.round for evaluation in outcome.history] == [4, 8, 9]
    assert outcome.history[-1].scores == {"sum": weight_sum(outcome.state.params)}
    assert not outcome.diverged
    assert outcome.stopped is None


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_loss_in_the_history_is_that_of_its_round(mapping):
    federation, sampler = make(mapping=mapping)
    _, losses = federation.run(federation.state, sampler.draw(9, 1))
    outcome = run.train(*make(mapping=mapping), SCORES, PLAN)
    seen = [evaluation.loss for evaluation in outcome.history]
    np.testing.assert_allclose(seen, np.asarray(losses)[[3, 7, 8]], rtol=1e-6)


def at_least_70(evaluation):
    return evaluation.scores["accuracy"] >= 0.7


@pytest.mark.parametrize(
    ("target", "accuracy", "stops"),
    [(0.7, 0.7, True), (0.7, 0.69, False), (None, 1.0, False)],
)
def test_an_accuracy_is_reached_when_it_is_there(target, accuracy, stops):
    evaluation = run.Evaluation(1, 0.0, {"accuracy": accuracy})
    assert run.until_accuracy(target)(evaluation) == stops


def test_speed_is_of_the_rounds_after_the_first_and_without_evaluations(monkeypatch):
    """By a clock that says a second for a round, ten more for the first, 100 for an evaluation."""
    federation, sampler = make(mapping=LOOP)
    now = 0

    def run_rounds(state, schedule):
        nonlocal now
        now += len(schedule.clients) + (0 if now else 10)
        return federation.run(state, schedule)

    def score(params):
        nonlocal now
        now += 100
        return 0.5

    monkeypatch.setattr(run.time, "perf_counter", lambda: now)
    outcome = run.train(federation._replace(run=run_rounds), sampler, {"sum": score}, PLAN)
    assert (outcome.start_s, outcome.wall_s, outcome.rounds_per_s) == (11, 9 + 10 + 300, 1)


def test_time_that_an_interrupted_process_spent_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "CHECKPOINT_EVERY", 0.0)
    saved = tmp_path / "run"
    save = checkpoint.save
    monkeypatch.setattr(
        checkpoint, "save", lambda path, kept, notes: save(path, kept, notes | {"wall_s": 1000.0})
    )
    run.train(*make(), SCORES, PLAN, saved=saved)
    assert 1000 <= run.train(*make(), SCORES, PLAN, saved=saved).wall_s < 1100


def test_stops_where_an_evaluation_says_so():
    accuracies = iter([0.2, 0.5, 0.7, 0.6])
    scores = {"accuracy": lambda _: next(accuracies)}
    outcome = run.train(*make(), scores, PLAN._replace(rounds=40), at_least_70)
    assert outcome.stopped == 12
    assert outcome.history[-1] == (12, outcome.history[-1].loss, {"accuracy": 0.7})


def test_run_that_was_stopped_but_not_recorded_does_not_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "CHECKPOINT_EVERY", 0.0)
    asked = PLAN._replace(rounds=40), at_least_70, tmp_path / "run"
    first = run.train(*make(), {"accuracy": lambda _: 0.8}, *asked)
    again = run.train(*make(), {"accuracy": lambda _: 0.8}, *asked)
    assert first.stopped == again.stopped == 4
    assert bits(again.state.params) == bits(first.state.params)


def test_progress_shows_a_loss_once_it_is_known(monkeypatch):
    shown = []
    monkeypatch.setattr(tqdm, "set_postfix", lambda _, figures, **more: shown.append([*figures]))
    run.train(*make(mapping=LOOP), SCORES, PLAN, label="a run")
    assert [] in shown, "of the first round it is still being computed"
    assert shown[-1][0] == "loss"


def test_stops_when_the_loss_is_no_number():
    outcome = run.train(*make(client_rate=1e38), SCORES, PLAN._replace(rounds=1000))
    assert outcome.diverged
    assert all(np.isfinite(evaluation.loss) for evaluation in outcome.history)


def test_parameters_that_overflow_in_the_last_round_count_as_diverged():
    # The loss of the only round is still finite: it comes from the parameters before it.
    federation, sampler = make(client_rate=3e38, server_rate=3e38)
    outcome = run.train(federation, sampler, SCORES, PLAN._replace(rounds=1))
    assert outcome.diverged
    assert outcome.history == []


@pytest.mark.parametrize("cohort", [None, 2])
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_interrupted_run_goes_on_bit_for_bit(algorithm, mapping, cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "CHECKPOINT_EVERY", 0.0)
    monkeypatch.setattr(dispatch, "SCANNED", 2)
    asked = algorithm, mapping, cohort
    whole = run.train(*make(*asked), SCORES, PLAN)

    saved = tmp_path / "kept" / "run"
    evaluations = 0

    def accuracy(params):
        nonlocal evaluations
        evaluations += 1
        if evaluations == 2:
            raise Killed
        return weight_sum(params)

    with pytest.raises(Killed):
        run.train(*make(*asked), {"sum": accuracy}, PLAN, saved=saved)
    # Before the evaluation after round 8, so some rounds were saved and some must be run again.
    federation, sampler = make(*asked)
    drawn, draw = [], sampler.draw
    sampler.draw = lambda rounds, steps: drawn.append(rounds) or draw(rounds, steps)
    resumed = run.train(federation, sampler, {"sum": accuracy}, PLAN, saved=saved)
    assert sum(drawn) < PLAN.rounds  # those that are done are not drawn again
    assert evaluations == 4  # the one after round 4 is not made again
    assert bits(resumed.state) == bits(whole.state)
    assert resumed.history == whole.history


def test_finished_run_that_was_not_recorded_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "CHECKPOINT_EVERY", 0.0)
    saved = tmp_path / "run"
    first = run.train(*make(), SCORES, PLAN, saved=saved)
    again = run.train(*make(), SCORES, PLAN, saved=saved)
    assert bits(again.state.params) == bits(first.state.params)
    assert again.history == first.history


@pytest.fixture
def every_fourth():
    keeping.choose_checkpoint_rounds(4)
    yield
    keeping.choose_checkpoint_rounds(None)


@pytest.mark.parametrize("part", ["state/d/*", "notes/metadata"])
# orbax's other reads may end when the loop that heard of the broken one is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_broken_checkpoint_is_reported_and_the_run_starts_anew(part, every_fourth, tmp_path):
    whole = run.train(*make(), SCORES, PLAN)
    saved = tmp_path / "run"
    run.train(*make(), SCORES, PLAN, saved=saved)
    for broken in saved.glob(f"*/{part}"):
        broken.write_bytes(broken.read_bytes()[:-5])
    with pytest.warns(UserWarning, match="cannot be read.*starting from the first round"):
        outcome = run.train(*make(), SCORES, PLAN, saved=saved)
    assert bits(outcome.state.params) == bits(whole.state.params)


def test_a_checkpoint_is_kept_every_so_many_rounds(every_fourth, tmp_path, monkeypatch):
    save, rounds = checkpoint.save, []

    def noted(folder, state, notes):
        rounds.append(notes["done"])
        save(folder, state, notes)

    monkeypatch.setattr(checkpoint, "save", noted)
    outcome = run.train(*make(), SCORES, PLAN._replace(evaluate_every=3), saved=tmp_path / "run")
    assert rounds == [4, 8]
    assert [each.round for each in outcome.history] == [3, 6, 9]
    assert bits(outcome.state) == bits(run.train(*make(), SCORES, PLAN).state)


def test_run_goes_on_where_no_checkpoint_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "CHECKPOINT_EVERY", 0.0)
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="no checkpoint"):
        outcome = run.train(*make(), SCORES, PLAN, saved=tmp_path / "file" / "run")
    assert outcome.history[-1].round == 9


def test_checkpoint_of_another_kind_of_state_is_refused(tmp_path):
    path = tmp_path / "some"
    checkpoint.save(path, {"a": jnp.zeros(3)}, {})
    with pytest.raises(checkpoint.CheckpointError, match="another kind of state"):
        checkpoint.load(path, like={"a": jnp.zeros(4)})
    with pytest.raises(checkpoint.CheckpointError, match="another kind of state"):
        checkpoint.load(path, like={"a": jnp.zeros(3), "b": jnp.zeros(1)})


def test_checkpoint_that_cannot_be_written_leaves_the_earlier_one(tmp_path):
    folder = tmp_path / "some"
    checkpoint.save(folder, jnp.arange(3), {"done": 1})
    with pytest.raises(checkpoint.CheckpointError, match="cannot be written"):
        checkpoint.save(folder, jnp.arange(4), {"done": object()})
    state, notes = checkpoint.load(folder, like=jnp.zeros(3, int))
    assert notes == {"done": 1}
    assert state.tolist() == [0, 1, 2]


def test_checkpoint_takes_the_place_of_the_earlier_one(tmp_path):
    folder = tmp_path / "some"
    for done in (5, 3):
        checkpoint.save(folder, jnp.arange(3) + done, {"done": done})
    assert len(list(folder.iterdir())) == 1
    state, notes = checkpoint.load(folder, like=jnp.zeros(3, int))
    assert (state.tolist(), notes) == ([3, 4, 5], {"done": 3})
    checkpoint.remove(folder)
    assert not list(tmp_path.iterdir())
    assert not checkpoint.exists(folder)
    with pytest.raises(FileNotFoundError):
        checkpoint.load(folder, like=jnp.zeros(3, int))


def test_checkpoint_holds_arrays_of_any_type_to_the_bit(tmp_path):
    state = {
        "device": [jnp.float32([jnp.nan, -0.0, 1e-45]), jnp.uint8(3), jnp.zeros((2, 0))],
        "host": (np.arange(3, dtype=np.uint64) - 1, np.float64([0.1]), np.zeros((0, 2), np.int64)),
    }
    checkpoint.save(tmp_path / "some", state, {"loss": [float("nan"), 0.1]})
    like = {
        "device": [jnp.zeros(3), jnp.uint8(0), jnp.zeros((2, 0))],
        "host": (np.zeros(1, np.uint64), np.zeros(9), np.ones((4, 2), np.int64)),
    }
    found, notes = checkpoint.load(tmp_path / "some", like)
    assert bits(found) == bits(state)
    for one, two in zip(*map(jax.tree.leaves, (found, state)), strict=True):
        assert (type(one), one.shape, one.dtype) == (type(two), two.shape, two.dtype)
    assert str(notes) == "{'loss': [nan, 0.1]}"


def test_copies_are_kept_of_the_rounds_asked_for_and_change_nothing(tmp_path):
    copies = {number: tmp_path / f"{number}" for number in (0, 3, 9)}
    outcome = run.train(*make("secadam"), SCORES, PLAN, copies=copies)
    assert bits(outcome.state) == bits(run.train(*make("secadam"), SCORES, PLAN).state)
    federation, sampler = make("secadam")
    state, _ = federation.run(federation.state, sampler.draw(3, 1))
    _, other = make("secadam")
    assert bits(keeping.stand(copies[3], state, other)) == bits(state)
    assert bits(other.draw(2, 1)) == bits(sampler.draw(2, 1))
    assert bits(keeping.stand(copies[9], state, other)) == bits(outcome.state)
    start = make("secadam")[0].state
    assert bits(keeping.stand(copies[0], start, other)) == bits(start)


def test_a_checkpoint_beyond_a_copy_that_is_missing_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "CHECKPOINT_EVERY", 0.0)
    saved, copy = tmp_path / "run", tmp_path / "copy"
    run.train(*make(), SCORES, PLAN, saved=saved)
    outcome = run.train(*make(), SCORES, PLAN, saved=saved, copies={3: copy})
    assert copy.exists()
    assert [evaluation.round for evaluation in outcome.history] == [4, 8, 9]
