"""`compare(models, example)`: measure baseline, MoD networks and controls in each runtime and at each batch size."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from cnnmod.deploy.lower import without_auxiliary_head
from cnnmod.deploy.start import start
from cnnmod.deploy.targets.table import find_runtime
from cnnmod.measure.count import count
from cnnmod.measure.memory import peak_memory_mib
from cnnmod.measure.results import Comparison, Measurement, Row, control_name
from cnnmod.measure.timing import Timed, time_interleaved, use_threads
from cnnmod.method.convert import control_, mod_blocks
from cnnmod.method.copying import copied
from cnnmod.method.skip import skipped_blocks
from cnnmod.method.trace import meta_forward
from cnnmod.records.progress import Progress
from cnnmod.records.provenance import Provenance
from cnnmod.records.roles import Role


def compare(
    models: Mapping[str, nn.Module],
    example: Tensor,
    *,
    runtimes: Sequence[str] = ("eager",),
    batch_sizes: Sequence[int] = (1,),
    threads: int | None = None,
    training: bool = False,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    rounds: int = 20,
    accuracy_pct: Mapping[str, float] | None = None,
    accuracy_source: str | None = None,
    progress: Progress = lambda condition, done, total: None,
) -> Comparison:
    """Measure MoD networks, their baseline and their controls.

    The control of each MoD network is created automatically. All rows are lowered in the same way, and are timed in the
    same rounds for each runtime and batch size.

    Args:
        models: The networks by name. The first is the baseline, all others are MoD networks. They are not changed.
        example: Images (N, C, H, W), repeated to the batch sizes. All rows run on its device.
        runtimes: The names of targets, such as `"openvino"`, or of targets with a precision, such as `"openvino-int8"`.
            A training step runs only in `"eager"` and `"compile"`. Temporary files for a runtime are written for each
            batch size.
        batch_sizes: The batch sizes.
        threads: The number of torch's threads. `None` keeps the current number.
        training: Time a training step (forward, backward, SGD with momentum) instead of inference.
        autocast: The dtype of autocast in a training step, such as `torch.bfloat16`. `None` disables autocast.
        channels_last: Use the channels-last memory format for weights and images, in runtimes that run in PyTorch.
        rounds: How many times each row is timed under each condition.
        accuracy_pct: The accuracies by row name. Rows can be missing.
        accuracy_source: A text that says what the accuracies are, for example the metric and the data set.
        progress: Called after each round with a description, the rounds done and the number of rounds.

    Raises:
        ValueError: If no MoD network follows the baseline, an accuracy has no row, or the example or a number is not
            valid.

    Examples:
        >>> import cnnmod, timm
        >>> models = {"resnet18": timm.create_model("resnet18"), "mod": cnnmod.convert_(timm.create_model("resnet18"))}
        >>> comparison = compare(models, torch.rand(1, 3, 32, 32), rounds=2)
        >>> [row.name for row in comparison.rows]
        ['resnet18', 'mod', 'mod control']
    """
    networks = _rows(models)
    _check(networks, example, batch_sizes, rounds, threads, accuracy_pct or {})
    for runtime in runtimes:
        find_runtime(runtime).target.check_images(example)
    if training and not isinstance(meta_forward(next(iter(networks.values()))[0], example[:1]), Tensor):
        raise ValueError("a training step is timed for classifiers only; these networks can be timed in inference")
    if training and (others := [name for name in runtimes if name not in ("eager", "compile")]):
        raise ValueError(f"a training step runs in 'eager' and 'compile', not in {', '.join(map(repr, others))}")
    if autocast is not None and not training:
        raise ValueError(f"autocast is for a training step; for inference, convert the networks with .to({autocast})")
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    measurements: dict[str, list[Measurement]] = {name: [] for name in networks}
    warmup = 2
    with use_threads(threads):
        for runtime in runtimes:
            target, _ = find_runtime(runtime)
            for batch_size in batch_sizes:
                images = example[torch.arange(batch_size) % len(example)]
                if target.in_torch:
                    images = images.contiguous(memory_format=memory_format)
                runs: dict[str, Timed] = {}
                for index, (name, (model, _)) in enumerate(networks.items()):
                    if runtime != "eager":
                        progress(f"preparing {runtime}, batch {batch_size}", index, len(networks))
                    if training:
                        network = copied(model).to(memory_format=memory_format)
                        runs[name] = _training_step(network, images, runtime == "compile", autocast)
                    else:
                        runs[name] = partial(start(model, runtime, images, channels_last=channels_last), images)
                done = iter(range(1, warmup + rounds + 1))
                condition = f"{'training step, ' if training else ''}{runtime}, batch {batch_size}"
                times_ms = time_interleaved(
                    runs,
                    rounds=rounds,
                    warmup=warmup,
                    progress=lambda: progress(condition, next(done), warmup + rounds),  # noqa: B023  called immediately
                )
                for name, run in runs.items():
                    is_counted = runtime == "eager" if training else target.counts_memory(example.device)
                    memory = peak_memory_mib(run) if is_counted else None
                    measurements[name].append(
                        Measurement(
                            runtime=runtime, batch_size=batch_size, times_ms=times_ms[name], peak_memory_mib=memory
                        )
                    )
        provenance = Provenance.now(example.device, torch.get_num_threads())
    rows = []
    for name, (model, role) in networks.items():
        size = count(model if training else without_auxiliary_head(model), example[:1])
        accuracy = (accuracy_pct or {}).get(name)
        rows.append(
            Row(
                name=name,
                role=role,
                parameters=size.parameters,
                gmacs=size.gmacs,
                accuracy_pct=accuracy,
                measurements=measurements[name],
            )
        )
    return Comparison(
        step="training" if training else "inference",
        image_shape=list(example.shape[1:]),
        dtype=", autocast to ".join(str(dtype).removeprefix("torch.") for dtype in (example.dtype, autocast) if dtype),
        channels_last=channels_last,
        accuracy_source=accuracy_source if accuracy_pct else None,
        rows=rows,
        provenance=provenance,
    )


def _rows(models: Mapping[str, nn.Module]) -> dict[str, tuple[nn.Module, Role]]:
    """Return the networks and their controls, each with its role.

    A network with skipped blocks and no MoD block is its own control. It is timed twice.
    """
    if len(models) < 2:
        raise ValueError("compare takes a baseline and at least one MoD network after it")
    baseline, *mod_names = models
    rows: dict[str, tuple[nn.Module, Role]] = {baseline: (models[baseline], "baseline")}
    for name in mod_names:
        if not (mod_blocks(models[name]) or skipped_blocks(models[name])):
            raise ValueError(
                f"{name!r} has neither MoD blocks nor skipped blocks; only the first network, the baseline, may have "
                "none"
            )
        rows[name] = (models[name], "mod")
        if control_name(name) in models:
            raise ValueError(f"the control of {name!r} has the name {control_name(name)!r}; use another for a network")
        control = copied(models[name])
        rows[control_name(name)] = (control_(control) if mod_blocks(control) else control, "control")
    return rows


def _check(
    networks: Mapping[str, object],
    example: Tensor,
    batch_sizes: Sequence[int],
    rounds: int,
    threads: int | None,
    accuracy_pct: Mapping[str, float],
) -> None:
    if example.ndim != 4 or len(example) < 1:
        raise ValueError(f"example must be images (N, C, H, W), not of shape {tuple(example.shape)}")
    if not batch_sizes or min(batch_sizes) < 1 or rounds < 1:
        raise ValueError(f"batch sizes and rounds must be ≥ 1, not {list(batch_sizes)} and {rounds}")
    if len(set(batch_sizes)) < len(batch_sizes):
        raise ValueError(f"batch sizes must be distinct, not {list(batch_sizes)}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be ≥ 1, not {threads}")
    if unknown := [name for name in accuracy_pct if name not in networks]:
        raise ValueError(f"accuracy_pct names {unknown[0]!r}, but the rows are {', '.join(map(repr, networks))}")


def _training_step(model: nn.Module, images: Tensor, compiles: bool, autocast: torch.dtype | None) -> Timed:
    """Return a training step with the network's own weights. With `compiles`, it has run once."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)

    def predict(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
            return model(images)

    forward = torch.compile(predict, dynamic=False) if compiles else predict  # with autocast, as `cnnmod train` does

    def run() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(forward(images).float(), labels).backward()
        optimizer.step()

    if compiles:
        with torch._dynamo.config.patch(recompile_limit=1000):  # per class, as in `CompileTarget`
            run()
    return run
