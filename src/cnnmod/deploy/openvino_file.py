"""An ONNX file as OpenVINO's: ties broken as ours, channels gathered along the last axis, selectors in float32."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from cnnmod.deploy.selector import openvino_nodes, selector_nodes


def write_openvino(onnx_path: Path, path: Path, half: bool) -> None:
    """Convert an ONNX file whose candidates are not cut; `half` stores weights in 16 bits."""
    import openvino

    model = openvino.convert_model(onnx_path)
    _break_ties_downwards(model)
    gather_channels_last_(model)
    openvino.save_model(model, path, compress_to_fp16=half)
    _keep_selectors_in_float32(model, path)


def _keep_selectors_in_float32(model: Any, path: Path) -> None:
    """Where a plugin takes 16 bits for the network, these operators refuse, all but those on feature maps.

    The mark is one that OpenVINO's own transformations set. Its Python interface cannot; the file's format can."""
    shapes = {node.get_friendly_name(): list(node.get_output_partial_shape(0)) for node in model.get_ops()}
    chosen = {name for name in selector_nodes(openvino_nodes(model)) if all(size == 1 for size in shapes[name][2:])}
    if not chosen:
        return
    tree = ElementTree.parse(path)
    for layer in tree.iterfind("layers/layer"):
        if layer.get("name") in chosen:
            marks = layer.find("rt_info")
            marks = ElementTree.SubElement(layer, "rt_info") if marks is None else marks
            mark = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}
            ElementTree.SubElement(marks, "attribute", mark)
    tree.write(path, xml_declaration=True)


def _break_ties_downwards(model: Any) -> None:
    """OpenVINO's TopK leaves the order of ties open unless it is told to be stable."""
    from openvino import opset11

    for node in model.get_ops():
        if node.get_type_name() == "TopK":
            given = node.get_attributes()
            parts = (given[name] for name in ("axis", "mode", "sort", "index_element_type"))
            stable = opset11.topk(node.input_value(0), node.input_value(1), *parts, stable=True)
            stable.set_friendly_name(node.get_friendly_name())
            for number in range(2):
                stable.output(number).set_names(node.output(number).get_names())
                node.output(number).replace(stable.output(number))


def gather_channels_last_(model: Any) -> None:
    """OpenVINO keeps feature maps channels last and turns them around, on one thread, for a gather of planes. So
    channels are gathered along the last axis. Of a map that is overwritten afterwards even that view would be made
    by turning it around; a copy is cheaper."""
    import numpy as np
    from openvino import opset13

    for node in model.get_ops():
        if node.get_type_name() == "GatherND":
            images = node.input_value(0)
            if images.get_node().get_type_name() != "Slice":
                largest = float(np.finfo(np.float32).max)
                images = opset13.clamp(images, -largest, largest)
            index = opset13.squeeze(node.input_value(1), opset13.constant(np.array([2])))
            last = opset13.transpose(images, opset13.constant(np.array([0, 2, 3, 1])))
            taken = opset13.gather(last, index, opset13.constant(np.int64(3)), batch_dims=1)
            planes = opset13.transpose(taken, opset13.constant(np.array([0, 3, 1, 2])))
            node.output(0).replace(planes.output(0))
