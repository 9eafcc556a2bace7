"""From ONNX to an int8 TFLite file, which is what Vela reads: onnx2tf writes the network in TensorFlow, whose own
converter quantises it. Also runs such a file, by TensorFlow's interpreter.

Only what is needed is made: no saved model, no float files, and the Keras network is not serialised. It holds its
weights as Python lists, whose text alone takes four times as long as all the rest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.arrays import Array
from pipelines.errors import PipelineError

SAMPLE = "calibration_image_sample_data_20x128x128x3_float32.npy"  # in the working folder, or it is downloaded

Order = tuple[int, ...]


def quantise(model: Path, calibration: Array, work: Path, threads: int) -> tuple[bytes, list[Order]]:
    """An int8 TFLite file of the ONNX file (weights per channel, int8 in and out), and how to transpose its outputs.

    `calibration`: float32 [N, C, H, W]. The file takes [1, H, W, C] and gives its outputs channels last where onnx2tf
    writes them so; transposed by their order they are the ONNX file's. `work` is the working folder of this process.
    """
    from pipelines.inference import outputs_of

    tf = _tensorflow(threads)
    network = _keras(model, calibration, work)
    wanted = outputs_of(model, calibration[:1])
    found = [np.asarray(one) for one in _listed(network(_channels_last(calibration[:1])))]
    if len(found) != len(wanted):
        raise PipelineError(f"onnx2tf gives {len(found)} outputs, the ONNX file has {len(wanted)}")
    orders = [arrangement(*pair) for pair in zip(found, wanted, strict=True)]
    return _int8(tf, network, calibration), orders


def run(file: bytes, orders: Sequence[Order], images: Array, threads: int) -> list[Array]:
    """Every output as float32 [N, ...] in the ONNX file's shapes; `images` float32 [N, C, H, W].

    Without XNNPACK: the built-in kernels are those whose rounding the NPU follows.
    """
    tf = _tensorflow(threads)
    resolver = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    running = tf.lite.Interpreter(model_content=file, num_threads=threads, experimental_op_resolver_type=resolver)
    runner = running.get_signature_runner()
    ((name, given),) = runner.get_input_details().items()
    made = sorted(runner.get_output_details().items(), key=lambda item: int(item[0].rpartition("_")[2]))
    rows = []
    for image in images:
        answer = runner(**{name: _to_int8(_channels_last(image[None]), *given["quantization"])})
        rows.append([_to_float(answer[key], *details["quantization"]) for key, details in made])
    whole = [np.concatenate(column) for column in zip(*rows, strict=True)]
    return [one.transpose(order) for one, order in zip(whole, orders, strict=True)]


def arrangement(made: Array, wanted: Array) -> Order:
    """The transposition of `made` [1, ...] that has the wanted one's shape: as it is, or its last axis put second.

    Where both fit, that whose values are nearer. PipelineError where neither does.
    """
    axes = tuple(range(made.ndim))
    orders = [axes, (0, axes[-1], *axes[1:-1])] if made.ndim > 2 else [axes]
    fitting = [order for order in orders if made.transpose(order).shape == wanted.shape]
    if not fitting:
        raise PipelineError(f"onnx2tf gives an output of shape {made.shape}, the ONNX file's is {wanted.shape}")
    return min(fitting, key=lambda order: float(np.abs(made.transpose(order) - wanted).max()))


def _tensorflow(threads: int) -> Any:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import tensorflow as tf

    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def _keras(model: Path, calibration: Array, work: Path) -> Any:
    """The float network as onnx2tf writes it. It alters the file it is given, and compares on a sample of pictures."""
    import onnx2tf

    copy = work / "network.onnx"
    shutil.copyfile(model, copy)
    np.save(work / SAMPLE, np.ascontiguousarray(_channels_last(calibration[:1])))
    return onnx2tf.convert(
        input_onnx_file_path=str(copy),
        output_folder_path=str(work / "saved_model"),
        output_integer_quantized_tflite=True,  # pads a MaxPool with zeros: the least float is no int8
        disable_model_save=True,
        not_use_onnxsim=True,  # the gate has simplified what it may
        verbosity="error",
    )


def _int8(tf: Any, network: Any, calibration: Array) -> bytes:
    def pictures() -> Iterator[list[Array]]:
        for image in calibration:
            yield [_channels_last(image[None])]

    shape = network.inputs[0].shape
    holder = tf.Module()  # not the Keras network itself, which would be serialised
    holder.function = tf.function(lambda x: _listed(network(x)))
    concrete = holder.function.get_concrete_function(tf.TensorSpec(shape, tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], holder)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = pictures
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def _listed(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _channels_last(images: Array) -> Array:
    last: Array = images.transpose(0, 2, 3, 1)
    return last


def _to_int8(values: Array, scale: float, zero: int) -> Array:
    levels: Array = np.clip(np.round(values / scale) + zero, -128, 127).astype(np.int8)
    return levels


def _to_float(values: Array, scale: float, zero: int) -> Array:
    made: Array = (values.astype(np.float32) - zero) * np.float32(scale)
    return made
