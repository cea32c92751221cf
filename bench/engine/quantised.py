"""`python -m bench.engine.quantised`: memory and rate of the 30B shape for each VQA_QUANT.

Random bf16 weights are quantised in place, as loading quantises a checkpoint, so the card must hold all of them. The
memory reported is that of the quantised model, not the peak of loading. Runs W1 in the pipeline engine, the one that
supports quantised models.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers.pipelines.image_text_to_text import ImageTextToTextPipeline

from bench.engine import shape30b
from bench.engine.routing import spread_modules
from bench.engine.work import Size, Stock
from vqa.errors import VQAError
from workers.engine.model.quant import INT4_BLOCK, PACKAGES
from workers.engine.model.quantize import EXPERTS, names_to_quantize, quantization_arguments
from workers.engine.pipeline.engine import PipelineEngine
from workers.engine.settings import EngineSettings, Quant
from workers.tune.trial import Trial

#: rows of a microbatch
_TOGETHER = 64


def quantise(model: Any, settings: EngineSettings) -> None:
    """Quantise a loaded model by `settings`. Raises NotReady."""
    how = quantization_arguments(settings, model.config, model.dtype)
    if settings.quant == "int4":
        _to_nf4(model, settings)
    elif how:
        from torchao.quantization import quantize_

        quantize_(model, how["quantization_config"].quant_type, filter_fn=None)
    if "experts_implementation" in how:
        model.set_experts_implementation(EXPERTS)


def _to_nf4(model: Any, settings: EngineSettings) -> None:
    from bitsandbytes.nn import Linear4bit, Params4bit

    kept = {"requires_grad": False, "quant_type": "nf4", "blocksize": INT4_BLOCK, "compress_statistics": False}
    for name in names_to_quantize(model, settings):
        path, _, last = name.rpartition(".")
        module = model.get_submodule(path)
        packed = Params4bit(getattr(module, last).data, **kept).to(model.device)
        if last == "weight":
            with torch.device("meta"):
                made = Linear4bit(module.in_features, module.out_features, False, model.dtype, quant_type="nf4")
            model.set_submodule(path, made)
            module = made
        setattr(module, last, packed)


def measure(folder: Path, quant: Quant, stock: Stock, jobs: int) -> str:
    """Return one line of the table."""
    settings = EngineSettings(model=str(folder), engine="pipeline", quant=quant, microbatch=_TOGETHER)
    pipe: Any = shape30b.load(settings)
    quantise(pipe.model, settings)
    gc.collect()
    torch.cuda.empty_cache()
    weights = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()

    def load(_: EngineSettings) -> ImageTextToTextPipeline:
        loaded: ImageTextToTextPipeline = pipe
        return loaded

    with spread_modules(pipe.model), Trial(PipelineEngine(settings, 2 * _TOGETHER, load=load), settings) as trial:
        trial.run(stock.take(_TOGETHER, tokens=2), _TOGETHER)
        run = trial.run(stock.take(jobs), jobs)
    peak = torch.cuda.max_memory_allocated()
    return f"{quant:5} weights {weights / 2**30:6.2f} GiB, peak {peak / 2**30:6.2f} GiB, {run.rate:6.2f} jobs/s"


def main() -> int:
    """Print a line for each quantisation; return 1 if one does not run."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine.quantised", description=__doc__)
    parser.add_argument("--jobs", type=int, default=_TOGETHER)
    options = parser.parse_args()
    stock = Stock.w1(options.jobs, Size())
    failed = False
    with TemporaryDirectory() as place:
        folder = shape30b.write_folder(Path(place), "30b")
        for quant in ("none", *PACKAGES):
            try:
                print(measure(folder, quant, stock, options.jobs), flush=True)
            except (VQAError, RuntimeError) as error:
                failed = True
                print(f"{quant:5} does not run: {type(error).__name__}: {str(error)[:300]}", flush=True)
            gc.collect()
            torch.cuda.empty_cache()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
