"""The training run: `python -m training.train --out models/tiny-vl`, on one GPU, for a fixed time.

Knows the schedule, the report and the command; `training.trainer` knows the step.
"""

import argparse
import time
from pathlib import Path

from torch.utils.data import DataLoader

from training.data import Batch
from training.export import export
from training.replay import Losses
from training.trainer import Recipe, Trainer

COLUMNS = "step,seconds,answer_loss,grounding_loss,familiar,held_out,colour,shape,how_many,where,yes_no\n"


def run(trainer: Trainer, out: Path, curve: Path) -> None:
    """Train until the time is up; write the curve and, at every report, the checkpoint."""
    recipe, started, waited, step = trainer.recipe, time.monotonic(), 0.0, 0
    curve.write_text(COLUMNS)
    trainer.prepare()
    print(f"ready after {time.monotonic() - started:.0f} s", flush=True)
    batches = iter(_loader(trainer))
    begun = time.monotonic()
    while True:
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        share = (time.monotonic() - begun) / (recipe.minutes * 60 - (begun - started))
        if share >= 1 or step >= recipe.max_steps:
            break
        losses = trainer.step(batch, recipe.rate * min(1.0, (step + 1) / recipe.warm_up) * (1 - share))
        step += 1
        if step % recipe.report_every == 0:
            _report(trainer, curve, step, time.monotonic() - started, losses)
            export(trainer.model, trainer.tokenizer, out)
            print(f"waited {waited:.0f} s for images", flush=True)
    _report(trainer, curve, step, time.monotonic() - started, losses)
    export(trainer.model, trainer.tokenizer, out)


def _loader(trainer: Trainer) -> "DataLoader[Batch]":
    processes = trainer.recipe.processes
    return DataLoader(
        trainer.batches,
        batch_size=None,
        num_workers=processes,
        pin_memory=trainer.device.type == "cuda",
        prefetch_factor=3 if processes else None,
    )


def _report(trainer: Trainer, curve: Path, step: int, seconds: float, losses: Losses) -> None:
    row = [str(step), f"{seconds:.0f}", *(f"{value.item():.4f}" for value in losses)]
    held_out, familiar = trainer.examine()
    row += [f"{familiar['all']:.3f}", *(f"{share:.3f}" for share in held_out.values())]
    with curve.open("a") as file:
        file.write(",".join(row) + "\n")
    print(" ".join(row), "| familiar", *(f"{share:.3f}" for share in familiar.values()), flush=True)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description="Train models/tiny-vl.")
    parser.add_argument("--out", type=Path, default=Path("models/tiny-vl"))
    parser.add_argument("--curve", type=Path, default=Path("training/curve.csv"), help="where to write the progress")
    parser.add_argument("--start", type=Path, help="a checkpoint to continue from")
    for name in ("minutes", "rate"):
        parser.add_argument(f"--{name}", type=float, default=getattr(Recipe, name))
    for name in ("images", "questions", "processes", "seed", "max_steps", "report_every", "examine", "warm_up"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Recipe, name))
    parser.add_argument("--eager", dest="compiled", action="store_false", help="without torch.compile")
    args = vars(parser.parse_args())
    out, curve, start = args.pop("out"), args.pop("curve"), args.pop("start")
    run(Trainer(Recipe(**args), start=start), out, curve)


if __name__ == "__main__":
    main()
