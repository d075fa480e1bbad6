"""Trains a reference model on the batches of a service, and writes what it says of the test set:

    python client/examples/train.py --url http://localhost:8000 --model txl --output runs/txl

A run that was stopped goes on when the same command is given again, to the same weights. In the
directory of --output stand checkpoint.pt, journal.jsonl, journal.png (with matplotlib) and, at the
end, results.npz.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from tqdm import tqdm

from metalm import InvalidArgument, MetaLMClient, MetaLMError, Split, flags
from metalm.eval import EvaluationSet
from metalm.torch import DeviceFeed
from training import checkpoint
from training.evaluation import Evaluation, evaluate
from training.journal import Journal
from training.meter import Meter
from training.options import Options, parsed, parser
from training.signals import asked_to_stop
from training.trainer import Trainer


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 for a failure, 2 for wrong usage, 128 + n where signal n stopped it."""
    given = parser(__doc__).parse_args(arguments)
    try:
        with flags.client(given) as client:
            return Run(parsed(given), client).go_on()
    except (InvalidArgument, MetaLMError, OSError, FloatingPointError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidArgument) else 1


class Run:
    """A run in its directory, as far as it has come.

    Raises InvalidArgument where a run of another recipe, spec or seed stands there.
    """

    def __init__(self, options: Options, client: MetaLMClient) -> None:
        self._options = options
        self._client = client
        options.output.mkdir(parents=True, exist_ok=True)
        torch.set_float32_matmul_precision("high")  # TF32, where a GPU has it
        self._trainer = Trainer(options.recipe, options.spec.vocabulary, options.device)
        self._data = client.batches(
            spec=options.spec, seed=options.seed, batch_size=options.recipe.batch_size
        )
        self._load()
        # From here on it is the feed that knows what was trained on: it reads ahead.
        self._feed = DeviceFeed(self._data, options.device)
        self._journal = Journal(options.output / "journal.jsonl", self._trainer.step)
        self._meter = Meter(options.device)
        self._loss = torch.zeros((), device=options.device)
        self._reported = self._trainer.step

    def go_on(self) -> int:
        """Trains to the last step and evaluates. Exit status."""
        options, steps = self._options, self._options.recipe.steps
        bar = tqdm(initial=self._trainer.step, total=steps, unit="step", mininterval=1)
        with asked_to_stop() as asked, bar:
            while self._trainer.step < steps and asked.number is None:
                self._step()
                bar.update()
                step = self._trainer.step
                if step % options.report_every == 0 or step == steps:
                    bar.set_postfix_str(self._report())
                if step % options.evaluate_every == 0:
                    self._validate()
                if step % options.checkpoint_every == 0 or step == steps:
                    self._save()
        if asked.number is not None:
            self._save()
            return 128 + asked.number
        self._test()
        return 0

    def _step(self) -> None:
        with self._meter.waiting():
            x, y = next(self._feed)
        self._loss += self._trainer.train_on(x, y)
        self._meter.count(x.numel())

    def _report(self) -> str:
        """Raises FloatingPointError where the loss is no number any more."""
        reading = self._meter.read()
        step = self._trainer.step
        loss = self._loss.item() / (step - self._reported)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} in the steps {self._reported} to {step - 1}; "
                f"`metalm replay` shows their batches, and the checkpoint is as it was before"
            )
        self._journal.write(
            step=step,
            tokens=step * self._options.recipe.batch_size * self._options.spec.L,
            loss=loss,
            learning_rate=self._options.recipe.rate_at(step - 1),
            tokens_per_s=reading.tokens_per_s,
            waiting=reading.waiting,
        )
        self._loss.zero_()
        self._reported = step
        return (
            f"{loss:.3f} nats, {reading.tokens_per_s:,.0f} tokens/s, {reading.waiting:.1%} waiting"
        )

    def _validate(self) -> None:
        with self._meter.stopped():
            self._evaluated(Split.VALIDATION, range(self._options.validation_samples))

    def _test(self) -> None:
        found = self._evaluated(Split.TEST, self._options.test)
        found.save(self._options.output / "results.npz", self._options.recipe.model)
        total = self._meter.total
        print(f"{found.nll:.4f} nats a token on {len(self._options.test)} test samples")
        print("by position: " + " ".join(f"{nll:.3f}" for nll in found.nll_by_position()))
        if total.tokens:  # none where there was nothing left to train
            print(
                f"{total.tokens:,} tokens in {total.seconds:.0f} s: {total.tokens_per_s:,.0f} "
                f"tokens/s, {total.waiting:.2%} of the time waiting for data"
            )

    def _evaluated(self, split: Split, indices: range) -> Evaluation:
        samples = EvaluationSet(
            spec=self._options.spec,
            seed=self._data.seed,
            split=split,
            ranges=((indices.start, indices.stop),),
        )
        batch_size = self._options.recipe.batch_size
        found = evaluate(self._trainer, self._client, samples, batch_size=batch_size)
        self._journal.write(
            step=self._trainer.step,
            split=split,
            samples=len(indices),
            nll=found.nll,
            nll_by_position=found.nll_by_position(),
        )
        self._journal.draw(self._options.output / "journal.png")
        return found

    def _save(self) -> None:
        with self._meter.stopped():
            state = {
                "recipe": self._recipe(),
                "data": self._feed.state_dict(),
                "trainer": self._trainer.state_dict(),
            }
            checkpoint.save(state, self._options.output / "checkpoint.pt")

    def _load(self) -> None:
        state = checkpoint.load(self._options.output / "checkpoint.pt")
        if state is None:
            return
        for name, mine in self._recipe().items():
            if mine != (found := state["recipe"].get(name)):
                raise InvalidArgument(name, mine, f"{found}, as in {self._options.output}")
        self._data.load_state_dict(state["data"])
        self._trainer.load_state_dict(state["trainer"])

    def _recipe(self) -> dict[str, Any]:
        """As plain types, the size's among them."""
        recipe = asdict(self._options.recipe)
        return {**recipe.pop("size"), **recipe}


if __name__ == "__main__":
    sys.exit(main())
