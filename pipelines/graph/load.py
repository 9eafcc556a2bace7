"""Reading an ONNX file that somebody gives: whole, or one line on what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from pipelines.arrays import Array
from pipelines.errors import PipelineError, first_line
from pipelines.graph.tensors import is_elsewhere, values

LIMIT_BYTES = 2**31  # protobuf's, for one file


def load_model(path: Path, *, external: bool = True) -> onnx.ModelProto:
    """The model. `external`: with the values that lie in files beside it, which must be below 2 GiB with the rest.

    A size that the file doesn't know is unset, where some exporters write -1 or, of inputs and outputs, 0.
    PipelineError for a file that is missing, too large, no ONNX, or whose external data is not there; sizes are
    looked at before anything is read.
    """
    size = _size(path)
    if size >= LIMIT_BYTES:
        raise PipelineError(
            f"{path.name}: {size / 2**30:.1f} GiB, one ONNX file holds less than 2",
            "store its weights in a file beside it",
        )
    try:
        model = onnx.load(str(path), load_external_data=False)
    except PermissionError as error:
        raise PipelineError(f"{path.name} can't be read", "give everybody the right to read it") from error
    except Exception as error:  # protobuf's DecodeError has moved between its versions
        raise PipelineError(f"{path.name} is no ONNX file: {first_line(error)}") from error
    if not (model.opset_import and (model.graph.node or model.graph.initializer)):
        raise PipelineError(f"{path.name} is no ONNX file: it holds no graph")
    outside = [tensor for tensor in all_tensors(model.graph) if is_elsewhere(tensor)]
    held = sum(_place(tensor, path)[2] for tensor in outside)
    if external and outside:
        if size + held >= LIMIT_BYTES:
            raise PipelineError(
                f"{path.name}: {(size + held) / 2**30:.1f} GiB with its external data; this pipeline writes one file "
                "of less than 2",
                "choose a smaller model",
            )
        for tensor in outside:
            _fill(tensor, path)
    _forget_unknown_sizes(model.graph)
    return model


def read_values(tensor: onnx.TensorProto, name: str, path: Path) -> Array:
    """The values of a tensor of the model at `path`, from the file beside it where they lie there; it stays there."""
    if not is_elsewhere(tensor):
        return values(tensor, name)
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    _fill(copy, path)
    return values(copy, name)


def all_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that the graph holds: initializers, attributes of nodes, those of nested graphs."""
    yield from graph.initializer
    for node in graph.node:
        for one in node.attribute:
            yield from ([one.t] if one.HasField("t") else one.tensors)
            for nested in [one.g] if one.HasField("g") else one.graphs:
                yield from all_tensors(nested)


def _forget_unknown_sizes(graph: onnx.GraphProto) -> None:
    for stated, least in ((graph.input, 1), (graph.output, 1), (graph.value_info, 0)):  # within, a tensor may be empty
        for value in stated:
            for dim in value.type.tensor_type.shape.dim:
                if dim.HasField("dim_value") and dim.dim_value < least:
                    dim.ClearField("dim_value")


def _fill(tensor: onnx.TensorProto, model: Path) -> None:
    file, offset, length = _place(tensor, model)
    with file.open("rb") as data:
        data.seek(offset)
        tensor.raw_data = data.read(length)
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def _size(path: Path) -> int:
    try:
        if not path.is_file():
            raise PipelineError(f"{path.name}: no such file")
        size = path.stat().st_size
    except PermissionError as error:
        raise PipelineError(f"{path.name} can't be read", "give everybody the right to read it") from error
    if not size:
        raise PipelineError(f"{path.name} is empty")
    return size


def _place(tensor: onnx.TensorProto, model: Path) -> tuple[Path, int, int]:
    """File, offset and length of its values. PipelineError where they are not there, or not beside the model."""
    stated = {one.key: one.value for one in tensor.external_data}
    location = stated.get("location", "")
    file = (model.parent / location).resolve()
    if not location or not file.is_relative_to(model.parent.resolve()):
        raise PipelineError(
            f"{model.name}: the values of {tensor.name} are in {location!r}, outside its folder",
            "keep its data beside it",
        )
    if not file.is_file():
        raise PipelineError(
            f"{model.name}: its weights are in {location}, which is missing", "keep it beside the model"
        )
    size = file.stat().st_size
    try:
        offset = int(stated.get("offset") or 0)
        length = int(stated["length"]) if stated.get("length") else size - offset
    except ValueError as error:
        raise PipelineError(f"{model.name}: the place of {tensor.name} in {location} is no number") from error
    if min(offset, length) < 0 or size < offset + length:
        raise PipelineError(
            f"{model.name}: {location} ends before the values of {tensor.name}", "get both files of one export"
        )
    return file, offset, length
