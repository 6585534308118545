"""ExportReport: what was written, and how nearly it does what the network does."""

from dataclasses import dataclass
from pathlib import Path

from cnnmod.deploy.parity import Agreement
from cnnmod.records.text import TextTable


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written; it shows itself as a table.

    Attributes:
        path: The file.
        format: `"onnx"`, `"openvino"`, `"pt2"`, or that of a registered target.
        form: The forms of its MoD blocks; `None` if it has none.
        opset: Of ONNX.
        versions: Of what wrote and checked it.
        operators: Name → how many.
        file_bytes: Its size, OpenVINO's two files together.
        weight_bytes: What the network's weights take in float32.
        largest_error: Against eager PyTorch, relative to the largest output.
        selection_agreement: The share of selected channels that are the same as in eager.
        tied_agreement: The same for a copy whose importance scores tie.
        int8: What an INT8 file does against eager on the calibration images; the three fields before are then those
            of the float file that it is made of.
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
    selection_agreement: float
    tied_agreement: float
    int8: Agreement | None

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self._table().html()

    def _table(self) -> TextTable:
        opset = [f"opset {self.opset}"] if self.opset else []
        exact = f"selected channels equal {self.selection_agreement:.2%}, with ties {self.tied_agreement:.2%}"
        before = "" if self.int8 is None else "before INT8, "
        rows = [
            ["size", f"{self.file_bytes / 1e6:.2f} MB (float32 weights: {self.weight_bytes / 1e6:.2f})"],
            ["MoD blocks", f"as {self.form}" if self.form else "none"],
            ["against eager", f"{before}largest error {self.largest_error:.1e} of the largest output; {exact}"],
        ]
        if self.int8 is not None:
            same = "" if self.int8.top1 is None else f"the same class for {self.int8.top1:.2%}, "
            equal = f"{same}selected channels equal {self.int8.selection:.2%}"
            rows.append(["in INT8", f"on {self.int8.images} images: {equal}"])
        rows.append(["versions", ", ".join([*opset, *(f"{name} {value}" for name, value in self.versions.items())])])
        rows.append(["operators", ", ".join(f"{count} {name}" for name, count in self.operators.items())])
        return TextTable(f"ExportReport: {self.path}", [], rows)
