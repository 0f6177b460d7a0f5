"""Shapes and types of tensors that belong together. PyTorch would broadcast those that differ, without a word."""

from collections.abc import Mapping

from torch import Tensor


def check_shapes(forms: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError for what is no tensor, and for shapes that do not fit one another, with all of them.

    Args:
        forms: dimensions of each tensor by its name, such as ``{"logits": "N C", "label": "N"}``: a number, or a letter
            for a size that is the same wherever the letter stands.
        tensors: holds those tensors.
    """
    for name in forms:
        check_tensor(name, tensors[name])
    sizes: dict[str, int] = {}
    for name, form in forms.items():
        dimensions, shape = form.split(), tensors[name].shape
        fits = len(dimensions) == len(shape)
        for dimension, size in zip(dimensions, shape, strict=False):
            wanted = int(dimension) if dimension.isdigit() else sizes.setdefault(dimension, size)
            fits = fits and size == wanted
        if not fits:
            got = ", ".join(f"{key} {list(tensors[key].shape)}" for key in forms)
            expected = ", ".join(f"{key} [{', '.join(of_key.split())}]" for key, of_key in forms.items())
            raise ValueError(f"the shape of {name} does not fit: got {got}; expected {expected}")


def check_same_shape(one: str, first: Tensor, other: str, second: Tensor, hint: str = "") -> None:
    """Raise ValueError for what is no tensor, and for two tensors of different shapes, with both."""
    check_tensor(one, first)
    check_tensor(other, second)
    if first.shape != second.shape:
        shapes = f"{one} {list(first.shape)}, {other} {list(second.shape)}"
        raise ValueError(f"{one} and {other} differ in shape: got {shapes}; expected the same{hint}")


def check_floats(name: str, tensor: Tensor) -> None:
    """Raise ValueError for what is no tensor, and for a tensor of integers, truth values or complex numbers."""
    check_tensor(name, tensor)
    if not tensor.is_floating_point():
        raise ValueError(f"{name} are of {tensor.dtype}; expected a float dtype")


def check_tensor(name: str, value: object) -> None:
    """Raise ValueError for an array, a list or a number."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: got {type(value).__name__}, expected a torch.Tensor")
