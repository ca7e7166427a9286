"""The polynomial behind shares of which some are wrong.

Shares of Shamir's are a Reed-Solomon code, which Gao's algorithm decodes ("A new algorithm for
decoding Reed-Solomon codes", 2003; recalled, and held to plain search by the tests). Polynomials
are lists of coefficients modulo a prime, the constant term first and the last one not zero.
"""

from collections.abc import Mapping


def decode(shares: Mapping[int, int], threshold: int, prime: int) -> list[int] | None:
    """The polynomial of degree below t through all shares but (m - t) // 2 of these m at most.

    Args:
        shares: point -> value, at least t of them.
        threshold: t.
        prime: of the field; points are distinct modulo it.

    Returns:
        Its coefficients; None where there is no such polynomial. There is never a second one.
    """
    whole = [1]
    for point in shares:
        whole = _times_linear(whole, point, prime)
    derivative = _trimmed([k * c % prime for k, c in enumerate(whole)][1:])
    slopes = inverses([evaluate(derivative, point, prime) for point in shares], prime)
    through_all = [0] * len(shares)
    for (point, value), slope in zip(shares.items(), slopes, strict=True):
        weight = value * slope % prime
        for place, coefficient in enumerate(_over_linear(whole, point, prime)):
            through_all[place] = (through_all[place] + weight * coefficient) % prime
    # Euclid's algorithm on the two, up to where the degree says that errors are split off.
    before, rest, locator_before, locator = whole, _trimmed(through_all), [], [1]
    while 2 * (len(rest) - 1) >= len(shares) + threshold:
        quotient, remainder = _divided(before, rest, prime)
        before, rest = rest, remainder
        product = _product(quotient, locator, prime)
        locator_before, locator = locator, _difference(locator_before, product, prime)
    found, remainder = _divided(rest, locator, prime)
    return None if remainder or len(found) > threshold else found


def evaluate(coefficients: list[int], point: int, prime: int) -> int:
    """A polynomial's value at a point (Horner's rule)."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % prime
    return value


def inverses(numbers: list[int], prime: int) -> list[int]:
    """Their inverses, by inverting but once (Montgomery's trick); none of them is 0."""
    products = [1]
    for number in numbers:
        products.append(products[-1] * number % prime)
    rest, found = pow(products[-1], -1, prime), []
    for number, product in zip(reversed(numbers), reversed(products[:-1]), strict=True):
        found.append(rest * product % prime)
        rest = rest * number % prime
    return found[::-1]


def _trimmed(coefficients):
    while coefficients and not coefficients[-1]:
        coefficients.pop()
    return coefficients


def _times_linear(a, root, prime):
    """a (x - root)."""
    return [(low - root * high) % prime for low, high in zip([0, *a], [*a, 0], strict=True)]


def _over_linear(a, root, prime):
    """a / (x - root), which is without remainder."""
    quotient = [0]
    for coefficient in reversed(a[1:]):
        quotient.append((coefficient + root * quotient[-1]) % prime)
    return quotient[:0:-1]


def _product(a, b, prime):
    found = [0] * max(len(a) + len(b) - 1, 0)
    for place, factor in enumerate(a):
        for other, coefficient in enumerate(b):
            found[place + other] = (found[place + other] + factor * coefficient) % prime
    return _trimmed(found)


def _difference(a, b, prime):
    length = max(len(a), len(b))
    a, b = (each + [0] * (length - len(each)) for each in (a, b))
    return _trimmed([(x - y) % prime for x, y in zip(a, b, strict=True)])


def _divided(a, b, prime):
    """a = q b + r -> (q, r)."""
    rest, quotient = list(a), [0] * max(len(a) - len(b) + 1, 0)
    leading = pow(b[-1], -1, prime)
    for place in range(len(quotient) - 1, -1, -1):
        factor = rest[place + len(b) - 1] * leading % prime
        quotient[place] = factor
        for other, coefficient in enumerate(b):
            rest[place + other] = (rest[place + other] - factor * coefficient) % prime
    return _trimmed(quotient), _trimmed(rest[: len(b) - 1])
