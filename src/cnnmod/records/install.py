"""Which extra of cnnmod installs a package, for error messages."""

EXTRAS = {
    "networks": ("timm", "torchvision"),
    "report": ("tyro", "rich", "matplotlib", "jinja2", "scipy", "PIL"),
    "train": ("accelerate", "psutil", "torchmetrics", "pycocotools", "datasets", "pyarrow", "sklearn"),
    "deploy": ("ninja", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "openvino", "nncf"),
}


def install_hint(extra: str) -> str:
    """Return the command that installs an extra. cnnmod is not in a package index, so it runs in a checkout.

    Examples:
        >>> install_hint("deploy")
        "in a checkout of cnnmod, run: pip install '.[deploy]'"
    """
    return f"in a checkout of cnnmod, run: pip install '.[{extra}]'"


def missing_package(error: ModuleNotFoundError) -> str:
    """Return the message for a package that cannot be imported, with the command that installs it.

    Examples:
        >>> missing_package(ModuleNotFoundError("No module named 'timm'", name="timm"))
        "this needs timm; in a checkout of cnnmod, run: pip install '.[networks]'"
    """
    module = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
    return str(error) if extra is None else f"this needs {module}; {install_hint(extra)}"
