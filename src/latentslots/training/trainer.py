"""The training loop, over an objective, Accelerate and a run folder."""

import contextlib
import logging
import math
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from diffusers.training_utils import EMAModel
from torch import Tensor

from latentslots.config import TrainConfig
from latentslots.data.loading.loader import ImageDataset, build_loader
from latentslots.data.loading.stream import ImageStream
from latentslots.device import forked_random
from latentslots.files import apply_umask, replace_folder
from latentslots.objectives import Objective
from latentslots.training import checkpoint
from latentslots.training.optim import build_lr_scheduler, build_optimizer, clip_gradients
from latentslots.training.preview import Previewer
from latentslots.training.run_log import RunLog
from latentslots.training.signals import (
    SignalWatch,
    TrainingInterrupted,
    leave_signals_to_parent,
)
from latentslots.training.validation import Validator

logger = logging.getLogger(__name__)

MAX_BAD_STEPS = 10
STATE_DIR, PIPELINE_DIR = "state", "pipeline"


class TrainingError(FloatingPointError):
    """A run whose loss is not finite in many consecutive steps."""


class Trainer:
    """Trains an objective, and writes a run folder from which training can be resumed.

    Args:
        config: The run.
        objective: What to train.
        dataset: The training images.
        accelerator: Devices and processes.
        run_dir: The run folder.
        run_log: Destination of numbers.
        validator: Measures the model at intervals.
        previewer: Draws the model's output at intervals.
    """

    def __init__(
        self,
        config: TrainConfig,
        objective: Objective,
        dataset: ImageDataset | ImageStream,
        *,
        accelerator: Accelerator,
        run_dir: Path,
        run_log: RunLog,
        validator: Validator,
        previewer: Previewer,
    ) -> None:
        self.config, self.accelerator, self.run_dir = config, accelerator, run_dir
        self.objective, self.dataset = objective, dataset
        self.run_log, self.validator, self.previewer = run_log, validator, previewer
        self.trainable = objective.trained_parameters()
        if config.channels_last:
            # torch declares this call for tensors alone.
            objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # untyped in torch
        if config.compile:
            for part in objective.compiled():
                part.compile()
        optimizer = build_optimizer(objective, config.optim)
        # The schedule is left unprepared: Accelerate would step it once per process.
        self.model, self.optimizer = accelerator.prepare(objective, optimizer)
        self.lr_scheduler = build_lr_scheduler(optimizer, config.optim, config.max_train_steps)
        self.ema = None
        if config.optim.ema_decay:
            self.ema = EMAModel(self.trainable, decay=config.optim.ema_decay, foreach=True)
        self.step = 0
        self.num_batches = 0
        self.num_bad_steps = 0
        self.bad_in_a_row = 0
        self.num_skipped = 0
        self.out_of_time = False
        self.signals = SignalWatch(run_log.print)
        self._agreed_signum: int | None = None
        self._new_skipped = 0
        self._random: dict[str, Tensor] | None = None
        self._sums: dict[str, Tensor] = {}
        self.phase = "setting up"

    def fit(self) -> None:
        """Train until `max_train_steps`.

        Raises:
            TrainingInterrupted: After SIGINT or SIGTERM, when the state is saved.
            TrainingError: After ten steps in a row without a finite loss.
            CheckpointError: If a checkpoint cannot be written; the one before it stays.
        """
        if self.step >= self.config.max_train_steps or self._is_out_of_time():
            return
        try:
            self._loop()
        except TrainingInterrupted:
            raise
        except Exception as error:
            error.add_note(f"(in {self.phase}, after step {self.step}; {self._newest()})")
            raise

    def _loop(self) -> None:
        """This is the whole loop; a step happens nowhere else."""
        self.phase = "reading data"
        with self.signals:
            for batch in self.batches():  # endless, and resumes where the checkpoint left it
                with self.accelerator.accumulate(self.model):
                    self.phase = "the forward pass"
                    self.objective.begin_step(self.step)
                    loss, logs = self.model(batch)
                    self.phase = "the backward pass"
                    self.accelerator.backward(loss)
                    self._add({"loss": loss.detach(), **logs})
                    if not self.accelerator.sync_gradients:
                        self.phase = "reading data"
                        continue  # a micro-batch: the optimizer does not move
                    self.phase = "clipping gradients"
                    norms = clip_gradients(self.accelerator, self.objective, self.config.optim)
                    values = {**self._mean(), **norms}
                    if self._skip_nonfinite_step(values["loss"], values["grad_norm"]):
                        continue
                    scale = self._fp16_scale()
                    self.phase = "the optimizer's step"
                    self.optimizer.step()
                    self.optimizer.zero_grad()

                # Accelerate does not notice that a fused optimizer skipped a step.
                if self._fp16_scale() < scale:
                    continue  # fp16: the scale was too large, and has been reduced
                lr = self.lr_scheduler.get_last_lr()[0]
                self.lr_scheduler.step()
                self.step += 1
                self.phase = "averaging weights"
                if self.ema is not None:
                    self.ema.step(self.trainable)
                self.phase = "logging"
                self.run_log.log(self.step, {**values, "lr": float(lr), **self._counts()})

                if self._finish_step():
                    return
                self.phase = "reading data"

    def _finish_step(self) -> bool:
        """Save, validate and draw when due; return whether the run is over."""
        last = self.step == self.config.max_train_steps or self.out_of_time
        stop = self._stop_signal()
        # Saved first, so that a failure of validation or preview loses no step.
        if last or stop or self._due(self.config.checkpointing_steps):
            self.phase = "saving"
            self.save()
        if last or self._due(self.config.validation_steps):
            self.phase = "validation"
            self.validate()
        if last or self._due(self.config.preview_steps):
            self.phase = "drawing a preview"
            self.preview()
        if stop and not last:
            self._interrupt(stop)
        return last

    def batches(self) -> Iterator[dict[str, Any]]:
        """Iterate over batches on the device without end, from the current position of the run."""
        loader = build_loader(
            self.dataset,
            batch_size=self.config.train_batch_size,
            seed=self.config.seed,
            num_workers=self.config.data.num_workers,
            random_flip=self.config.data.random_flip,
            start_batch=self.num_batches,
            num_processes=self.accelerator.num_processes,
            process_index=self.accelerator.process_index,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        loader.worker_init_fn = leave_signals_to_parent
        if self._random is not None:
            checkpoint.load_random_tensors(self._random)
            self._random = None
        for batch in loader:
            self.num_batches += 1
            if "num_skipped" in batch:
                self._new_skipped += int(batch["num_skipped"].sum())
            batch = send_to_device(batch, self.accelerator.device, non_blocking=True)
            if self.config.channels_last:
                batch["pixel_values"] = batch["pixel_values"].contiguous(
                    memory_format=torch.channels_last
                )
            yield batch

    def _add(self, logs: dict[str, Tensor]) -> None:
        for name, value in logs.items():
            self._sums[name] = self._sums.get(name, 0) + value.float()

    def _mean(self) -> dict[str, float]:
        """Average logs over micro-batches and processes, which also agree on stopping."""
        limit = self.config.max_train_minutes * 60
        out_of_time = 0 < limit <= self.run_log.seconds
        logs = torch.stack(list(self._sums.values()))
        flags = torch.tensor([out_of_time, self.signals.signum or 0, self._new_skipped])
        packed = torch.cat([logs, flags.to(logs)])
        packed = self.accelerator.reduce(packed, reduction="sum")
        *totals, out_of_time, signum, new_skipped = packed.tolist()
        self.out_of_time = out_of_time > 0
        if signum > 0:
            self._agreed_signum = self.signals.signum or signal.SIGTERM
        self.num_skipped += int(new_skipped)
        names, self._sums, self._new_skipped = list(self._sums), {}, 0
        count = self.config.gradient_accumulation_steps * self.accelerator.num_processes
        return {name: total / count for name, total in zip(names, totals, strict=True)}

    def _counts(self) -> dict[str, int]:
        """Count skipped steps and images so far."""
        counts = {"num_bad_steps": self.num_bad_steps}
        if self.config.data.on_bad_sample == "skip":
            counts["num_skipped"] = self.num_skipped
        return counts

    def _skip_nonfinite_step(self, loss: float, grad_norm: float) -> bool:
        """Skip and count a step whose loss or gradient is not finite; return whether it was.

        In fp16, a gradient that is infinite only because of the loss scale does not count.

        Raises:
            TrainingError: After ten such steps in a row.
        """
        scaler = self.accelerator.scaler
        scaled_up = scaler is not None and scaler.get_scale() > 1
        if math.isfinite(loss) and (math.isfinite(grad_norm) or scaled_up):
            self.bad_in_a_row = 0
            return False
        self.num_bad_steps += 1
        self.bad_in_a_row += 1
        if scaler is not None:
            self.optimizer.step()  # the fp16 scaler detects bad gradients and skips by itself
        self.optimizer.zero_grad()
        self.run_log.print(
            f"step {self.step + 1}: the loss is {loss}, the gradient's norm {grad_norm}; "
            f"skipped ({self.num_bad_steps} in all)"
        )
        if self.bad_in_a_row == MAX_BAD_STEPS:
            raise TrainingError(
                f"the loss or its gradient was not finite {MAX_BAD_STEPS} times in a row, after"
                f" step {self.step}; {self._newest()}; a lower learning rate or"
                " mixed_precision='bf16' often helps"
            )
        return True

    def _newest(self) -> str:
        """Say which checkpoint is the newest."""
        complete = checkpoint.list_checkpoints(self.run_dir / STATE_DIR)
        return f"the newest checkpoint is {complete[-1]}" if complete else "there is no checkpoint"

    def _fp16_scale(self) -> float:
        """The factor on the loss in fp16; it is reduced when gradients are not finite."""
        scaler = self.accelerator.scaler
        return 1.0 if scaler is None else float(scaler.get_scale())

    def _is_out_of_time(self) -> bool:
        """Whether the time limit of the run is reached, on any process."""
        limit = self.config.max_train_minutes * 60
        over = torch.tensor(float(0 < limit <= self.run_log.seconds))
        over = self.accelerator.reduce(over.to(self.accelerator.device), reduction="sum")
        return bool(over > 0)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Use the averaged weights (EMA), if any, in place of the trained ones."""
        self.objective.eval()
        if self.ema is not None:
            self.ema.store(self.trainable)
            self.ema.copy_to(self.trainable)
        try:
            with forked_random(self.accelerator.device):
                yield
        finally:
            if self.ema is not None:
                self.ema.restore(self.trainable)
            self.objective.train()

    def validate(self) -> None:
        """Measure the averaged model on the fixed validation subset, all processes together."""
        with self.averaged():
            values = self.validator(self.objective, self.accelerator.device)
        if values:
            self.run_log.log(self.step, {f"validation/{k}": v for k, v in values.items()})

    def preview(self) -> None:
        """Draw the averaged model's output for a few validation images."""
        if self.accelerator.is_main_process:
            with self.averaged():
                image = self.previewer(self.objective, self.step)
            if image is not None:
                self.run_log.log_image(self.step, image)
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        """Write a checkpoint and the pipeline folder, which replace the old ones when complete."""
        state_dir = self.run_dir / STATE_DIR
        partial = state_dir / f".partial_{self.step:0{checkpoint.STEP_DIGITS}d}"
        try:
            if self.accelerator.is_main_process:
                partial = checkpoint.begin(state_dir, self.step)
                self._write(partial)
            self.accelerator.wait_for_everyone()
            name = f"random_{self.accelerator.process_index:04d}"
            checkpoint.write_tensors(partial, name, checkpoint.random_tensors())
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                # Saved first, so that a run with its last checkpoint has its model, too.
                self.save_pipeline()
                limit = self.config.checkpoints_total_limit
                checkpoint.commit(partial, self._values(), keep=limit)
        except checkpoint.WRITE_ERRORS as error:
            raise checkpoint.discard(partial, error) from error
        self.accelerator.wait_for_everyone()

    def _write(self, partial: Path) -> None:
        checkpoint.write_tensors(partial, "model", self.objective.trained_state())
        optimizer = checkpoint.optimizer_tensors(self.optimizer.optimizer)
        checkpoint.write_tensors(partial, "optimizer", optimizer)
        if self.ema is not None:
            shadow = {f"{i:05d}": p for i, p in enumerate(self.ema.shadow_params)}
            checkpoint.write_tensors(partial, "ema", shadow)

    def _values(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "files": ["model", "optimizer", *(["ema"] if self.ema is not None else [])],
            "step": self.step,
            "num_batches": self.num_batches,
            "num_processes": self.accelerator.num_processes,
            "num_bad_steps": self.num_bad_steps,
            "num_skipped": self.num_skipped,
            "ema_step": self.ema.optimization_step if self.ema is not None else 0,
            "frozen": self.objective.frozen_hashes(),
            "data": self.dataset.fingerprint,
            "scaler": scaler.state_dict() if scaler is not None else {},
        }

    def save_pipeline(self) -> None:
        """Write the averaged model as a pipeline folder, which all other commands load."""
        final = self.run_dir / PIPELINE_DIR
        new = final.with_name(f".{PIPELINE_DIR}_new")
        # Left by a killed run, the second by one of an older release.
        checkpoint.remove(new, final.with_name(f".{PIPELINE_DIR}_old"))
        try:
            with self.averaged():
                self.validator.before_saving(self.objective, self.accelerator.device)
                self.objective.save_pipeline(new)
            apply_umask(new)
        except checkpoint.WRITE_ERRORS:
            checkpoint.remove(new)
            raise
        replace_folder(new, final)

    def load(self, folder: Path) -> None:
        """Resume from a checkpoint of this run.

        Raises:
            CheckpointError: If it is damaged, was written by another number of processes, or its
                tensors do not fit this model.
        """
        processes = self.accelerator.num_processes
        snapshot = checkpoint.load(folder, self.accelerator.process_index, processes)
        tensors, values = snapshot.tensors, snapshot.values
        frozen, before = self.objective.frozen_hashes(), values.get("frozen", {})
        for name in before:
            if frozen.get(name) != before[name]:
                raise checkpoint.CheckpointError(
                    f"the checkpoint {folder} was trained with another {name} (its hash is "
                    f"{before[name][:12]}, not {frozen.get(name, '')[:12]})"
                )
        # Older releases knew folders of images by the number of files alone.
        same = (self.dataset.fingerprint, f"{len(self.dataset)} images")
        if values.get("data", same[0]) not in same:
            raise checkpoint.CheckpointError(
                f"the checkpoint {folder} was trained on other images than {self.config.data.path} "
                "holds now; --init-from starts another run from its weights"
            )
        try:
            self.objective.load_trained_state(tensors["model"])
            checkpoint.load_optimizer_tensors(self.optimizer.optimizer, tensors["optimizer"])
            if self.ema is not None:
                for index, average in enumerate(self.ema.shadow_params):
                    average.copy_(tensors["ema"][f"{index:05d}"])
                self.ema.optimization_step = values["ema_step"]
        except (RuntimeError, KeyError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise checkpoint.CheckpointError(
                f"the checkpoint {folder} does not fit this model: {first}"
            ) from None
        if self.accelerator.scaler is not None and values["scaler"]:
            self.accelerator.scaler.load_state_dict(values["scaler"])
        self.step, self.num_batches = values["step"], values["num_batches"]
        self.num_bad_steps, self.num_skipped = values["num_bad_steps"], values["num_skipped"]
        self.lr_scheduler = build_lr_scheduler(
            self.optimizer.optimizer,
            self.config.optim,
            self.config.max_train_steps,
            step=self.step,
        )
        self._random = tensors["random"]

    def _stop_signal(self) -> int | None:
        """The signal to stop for, if any; several processes agree to stop in the same step."""
        return self.signals.signum if self.accelerator.num_processes == 1 else self._agreed_signum

    def _interrupt(self, signum: int) -> None:
        config_file = shlex.quote(f"{self.run_dir}/train_config.json")
        raise TrainingInterrupted(
            f"stopped by {signal.Signals(signum).name} at step {self.step}, state saved; resume"
            f" with: latentslots train --config {config_file} --resume",
            signum,
        )
