"""A stand-in for SGS_converter.py: its documented options, checked; what it writes only the stand-in reads."""

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from stand_in import (
    SOC_VERSIONS,
    input_config,
    pictures,
    preprocessing,
    refuse,
    settings,
    write_network,
)

HIGHEST_OPSET = 13


def main():
    """Check, calibrate, write .img and, where asked, _float.sim and _fixed.sim beside it."""
    chosen = settings()
    words = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    platforms = words.add_subparsers(dest="platform", required=True)
    onnx_words = platforms.add_parser("onnx", allow_abbrev=False)
    onnx_words.add_argument("-i", "--image", required=True, help="folder of calibration pictures")
    onnx_words.add_argument("--model_file", required=True)
    onnx_words.add_argument(chosen["shape_option"], dest="shape", required=True)
    onnx_words.add_argument("--input_config", required=True)
    onnx_words.add_argument("-n", "--preprocess", required=True)
    onnx_words.add_argument("--output_file", required=True)
    onnx_words.add_argument("--export_models", action="store_true")
    onnx_words.add_argument("--soc_version", required=True)
    given = words.parse_args()
    if given.soc_version not in SOC_VERSIONS:
        refuse("soc_version {} is none of {}".format(given.soc_version, ", ".join(SOC_VERSIONS)))
    if not Path(given.output_file).parent.is_dir():
        refuse(f"the folder of {given.output_file} is not there")
    shape = [int(size) for size in given.shape.split(",")]
    model = network(given.model_file, shape)
    config = input_config(given.input_config)
    ends = ([one.name for one in inputs_of(model)], [one.name for one in model.graph.output])
    if (config["inputs"], config["outputs"]) != ends:
        refuse(f"the .ini names {config['inputs']} and {config['outputs']}, the network {ends}")
    images = pictures(given.image)
    for path in images:
        check_preprocessing(preprocessing(given.preprocess), path, shape, config)
    about = {**config, "soc_version": given.soc_version, "calibrated_with": len(images)}
    fixed = rounded(model).SerializeToString()
    write_network(given.output_file, "offline", about, fixed)
    stem = str(Path(given.output_file).with_suffix(""))
    if given.export_models:
        write_network(stem + "_float.sim", "float", about, model.SerializeToString())
        write_network(stem + "_fixed.sim", "fixed", about, fixed)
    print(f"stand-in: calibrated with {len(images)} pictures, wrote {given.output_file}", flush=True)


def inputs_of(model):
    """Without stored tensors, which old files list too."""
    stored = {one.name for one in model.graph.initializer}
    return [one for one in model.graph.input if one.name not in stored]


def network(path, shape):
    """The ONNX file, with an opset that is taken and every tensor's shape."""
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:
        refuse(f"{path} is no ONNX file: {str(error).splitlines()[0]}")
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    if opset > HIGHEST_OPSET:
        refuse(f"opset {opset} is higher than {HIGHEST_OPSET}")
    stated = [[size.dim_value for size in one.type.tensor_type.shape.dim] for one in inputs_of(model)]
    if stated != [shape]:
        refuse(f"the inputs have the shapes {stated}, the option says {shape}")
    ends = (*model.graph.value_info, *model.graph.output)
    known = {one.name for one in ends if one.type.tensor_type.HasField("shape")}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known:
                refuse(f"the shape of {name} is not known")
    return model


def check_preprocessing(preprocess, path, shape, config):
    """Both forms of the picture, and that the .ini's mean and std lead from one to the other."""
    wanted = (1, shape[2], shape[3], shape[1])
    raw, made = preprocess(path, norm=False), preprocess(path, norm=True)
    for array, kind in ((raw, np.uint8), (made, np.float32)):
        if not isinstance(array, np.ndarray) or array.shape != wanted or array.dtype != kind:
            refuse(f"image_preprocess gives {array.dtype} {array.shape}, not {wanted}")
    if np.abs((raw - np.array(config["mean"])) / np.array(config["std"]) - made).max() > 1e-4:
        refuse("mean and std_value of the .ini do not lead from norm=False to norm=True")


def rounded(model):
    """Weights of Conv and Gemm rounded to 8 bits, a scale for each output channel."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {node.input[1] for node in copy.graph.node if node.op_type in ("Conv", "Gemm")}
    for tensor in copy.graph.initializer:
        if tensor.name in weights:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            scale = np.abs(values.reshape(len(values), -1)).max(1).reshape(-1, *[1] * (values.ndim - 1)) / 127
            scale[scale == 0] = 1
            levels = np.clip(np.round(values / scale), -127, 127)
            tensor.CopyFrom(numpy_helper.from_array((levels * scale).astype(np.float32), tensor.name))
    return copy


if __name__ == "__main__":
    main()
