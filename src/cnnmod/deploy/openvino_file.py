"""Convert an ONNX file to OpenVINO, with stable tie-breaking, gathers along the last axis and float32 selectors."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from cnnmod.deploy.selector import openvino_nodes, selector_nodes


def write_openvino(onnx_path: Path, path: Path, half: bool) -> None:
    """Convert an ONNX file whose feature maps are not split. `half` stores weights in 16 bits."""
    import openvino

    model = openvino.convert_model(onnx_path)
    _break_ties_downwards(model)
    gather_channels_last_(model)
    openvino.save_model(model, path, compress_to_fp16=half)
    _keep_selectors_in_float32(model, path)


def _keep_selectors_in_float32(model: Any, path: Path) -> None:
    """Mark the selectors' operators to stay in float32 if a plugin runs the network in 16 bits.

    Operators on feature maps are not marked. OpenVINO's own transformations set the same mark. It can be set in the
    file, but not through the Python interface.
    """
    shapes = {node.get_friendly_name(): list(node.get_output_partial_shape(0)) for node in model.get_ops()}
    names = {name for name in selector_nodes(openvino_nodes(model)) if all(size == 1 for size in shapes[name][2:])}
    if not names:
        return
    tree = ElementTree.parse(path)
    for layer in tree.iterfind("layers/layer"):
        if layer.get("name") in names:
            marks = layer.find("rt_info")
            marks = ElementTree.SubElement(layer, "rt_info") if marks is None else marks
            mark = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}
            ElementTree.SubElement(marks, "attribute", mark)
    tree.write(path, xml_declaration=True)


def _break_ties_downwards(model: Any) -> None:
    """Make the TopK operators stable, so that ties select the lower channel. OpenVINO's default order is undefined."""
    from openvino import opset11

    for node in model.get_ops():
        if node.get_type_name() == "TopK":
            attributes = node.get_attributes()
            arguments = (attributes[name] for name in ("axis", "mode", "sort", "index_element_type"))
            stable = opset11.topk(node.input_value(0), node.input_value(1), *arguments, stable=True)
            stable.set_friendly_name(node.get_friendly_name())
            for index in range(2):
                stable.output(index).set_names(node.output(index).get_names())
                node.output(index).replace(stable.output(index))


def gather_channels_last_(model: Any) -> None:
    """Gather the selected channels along the last axis.

    OpenVINO keeps feature maps in the channels-last layout. For a gather of planes, it would transpose them on one
    thread. It would also transpose a map that is overwritten later, so such a map is copied, which is faster.
    """
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
            gathered = opset13.gather(last, index, opset13.constant(np.int64(3)), batch_dims=1)
            planes = opset13.transpose(gathered, opset13.constant(np.array([0, 3, 1, 2])))
            node.output(0).replace(planes.output(0))
