"""The names of algorithms, data sets and models in plots and tables, and their order."""

from collections.abc import Iterable

from fl.data.catalogue import DATASETS

# Plots and tables list algorithms, data sets and models in this order.
DISPLAY_NAMES = {
    "fedavg": "FedAvg",
    "secagg": "SecAgg",
    "adam": "FedAvg (Adam)",
    "fedadam": "FedAdam",
    "secadam": "SecAdam",
    "secadam_fedadam": "SecAdam + FedAdam",
    "fedprox": "FedProx",
    "scaffold": "SCAFFOLD",
    **{name: entry.title for name, entry in DATASETS.items()},
    "softmax": "Softmax",
    "lenet": "LeNet-300-100",
    "cnn1": "CNN1",
    "cnn2": "CNN2",
    "resnet": "ResNet-50 V2",
}
# How the names of algorithms change with what is done to their clients' data or updates.
_VARIANTS = {
    "{}": "{}",
    "{}_perturbed": "Perturbed {}",
    "dp_{}": "DP-{}",
    "dp_{}_perturbed": "Perturbed DP-{}",
}
_SHORT_NAMES = {"lenet": "LeNet", "resnet": "ResNet"}


def display_name(key: str, short: bool = False) -> str:
    """Name for plots and tables of an algorithm, a data set or a model; else the key itself."""
    known = {**DISPLAY_NAMES, **_SHORT_NAMES} if short else DISPLAY_NAMES
    if key in known:
        return known[key]
    base, variant = _split(key)
    # An algorithm under a transform is named after it.
    return _VARIANTS[variant].format(DISPLAY_NAMES[base]) if base in DISPLAY_NAMES else key


def display_order(keys: Iterable[str]) -> list[str]:
    """Distinct keys in the order of `DISPLAY_NAMES`.

    Behind them the perturbed algorithms and those with differential privacy, in the same order;
    at the end unknown keys, in their own.
    """
    order = {key: number for number, key in enumerate(DISPLAY_NAMES)}
    variants = list(_VARIANTS)

    def place(key):
        base, variant = _split(key)
        return (variants.index(variant), order[base]) if base in order else (len(variants), 0)

    return sorted(dict.fromkeys(keys), key=place)


def _split(key):
    """An algorithm's key -> that without a transform, and the transform's variant."""
    base = key.removeprefix("dp_").removesuffix("_perturbed")
    return base, key.replace(base, "{}", 1)
