"""`ExportReport`: the file that `export` wrote, and its agreement with the network."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnmod.deploy.parity import Agreement
from cnnmod.records.frame import data_frame
from cnnmod.records.text import Printed, TextTable


@dataclass(frozen=True, kw_only=True, repr=False)
class ExportReport(Printed):
    """The file that `export` wrote, and its agreement with the network. It is printed as a table.

    Attributes:
        path: The file.
        format: `"onnx"`, `"openvino"`, `"pt2"`, or the format of a registered target.
        form: The names of the forms of the MoD blocks, or `None` if there are no MoD blocks.
        opset: The version of the ONNX operators. `None` for other formats.
        versions: The versions of the packages that wrote and checked the file, by name.
        operators: The number of operators, by name.
        file_bytes: The size of the file. For OpenVINO, the size of both files.
        weight_bytes: The size of the network's weights in float32.
        largest_error: The largest difference to eager PyTorch, relative to the largest output.
        selection_agreement: The share of selected channels that are the same as in eager PyTorch. `None` if no MoD
            block selects channels by their scores.
        tied_agreement: The same for a copy of the network in which importance scores are equal in groups.
        int8: How closely an INT8 file agrees with eager PyTorch on the calibration images. `None` for a float file. For
            an INT8 file, the three fields above describe the float file that was quantized.
        metadata: What the file says about its images and classes, as text by key. Empty for formats without metadata.
    """

    path: Path
    format: str
    form: str | None
    opset: int | None
    versions: dict[str, str]
    operators: dict[str, int]
    file_bytes: int
    weight_bytes: int
    largest_error: float
    selection_agreement: float | None
    tied_agreement: float | None
    int8: Agreement | None
    metadata: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self) | {"path": str(self.path)}

    def to_pandas(self) -> Any:
        """Return a pandas data frame with one line.

        Raises:
            ModuleNotFoundError: If pandas is not installed.
        """
        return data_frame([self.to_dict()])

    def _table(self) -> TextTable:
        opset = [f"opset {self.opset}"] if self.opset else []
        before = "" if self.int8 is None else "before INT8, "
        agreement = [f"{before}largest error {self.largest_error:.1e} of the largest output"]
        if self.selection_agreement is not None:
            equal = f"selected channels equal {self.selection_agreement:.2%}"
            agreement.append(f"{equal}, with ties {self.tied_agreement:.2%}")
        rows = [
            ["size", f"{self.file_bytes / 1e6:.2f} MB (float32 weights: {self.weight_bytes / 1e6:.2f})"],
            ["MoD blocks", f"as {self.form}" if self.form else "none"],
            ["against eager", "; ".join(agreement)],
        ]
        if self.int8 is not None:
            same = [] if self.int8.top1 is None else [f"the same class for {self.int8.top1:.2%}"]
            if self.selection_agreement is not None:
                same.append(f"selected channels equal {self.int8.selection:.2%}")
            rows.append(["in INT8", f"on {self.int8.images} images{': ' if same else ''}{', '.join(same)}"])
        if self.metadata:
            rows.append(["input", self.metadata["input"]])
            rows.append(["metadata", ", ".join(self.metadata)])
        rows.append(["versions", ", ".join([*opset, *(f"{name} {value}" for name, value in self.versions.items())])])
        rows.append(["operators", ", ".join(f"{count} {name}" for name, count in self.operators.items())])
        return TextTable(f"ExportReport: {self.path}", [], rows)
