"""Who holds what: latent Dirichlet allocation against the spec's recipe, and what all share."""

from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fl.data.partition import (
    MAX_DRAWS,
    PARTITIONS,
    PartitionError,
    assigned_classes,
    homogeneous,
    iid,
    latent_dirichlet,
    shards,
)

DISJOINT = {
    "lda": latent_dirichlet,
    "lda, skewed": partial(latent_dirichlet, alpha=0.1),
    "iid": iid,
    "shards": shards,
    "classes": assigned_classes,
}

label_lists = st.lists(st.integers(0, 4), min_size=30, max_size=80).map(np.array)
seeds = st.integers(0, 2**32)


def draw_by_the_recipe(labels, clients, alpha, rng):
    """Latent Dirichlet allocation, sentence by sentence as the spec has it."""
    classes = sorted(set(labels.tolist()))
    proportions = {label: rng.dirichlet([alpha] * clients) for label in classes}
    held = [[] for _ in range(clients)]
    for label in classes:
        indices = np.array([i for i, other in enumerate(labels) if other == label])
        rng.shuffle(indices)
        cuts = [round(share * len(indices)) for share in np.cumsum(proportions[label])]
        for client, (begin, end) in enumerate(zip([0, *cuts[:-1]], cuts, strict=True)):
            held[client] += indices[begin:end].tolist()
    return held


class TestLatentDirichlet:
    @given(label_lists, st.integers(1, 6), st.sampled_from([0.05, 0.5, 1, 10.0]), seeds)
    def test_follows_the_recipe_index_for_index(self, labels, clients, alpha, seed):
        expected = draw_by_the_recipe(labels, clients, alpha, np.random.default_rng(seed))
        assume(all(expected))
        parts = latent_dirichlet(labels, clients, np.random.default_rng(seed), alpha)
        assert [part.tolist() for part in parts] == expected

    def test_stays_what_it_was_when_the_results_were_made(self):
        """A change of NumPy's generators would change every result: it must not go unnoticed."""
        parts = latent_dirichlet(np.arange(20) % 3, 3, np.random.default_rng(500))
        assert [part.tolist() for part in parts] == KNOWN

    def test_alpha_is_one_half_unless_said(self):
        labels = np.arange(300) % 10
        default, half = (
            latent_dirichlet(labels, 5, np.random.default_rng(1), *alpha) for alpha in ((), (0.5,))
        )
        assert same(default, half)

    def test_draws_again_with_the_same_generator_where_a_client_is_left_empty(self):
        labels = np.arange(40) % 2
        redrawn = 0
        for seed in range(60):
            rng = np.random.default_rng(seed)
            expected = draw_by_the_recipe(labels, 4, 0.3, rng)
            draws = 1
            while not all(expected):
                expected = draw_by_the_recipe(labels, 4, 0.3, rng)
                draws += 1
            redrawn += draws > 1
            parts = latent_dirichlet(labels, 4, np.random.default_rng(seed), 0.3)
            assert [part.tolist() for part in parts] == expected
        assert redrawn > 10

    def test_gives_up_where_drawing_again_is_hopeless(self):
        class Counting:
            def __init__(self):
                self.rng, self.draws = np.random.default_rng(0), 0

            def dirichlet(self, *arguments, **options):
                self.draws += 1
                return self.rng.dirichlet(*arguments, **options)

            def __getattr__(self, name):
                return getattr(self.rng, name)

        rng = Counting()
        # Ten samples for ten clients, and whoever gets any of a class gets almost all of it.
        with pytest.raises(PartitionError, match="fewer clients or a larger alpha"):
            latent_dirichlet(np.zeros(10, int), 10, rng, alpha=0.01)
        assert rng.draws == MAX_DRAWS

    @pytest.mark.parametrize("alpha", [0, -1, float("nan")])
    def test_alpha_must_be_above_zero(self, alpha):
        with pytest.raises(PartitionError, match="alpha"):
            latent_dirichlet(np.zeros(10, int), 2, np.random.default_rng(0), alpha)

    def test_a_large_alpha_shares_equally(self):
        labels = np.repeat(np.arange(10), 400)
        counts = per_class(latent_dirichlet(labels, 4, np.random.default_rng(0), 1e6), labels)
        assert np.abs(counts - 100).max() <= 2

    def test_a_small_alpha_gives_a_class_to_one_client(self):
        labels = np.repeat(np.arange(100), 50)
        counts = per_class(latent_dirichlet(labels, 4, np.random.default_rng(0), 0.001), labels)
        assert (counts.max(0) == 50).mean() > 0.9

    @pytest.mark.parametrize("alpha", [0.5, 5])
    def test_shares_are_distributed_as_dirichlet_says(self, alpha):
        clients, classes, each = 4, 2000, 200
        labels = np.repeat(np.arange(classes), each)
        parts = latent_dirichlet(labels, clients, np.random.default_rng(0), alpha)
        got = per_class(parts, labels) / each  # [client, class]
        mean = 1 / clients
        variance = mean * (1 - mean) / (clients * alpha + 1)
        # Four standard errors of 2,000 draws.
        np.testing.assert_allclose(got.mean(1), mean, atol=4 * (variance / classes) ** 0.5)
        np.testing.assert_allclose(got.var(1), variance, rtol=0.15)
        # Classes are drawn independently of one another.
        between = np.corrcoef(got[0, :-1], got[0, 1:])[0, 1]
        assert abs(between) < 4 / classes**0.5

    def test_samples_of_a_class_are_shuffled(self):
        parts = latent_dirichlet(np.zeros(1000, int), 2, np.random.default_rng(0), 100)
        assert abs(parts[0].mean() - 499.5) < 60  # not the first half


@pytest.mark.parametrize("partition", DISJOINT.values(), ids=DISJOINT)
class TestDisjointPartitions:
    @given(labels=label_lists, clients=st.integers(1, 5), seed=seeds)
    def test_every_sample_is_held_once_and_every_client_holds_some(
        self, partition, labels, clients, seed
    ):
        if partition is assigned_classes:  # by default, whose classes nobody has are left out
            clients = len(np.unique(labels)) * -(-clients // 5)
        try:
            parts = partition(labels, clients, np.random.default_rng(seed))
        except PartitionError:
            assume(False)
        assert len(parts) == clients
        assert all(len(part) for part in parts)
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
        assert {part.dtype for part in parts} == {np.dtype(np.int64)}

    @given(labels=label_lists, clients=st.integers(1, 5), seed=seeds)
    def test_the_generator_alone_decides(self, partition, labels, clients, seed):
        before = labels.copy()
        try:
            first, again = (
                partition(labels, clients, np.random.default_rng(seed)) for _ in range(2)
            )
        except PartitionError:
            assume(False)
        assert same(first, again)
        assert np.array_equal(labels, before)

    def test_seeds_differ(self, partition):
        labels = np.arange(200) % 5
        first, other = (partition(labels, 5, np.random.default_rng(seed)) for seed in (0, 1))
        assert not same(first, other)

    def test_more_clients_than_samples_are_refused(self, partition):
        with pytest.raises(PartitionError):
            partition(np.arange(6) % 2, 7, np.random.default_rng(0))


@pytest.mark.parametrize("clients", [0, -1])
@pytest.mark.parametrize("partition", PARTITIONS.values(), ids=PARTITIONS)
def test_at_least_one_client_is_needed(partition, clients):
    with pytest.raises(PartitionError):
        partition(np.arange(20) % 4, clients, np.random.default_rng(0))


def test_names_are_all_there():
    assert set(PARTITIONS) == {"lda", "homogeneous", "iid", "shards", "classes"}
    assert issubclass(PartitionError, ValueError)


def test_homogeneous_gives_everyone_everything():
    parts = homogeneous(np.arange(12) % 3, 4, np.random.default_rng(0))
    assert [part.tolist() for part in parts] == [list(range(12))] * 4


class TestIID:
    @given(label_lists, st.integers(1, 12), seeds)
    def test_parts_are_of_equal_size_give_or_take_one(self, labels, clients, seed):
        sizes = [len(part) for part in iid(labels, clients, np.random.default_rng(seed))]
        assert max(sizes) - min(sizes) <= 1

    def test_labels_are_spread_as_in_the_whole(self):
        labels = np.repeat(np.arange(10), 1000)
        counts = per_class(iid(labels, 5, np.random.default_rng(0)), labels)
        assert np.abs(counts - 200).max() < 60  # five standard deviations


class TestShards:
    @pytest.mark.parametrize("clients", [5, 10, 50])
    def test_a_client_sees_at_most_two_labels_where_shards_fit_into_classes(self, clients):
        labels = np.random.default_rng(1).permutation(np.arange(1000) % 10)
        parts = shards(labels, clients, np.random.default_rng(0))
        seen = [len(set(labels[part].tolist())) for part in parts]
        assert max(seen) == 2
        assert {len(part) for part in parts} == {1000 // clients}

    @given(st.integers(1, 30), seeds)
    def test_a_client_sees_at_most_one_label_more_a_shard_where_they_do_not_fit(
        self, clients, seed
    ):
        labels = np.arange(1000) % 10
        # Shards no longer than a class: each crosses one border at most.
        assume(2 * clients >= 10)
        parts = shards(labels, clients, np.random.default_rng(seed))
        assert max(len(set(labels[part].tolist())) for part in parts) <= 4

    @given(st.integers(1, 10), st.integers(1, 4), seeds)
    def test_shards_are_runs_of_the_samples_sorted_by_label(self, clients, each, seed):
        labels = np.random.default_rng(seed).integers(0, 5, 120)
        parts = shards(labels, clients, np.random.default_rng(seed), each)
        position = np.argsort(np.argsort(labels, kind="stable"))  # of every sample, once sorted
        for part in parts:
            gaps = np.diff(position[part]) != 1
            assert gaps.sum() <= each - 1

    def test_shards_are_dealt_at_random(self):
        labels = np.repeat(np.arange(10), 100)
        hands = {
            tuple(np.unique(labels[shards(labels, 10, np.random.default_rng(seed))[0]]))
            for seed in range(20)
        }
        assert len(hands) > 10

    def test_fewer_samples_than_shards_are_refused(self):
        with pytest.raises(PartitionError):
            shards(np.zeros(7, int), 4, np.random.default_rng(0))


class TestAssignedClasses:
    classes = ([0, 1], [1], [2, 1], [3])

    def test_clients_hold_their_own_classes_alone_and_share_them_equally(self):
        labels = np.random.default_rng(0).integers(0, 5, 400)
        parts = assigned_classes(labels, 4, np.random.default_rng(0), self.classes)
        counts = per_class(parts, labels)
        for client, own in enumerate(self.classes):
            assert np.flatnonzero(counts[client]).tolist() == sorted(own)
        for label in range(4):
            held = counts[counts[:, label] > 0, label]
            assert held.max() - held.min() <= 1
            assert held.sum() == (labels == label).sum()

    def test_no_sample_is_held_twice(self):
        labels = np.random.default_rng(0).integers(0, 5, 400)
        parts = assigned_classes(labels, 4, np.random.default_rng(0), self.classes)
        held = np.concatenate(parts)
        assert len(np.unique(held)) == len(held) == (labels < 4).sum()

    def test_by_default_clients_take_turns(self):
        labels = np.arange(90) % 3
        parts = assigned_classes(labels, 5, np.random.default_rng(0))
        assert [set(labels[part].tolist()) for part in parts] == [{0}, {1}, {2}, {0}, {1}]

    @pytest.mark.parametrize("classes", [[[0], [7]], [[0], []]])
    def test_a_client_that_would_hold_nothing_is_refused_and_named(self, classes):
        with pytest.raises(PartitionError, match="client 1"):
            assigned_classes(np.arange(9) % 3, 2, np.random.default_rng(0), classes)

    def test_every_client_needs_its_classes(self):
        with pytest.raises(PartitionError, match="2 lists of classes for 3 clients"):
            assigned_classes(np.arange(9) % 3, 3, np.random.default_rng(0), [[0], [1]])


def per_class(parts, labels):
    """Count samples: [client, class]."""
    return np.array([np.bincount(labels[part], minlength=labels.max() + 1) for part in parts])


def same(parts, others):
    return all(np.array_equal(part, other) for part, other in zip(parts, others, strict=True))


# [client][held], drawn with NumPy 2.4.6.
KNOWN = [
    [0, 15, 1, 14, 2, 17],
    [3, 12, 18, 10, 19, 11, 5],
    [6, 9, 13, 16, 4, 7, 8],
]
