"""Every data set that there is, and all that is known about it: a new one is one more entry.

Images need ten classes, as the models tell ten apart. An entry's name is TensorFlow Datasets' own
where that is where it comes from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np


class Bundled(NamedTuple):
    """A data set that an installed package brings along."""

    package: str
    load: Callable[[], dict[str, np.ndarray]]  # () -> arrays, as `tfds_builders.read` returns them


class Original(NamedTuple):
    """A data set that TensorFlow Datasets prepares from its original files."""

    url: str  # folder of the files
    files: Mapping[str, str]  # file name -> SHA-256; of idx.gz files, that of what they unpack to
    hint: str = ""  # an easier way to the files


@dataclass(frozen=True)
class Entry:
    """What is known about a data set.

    Attributes:
        title: name for plots and tables.
        source: where it comes from.
        classes: what each label stands for, [label].
        image_shape: (height, width, channels).
        converged: test accuracy in (0, 1] that counts as convergence of a model.
        trained: model to the test accuracy at which it counts as trained, where training is not
            what is studied; in (0, 1], lower than convergence for simple models.
        aliases: further names on the command line.
        scale: the pixel value that stands for 1.0.
        clean_share: of a poisoned minibatch, what stays clean, in (0, 1).
    """

    title: str
    source: Bundled | Original
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    converged: float
    trained: Mapping[str, float]
    aliases: tuple[str, ...] = ()
    scale: float = 255.0
    clean_share: Fraction = Fraction(3, 4)


def aliases() -> dict[str, str]:
    """Every data set's further names -> its name."""
    return {alias: name for name, entry in DATASETS.items() for alias in entry.aliases}


def _digits() -> dict[str, np.ndarray]:
    """scikit-learn's 8x8 digits, each pixel repeated 2x2, the last 20 % as test set."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)[..., None]
    labels = bunch.target.astype(np.int32)
    cut = len(labels) * 4 // 5
    return {
        **{"train_images": images[:cut], "train_labels": labels[:cut]},
        **{"test_images": images[cut:], "test_labels": labels[cut:]},
    }


_DIGITS = tuple(f"Digit {label}" for label in range(10))

# In the order of plots and tables. Accuracies are those of the paper on SecAdam, which has neither
# digits nor softmax; clean shares are its published code's.
DATASETS = {
    "digits": Entry(
        title="Digits",
        source=Bundled("scikit-learn", _digits),
        classes=_DIGITS,
        image_shape=(16, 16, 1),
        converged=0.9,
        trained={"cnn1": 0.9, "cnn2": 0.9, "lenet": 0.9, "softmax": 0.9},
        scale=16.0,
    ),
    "fashion_mnist": Entry(
        title="Fashion-MNIST",
        source=Original(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            {
                "train-images-idx3-ubyte.gz": (
                    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
                ),
                "train-labels-idx1-ubyte.gz": (
                    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
                ),
                "t10k-images-idx3-ubyte.gz": (
                    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
                ),
                "t10k-labels-idx1-ubyte.gz": (
                    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
                ),
            },
            "Debian's and Ubuntu's package dataset-fashion-mnist installs them under"
            " /usr/share/datasets/fashion-mnist.",
        ),
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        image_shape=(28, 28, 1),
        converged=0.85,
        trained={"cnn1": 0.85, "cnn2": 0.85, "lenet": 0.8, "softmax": 0.8},
        aliases=("mnist", "fmnist"),  # the former as the published commands call it
        clean_share=Fraction(2, 3),
    ),
    "cifar10": Entry(
        title="CIFAR-10",
        source=Original(
            "https://www.cs.toronto.edu/~kriz/",
            {
                "cifar-10-binary.tar.gz": (
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
                ),
            },
        ),
        classes=(
            *("Airplane", "Automobile", "Bird", "Cat", "Deer"),
            *("Dog", "Frog", "Horse", "Ship", "Truck"),
        ),
        image_shape=(32, 32, 3),
        converged=0.6,
        trained={"cnn1": 0.5, "cnn2": 0.5, "lenet": 0.35, "softmax": 0.35},
        aliases=("cifar",),
    ),
    "svhn_cropped": Entry(
        title="SVHN",
        source=Original(
            "http://ufldl.stanford.edu/housenumbers/",
            {
                "train_32x32.mat": (
                    "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"
                ),
                "test_32x32.mat": (
                    "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"
                ),
            },
        ),
        classes=_DIGITS,
        image_shape=(32, 32, 3),
        converged=0.7,
        trained={"cnn1": 0.8, "cnn2": 0.8, "lenet": 0.35, "softmax": 0.35},
        aliases=("svhn",),
    ),
}
