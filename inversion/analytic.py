"""Analytic inversion of a dense first layer: no search, only a division."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from gradient_matching import matcher
from optimise import Problem
from threat_model import PublicKnowledge, layer_params

# Share of the largest bias gradient under which a neuron says nothing but rounding errors.
SMALLEST_BIAS = 1e-3
# Root-mean-square excess over [0, 1] that rounding may cause in a true image.
TOLERANCE = 1e-4


def analytic(public: PublicKnowledge) -> Problem:
    """Divide weight gradients by bias gradients (Phong et al. 2018, doi:10.1109/TIFS.2017.2787987).

    A neuron's weight gradient is a sum of the minibatch's images, each weighed by the loss's
    derivative at the neuron, and its bias gradient is the sum of these weights. Their quotient is
    the image itself at batch 1, where all neurons' quotients are combined by least squares, the
    neurons weighed by what they say. In larger batches it is a mixture of the images that activate
    the neuron, and one of them where only one does: `batch` of the quotients are picked, see
    `pick`. In the quotient the learning rate cancels. Of SecAdam's first observation, which has the
    signs of the gradient alone, it leaves a black and white picture of where images are not zero.

    The images come in no particular order: the labels play no part.

    Raises:
        ValueError: for a model whose first layer is not dense.
    """
    path, layer = public.layers()[0]
    if layer is not nn.Dense:
        raise ValueError(
            f"the analytic attack needs a model whose first layer is dense, which that of "
            f"{type(public.model).__name__} is not: it is of type {layer.__name__}"
        )
    match = matcher(public)

    def init(key, observation, params, labels):
        sent = layer_params(observation, path)
        if public.batch == 1:
            images = least_squares(sent["kernel"], sent["bias"])
        else:
            images = pick(sent["kernel"], sent["bias"], public.batch)
        return images.reshape(-1, *public.image_shape)

    def loss(images, observation, params, labels):
        return match(params, images, labels, observation).cosine_distance()

    return Problem(init, loss, optax.identity(), steps=0)


def least_squares(kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Find the one image x for which the outer product of x and bias is closest to kernel.

    Args:
        kernel: observed, [pixels, neurons].
        bias: observed, [neurons].

    Returns:
        The image [pixels]; black where the bias is zero.
    """
    # Divided by the largest entry first: squares of small numbers would vanish.
    size = jnp.abs(bias).max()
    kernel, bias = (x / jnp.where(size == 0, 1, size) for x in (kernel, bias))
    return kernel @ bias / jnp.maximum(bias @ bias, 1e-12)


@partial(jax.jit, static_argnames="batch")
def pick(kernel: jax.Array, bias: jax.Array, batch: int) -> jax.Array:
    """Pick the quotients that are likely to be images, not mixtures of some.

    What is far outside [0, 1] is a mixture with weights of both signs, and is left out. Mixtures
    with positive weights lie within the convex hull of the images. So corners of the hull of the
    quotients are looked for: repeatedly the longest vector, once its projection on those found
    before is taken away (successive projections: Araujo et al. 2001).

    Args:
        kernel: observed, [pixels, neurons].
        bias: observed, [neurons].
        batch: images to pick, at least 1.

    Returns:
        images [batch, pixels] in [0, 1].
    """
    audible = jnp.abs(bias) > SMALLEST_BIAS * jnp.abs(bias).max()
    quotients = kernel.T / jnp.where(audible, bias, 1)[:, None]
    images = jnp.clip(quotients, 0, 1)
    excess = jnp.where(audible, jnp.sqrt(jnp.mean((quotients - images) ** 2, axis=1)), jnp.inf)
    # At least a batch of them stays in, however bad.
    allowed = jnp.maximum(TOLERANCE, jnp.sort(excess)[min(batch, len(bias)) - 1])
    rest = jnp.where((audible & (excess <= allowed))[:, None], images, 0)
    picked = []
    for _ in range(batch):
        longest = jnp.argmax(jnp.sum(rest**2, axis=1))
        picked.append(images[longest])
        direction = rest[longest] / optax.safe_norm(rest[longest], 1e-12)
        rest -= jnp.outer(rest @ direction, direction)
    return jnp.stack(picked)
