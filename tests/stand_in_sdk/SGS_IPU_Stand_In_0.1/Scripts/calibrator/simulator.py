"""A stand-in for simulator.py: its documented options, checked; a result for each picture, named as the real one's."""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
from stand_in import SOC_VERSIONS, pictures, preprocessing, read_network, refuse, settings

CATEGORIES = ("Classification", "Detection", "Unknown")
PER_LINE = 16


def main():
    """Every picture through the network."""
    chosen = settings()
    words = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    words.add_argument("-i", "--image", required=True, help="a picture or a folder of them")
    words.add_argument("-m", "--model", required=True)
    words.add_argument("-c", "--category", required=True)
    words.add_argument("-n", "--preprocess", required=True)
    words.add_argument("--num_process", type=int, default=1)
    if chosen["wants_type"]:
        words.add_argument("-t", "--type", required=True)
    else:
        words.add_argument("--soc_version", required=True)
    given = words.parse_args()
    about, network = read_network(given.model)
    if given.category not in CATEGORIES:
        refuse("category {} is none of {}".format(given.category, ", ".join(CATEGORIES)))
    if chosen["wants_type"] and given.type.lower() != about["kind"]:
        refuse("-t {} for a network that is {}".format(given.type, about["kind"]))
    if not chosen["wants_type"] and given.soc_version not in SOC_VERSIONS:
        refuse("soc_version {} is none of {}".format(given.soc_version, ", ".join(SOC_VERSIONS)))
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    preprocess = preprocessing(given.preprocess)
    Path("log/output").mkdir(parents=True, exist_ok=True)
    images = [given.image] if Path(given.image).is_file() else pictures(given.image)
    for path in images:
        outputs = session.run(None, {about["inputs"][0]: picture(preprocess, path, about)})
        text = best(outputs[0]) if given.category == "Classification" else dump(about["outputs"], outputs)
        names = (given.category.lower(), Path(given.model).name, Path(path).name)
        Path("log/output/{}_{}_{}.txt".format(*names)).write_text(text, "utf-8")
    print(f"stand-in: {len(images)} pictures, Run evaluation OK.", flush=True)


def picture(preprocess, path, about):
    """NCHW: normalised by the module for a float network, by the .ini from uint8 for any other."""
    if about["kind"] == "float":
        made = preprocess(path, norm=True)
    else:
        made = (preprocess(path, norm=False) - np.array(about["mean"])) / np.array(about["std"])
    return np.ascontiguousarray(made.transpose(0, 3, 1, 2), np.float32)


def dump(names, outputs):
    """Every tensor with its shape and its values; four-dimensional ones have their channels last."""
    blocks = []
    for name, output in zip(names, outputs, strict=True):
        output = output.transpose(0, 2, 3, 1) if output.ndim == 4 else output
        values = [f"{value:.6f}" for value in output.ravel()]
        lines = [" ".join(values[at : at + PER_LINE]) for at in range(0, len(values), PER_LINE)]
        shape = " ".join(map(str, output.shape))
        blocks.append(
            "{} Tensor:\n{{\nOriginal shape:[{}]\ntensor data:\n{}\n}}\n".format(name, shape, "\n".join(lines))
        )
    return "".join(blocks)


def best(output, count=5):
    """The best classes, one a line."""
    scores = output.ravel()
    order = np.argsort(-scores, kind="stable")[:count]
    return "".join(f"order: {at} index: {index} score: {scores[index]:.6f}\n" for at, index in enumerate(order, 1))


if __name__ == "__main__":
    main()
