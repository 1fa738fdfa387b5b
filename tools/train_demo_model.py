"""Train the demo model `demo-shapes` on this computer's CPU, pack it into one file, and measure it.

Stages, in order; each begins from what the ones before left in the work folder, and an interrupted stage goes on from
its last checkpoint when the command is given again:

  pictures   the autoencoder: 8x8 pixels to a latent and back
  words      the tokenizer's words and the text encoder
  examples   captioned pictures, drawn once and kept as latents and text states
  drawing    the UNet; by far the longest
  pack       app/artifacts/demo-shapes.dduf and its catalogue entry demo-shapes.json
  measure    draw prompts with combinations that no stage has seen, and say how many pictures are right

It needs no network and no GPU. The same seed and number of processes give the same model on the same kind of CPU.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

STAGES = ("pictures", "words", "examples", "drawing", "pack", "measure")


def main() -> None:
    """Read the command line and run the stages that it names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="which stages to run (default: all, in order)")
    parser.add_argument(
        "--work-dir", type=Path, default=ROOT / "build" / "demo-model", help="checkpoints (%(default)s)"
    )
    parser.add_argument(
        "--target", type=Path, default=ROOT / "app" / "artifacts", help="the model's folder (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="one thread each (%(default)s: one per core)"
    )
    parser.add_argument(
        "--effort", type=float, default=1.0, help="share of the steps and examples; 0.05 is a quick trial"
    )
    parser.add_argument("--prompts", type=int, default=256, help="how many prompts to measure with (%(default)s)")
    args = parser.parse_args()
    unknown = set(args.stages) - set(STAGES)
    if unknown:
        parser.error(f"unknown stage {', '.join(sorted(unknown))}; expected some of {', '.join(STAGES)}")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}

    from tools.demo_model import lessons, release  # noqa: PLC0415  # torch takes seconds; --help should not

    args.work_dir.mkdir(parents=True, exist_ok=True)
    for stage in [stage for stage in STAGES if stage in (args.stages or STAGES)]:
        if stage == "pack":
            release.pack(args.work_dir, args.target)
        elif stage == "measure":
            release.measure(args.target / f"{release.NAME}.dduf", args.prompts).show()
        else:
            lessons.teach(stage, args.work_dir, processes=args.processes, seed=args.seed, effort=args.effort)


if __name__ == "__main__":
    main()
