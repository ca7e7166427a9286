"""What is done to a message or an aggregate before it is seen: clipping and noise.

Each is an optax transformation, so that several can be chained. Those that draw noise take the
random key as an extra argument, `update(..., key=key)`: `optax.add_noise` draws from a key of its
own, which would give every client the same noise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


def clip_by_norm(max_norm: float, as_published: bool = False) -> optax.GradientTransformation:
    """Bring the L2 norm over all entries down to a bound (Abadi et al. 2016, arXiv:1607.00133).

    ==================  ==========================  ===============================
    norm of the update  default: / max(1, norm/C)   as published: / min(1, norm/C)
    ==================  ==========================  ===============================
    above C             scaled down to C            as it is
    at most C           as it is                    blown up to C
    0                   0                           0 (not a number in that code)
    ==================  ==========================  ===============================

    Args:
        max_norm: the bound C, above 0.
        as_published: do what the published code does.
    """
    if not as_published:
        return optax.clip_by_global_norm(max_norm)

    def blow_up(updates, state, params=None):
        norm = optax.tree.norm(updates)
        scale = jnp.where((norm > 0) & (norm < max_norm), max_norm / norm, 1.0)
        return optax.tree.scale(scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), blow_up)


def clip_moments(max_norm: float) -> optax.GradientTransformation:
    """Bring the joint L2 norm of a client's moments down to a bound, as smaller gradients would.

    With f the largest factor in [0, 1] for which |(f m, f^2 v)| is at most the bound, (m, v)
    becomes (f m, f^2 v): what the client would have sent, had all its gradients been f times as
    large. So its own ratio m / sqrt(v) stays what it was, which one factor for both would change.

    Args:
        max_norm: the bound C, above 0.
    """

    def update(moments, state, params=None):
        m, v = (optax.tree.norm(part) / max_norm for part in moments)
        # The root of f^4 v^2 + f^2 m^2 = 1, in the form that neither cancels nor divides by v.
        squared = jnp.minimum(1.0, 2 / (m**2 + jnp.hypot(m**2, 2 * v)))
        m = optax.tree.scale(jnp.sqrt(squared), moments.m)
        return moments._replace(m=m, v=optax.tree.scale(squared, moments.v)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def finite_or_zeros() -> optax.GradientTransformation:
    """Make zeros of a message whose L2 norm is not a finite number.

    No factor would bring such a message within a bound, and its NaN would show in the sum who is
    in it.
    """

    def update(message, state, params=None):
        finite = jnp.isfinite(optax.tree.norm(message))
        return jax.tree.map(lambda entry: jnp.where(finite, entry, 0), message), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def add_noise(deviation: float) -> optax.GradientTransformationExtraArgs:
    """Add Gaussian noise to every entry; fresh for every key.

    Args:
        deviation: standard deviation, at least 0.
    """

    def update(updates, state, params=None, *, key, **extra_args):
        leaves, structure = jax.tree.flatten(updates)
        keys = jax.random.split(key, len(leaves))
        noisy = [
            leaf + deviation * jax.random.normal(own, leaf.shape, leaf.dtype)
            for leaf, own in zip(leaves, keys, strict=True)
        ]
        return jax.tree.unflatten(structure, noisy), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def privatiser(clip: float, noise: float, as_published: bool = False) -> Callable:
    """The Gaussian mechanism at the client: clip the update, then add noise to every entry.

    An update that is not finite becomes zeros. This is the mechanism alone: which (epsilon, delta)
    it gives depends on the rounds and on what is seen, see `inversion/dp_guarantee.py`.

    Args:
        clip: L2 norm C to clip to, above 0.
        noise: standard deviation of the noise that the client adds, at least 0; not multiplied by
            C. The sum of n clients' updates has sqrt(n) times that.
        as_published: clip as the published code does, see `clip_by_norm`, which bounds nothing.

    Returns:
        (update, key) -> update, to be used as `fl.simulation.rounds.Work.privatise`.
    """
    mechanism = optax.chain(finite_or_zeros(), clip_by_norm(clip, as_published), add_noise(noise))

    def privatise(update, key):
        return mechanism.update(update, mechanism.init(update), key=key)[0]

    return privatise


def moments_privatiser(clip: float, noise: float) -> Callable:
    """The same for SecAdam's moments, of which one client's are one vector (m, v / C).

    Its joint norm is clipped to C, see `clip_moments`, so that a client moves the sum of these
    vectors by C at most. The moments hold all gradients that the client ever had, but what counts
    is what it sends in this round, which is clipped as a whole. Divided by C, v has the unit of m:
    gradients of another scale, and C with them, change nothing but the scale. Its noise is C times
    that of m, and makes entries of the mean of v negative; the floor of
    `fl.simulation.algorithms.secadam` comes after the mechanism and costs no privacy.

    Args:
        clip: joint L2 norm C to clip to, above 0.
        noise: as for `privatiser`, on every entry of (m, v / C).

    Returns:
        (`Moments`, key) -> `Moments`, to be used as `fl.simulation.rounds.Work.privatise`.
    """
    mechanism = optax.chain(finite_or_zeros(), clip_moments(clip), add_noise(noise))

    def privatise(moments, key):
        weighed = moments._replace(v=optax.tree.scale(1 / clip, moments.v))
        sent, _ = mechanism.update(weighed, mechanism.init(weighed), key=key)
        return sent._replace(v=optax.tree.scale(clip, sent.v))

    return privatise


def noise_of_mean_v(clip: float, noise: float, clients: int) -> float:
    """Standard deviation of the noise on the mean of v, of clients with a `moments_privatiser`.

    Args:
        clip: C, above 0.
        noise: of a client, at least 0.
        clients: how many, at least 1.
    """
    return clip * noise / clients**0.5
