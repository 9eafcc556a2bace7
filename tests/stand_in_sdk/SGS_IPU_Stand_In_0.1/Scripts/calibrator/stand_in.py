"""What the stand-in's converter and simulator share: its settings, its files, its refusals."""

import configparser
import importlib.util
import json
import os
import sys
from pathlib import Path

SOC_VERSIONS = ("muffin", "maruko", "opera", "souffle", "iford", "ifado", "pcupid", "mochi")
FORMATS = ("RGB", "BGR", "RGBA", "BGRA", "YUV_NV12", "GRAY")
MAGIC = b"SGS STAND-IN "


def refuse(text):
    """Ends the tool as a closed one does: a line with ERROR, and exit code 1."""
    print(f"[ERROR] stand-in: {text}", flush=True)
    sys.exit(1)


def settings():
    """cfg/stand_in.json, once cfg_env.sh was sourced."""
    if "SGS_IPU_DIR" not in os.environ:
        refuse("SGS_IPU_DIR is not set: source cfg_env.sh first")
    if "STAND_IN_SAW_ARGUMENTS" in os.environ:
        refuse("cfg_env.sh was given arguments")
    return json.loads(Path(os.environ["SGS_IPU_DIR"], "cfg", "stand_in.json").read_text("utf-8"))


def pictures(folder):
    """Paths of all pictures in the folder; other than ASCII names make the real tool hang."""
    if not Path(folder).is_dir():
        refuse(f"{folder} is no folder of pictures")
    names = sorted(path.name for path in Path(folder).iterdir())
    if not names:
        refuse(f"no pictures in {folder}")
    for name in names:
        if not name.isascii():
            refuse(f"{name!a} is no ASCII name: the real tool hangs here")
    return [f"{folder}/{name}" for name in names]


def preprocessing(path):
    """image_preprocess of that file."""
    if not Path(path).is_file():
        refuse(f"{path} is not there")
    spec = importlib.util.spec_from_file_location("preprocess", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "image_preprocess"):
        refuse(f"{path} has no image_preprocess")
    return module.image_preprocess


def input_config(path):
    """Names, mean and std of an input_config.ini, each checked."""
    config = configparser.ConfigParser()
    if not config.read(path):
        refuse(f"{path} is not there")
    for section, keys in (
        ("INPUT_CONFIG", ("inputs", "training_input_formats", "input_formats", "quantizations", "mean", "std_value")),
        ("OUTPUT_CONFIG", ("outputs", "dequantizations")),
    ):
        for key in keys:
            if not config.has_option(section, key):
                refuse(f"{path}: [{section}] {key} is missing")

    def words(section, key, separator=","):
        return [word.strip() for word in config.get(section, key).rstrip(";").split(separator)]

    inputs, outputs = words("INPUT_CONFIG", "inputs"), words("OUTPUT_CONFIG", "outputs")
    for key in ("training_input_formats", "input_formats"):
        formats = words("INPUT_CONFIG", key)
        if len(formats) != len(inputs) or any(one not in FORMATS for one in formats):
            refuse(f"{path}: {key} are {formats}")
    ends = (("INPUT_CONFIG", "quantizations", inputs), ("OUTPUT_CONFIG", "dequantizations", outputs))
    for section, key, count in ends:
        if [word in ("TRUE", "FALSE") for word in words(section, key)] != [True] * len(count):
            refuse(f"{path}: {key} must be TRUE or FALSE for each")
    mean, std = ([float(word) for word in words("INPUT_CONFIG", key, ":")] for key in ("mean", "std_value"))
    if len(mean) != 3 or len(std) not in (1, 3) or min(std) <= 0:
        refuse(f"{path}: mean is {mean}, std_value {std}")
    return {"inputs": inputs, "outputs": outputs, "mean": mean, "std": std}


def write_network(path, kind, about, network):
    """One of the stand-in's own files."""
    with Path(path).open("wb") as file:
        file.write(MAGIC + json.dumps({"kind": kind, **about}).encode() + b"\n" + network)


def read_network(path):
    """What write_network wrote: what it says about itself, and the network."""
    if not Path(path).is_file():
        refuse(f"{path} is not there")
    with Path(path).open("rb") as file:
        head = file.readline()
        if not head.startswith(MAGIC):
            refuse(f"{path} is no network of this tool")
        return json.loads(head[len(MAGIC) :]), file.read()
