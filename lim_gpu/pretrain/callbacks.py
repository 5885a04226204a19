"""Lightning callbacks of a run: record the numbers, keep the checkpoints, stop when asked to.

Only the first process writes. Whatever the processes decide, they decide together.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lim_gpu.errors import LimGpuError
from lim_gpu.files import write_json
from lim_gpu.pretrain.checkpoints import kept_epochs, restore, save_checkpoint, training_state, unsound_parameters
from lim_gpu.pretrain.collectives import maximum, total, world
from lim_gpu.pretrain.folder import RunFolder
from lim_gpu.pretrain.method import Meter, Pretraining
from lim_gpu.pretrain.monitor import CollapseWatch
from lim_gpu.pretrain.plan import Plan, duration
from lim_gpu.progress import Advance, Reporter, two_digits

WAIT = 50  # steps between two waits for a GPU: to write the numbers and to look for a loss that is no number
AGREE = 10  # steps between two questions to the other processes whether one of them was asked to stop
TIMED_STEPS = 20  # until the speed is told
NOTE_SECONDS = 10.0  # between the notes of two epochs
SAVE_SECONDS = 60.0  # that a crash may cost: an epoch of a reduced store can be four steps, and a checkpoint 225 MB
SAVE_WITHIN = 600.0  # s, before the end of an epoch: one of all slices can take hours
PROBE_STEPS = 100  # between two probes at least: embedding a thousand images costs more than an epoch of four steps
Writer = Callable[[dict[str, float], int], None]  # of the numbers of one step
METERS = {"lr": Meter("", "the learning rate")}  # which the Recorder adds to those of the method


class Keeper(Callback):
    """Restores the state a run goes on from, and saves: epoch=N.ckpt, every `every` epochs and where a stage of a
    curriculum ends, and last.ckpt, with it and when the one before is old.
    """

    def __init__(self, plan: Plan, folder: RunFolder, every: int, state: dict[str, Any] | None) -> None:
        self.plan, self.folder, self._state = plan, folder, state
        self._kept = kept_epochs(plan.config, every)
        self.saved = state["global_step"] if state else 0
        self._at = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the saved state back."""
        if self._state is not None:
            restore(trainer, pl_module, self._state)  # type: ignore[arg-type]
            self._state = None

    @property
    def age(self) -> float:
        """Seconds since the last time."""
        return time.perf_counter() - self._at

    def stays(self, step: int) -> bool:
        """Whether the end of this step is that of an epoch whose checkpoint stays."""
        epoch, within = divmod(step, self.plan.steps_per_epoch)
        return not within and epoch in self._kept

    def save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save where the run stands. Raises LimGpuError when weights are no numbers or the disk refuses."""
        if trainer.global_step == self.saved:
            return
        if names := unsound_parameters(pl_module):
            raise LimGpuError(
                f"{self.folder.path}: after step {trainer.global_step - 1} {names[0]} and {len(names) - 1} others hold "
                "values that are no finite numbers. Lower it with --set lr=..., then begin again with --overwrite"
            )
        state = training_state(trainer, pl_module, self.plan)  # type: ignore[arg-type]
        if trainer.is_global_zero:
            if self.stays(trainer.global_step):
                epoch = trainer.global_step // self.plan.steps_per_epoch
                save_checkpoint(self.folder.path / f"epoch={epoch}.ckpt", state, self.plan)
            save_checkpoint(self.folder.last, state, self.plan)
        self.saved, self._at = trainer.global_step, time.perf_counter()
        trainer.strategy.barrier()


class Recorder(Callback):
    """Collects loss and meters on the device, and writes them every now and then, the last ones before a checkpoint.

    writers are given each step's numbers beside metrics.jsonl; probe gives numbers at the end of an epoch.
    """

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        reporter: Reporter,
        writers: list[Writer],
        probe: Callable[[Pretraining], dict[str, float]] | None,
        log_every: int,
    ) -> None:
        self.plan, self.folder, self.reporter = plan, folder, reporter
        self.writers, self.probe, self.log_every = writers, probe, log_every
        self.watch = CollapseWatch(plan.config, reporter)
        self._held: list[tuple[int, dict[str, Tensor], Tensor]] = []
        self._epoch: list[dict[str, float]] = []
        self._recent: list[dict[str, float]] = []
        self.loss = math.nan  # of the last step that was written
        self._open = ExitStack()
        self._advance: Advance = lambda _count: None
        self._clock = self._noted = time.perf_counter()
        self._steps = 0  # since the clock was set
        self._told = False  # how fast it is

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count time and to show progress; the first numbers can take minutes."""
        epoch, of = trainer.global_step // self.plan.steps_per_epoch + 1, self.plan.config.epochs
        steps = f"{self.plan.steps_per_epoch:,} steps of {self.plan.config.batch_size} slices"
        self.reporter.note(f"epoch {epoch} of {of} is under way on {pl_module.device}: {steps}")
        images = (self.plan.total_steps - trainer.global_step) * self.plan.config.batch_size
        bar = self.reporter.track(f"pretrain {self.plan.config.method}", images, "images")
        self._advance = self._open.enter_context(bar)
        self._clock = time.perf_counter()

    def close(self) -> None:
        """End the progress bar."""
        self._open.close()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hold the numbers of a step, and write those held when it is time."""
        meters = {name: value.detach().float().reshape(()) for name, value in outputs.items()}
        self._held.append((trainer.global_step - 1, meters, batch.ids))
        self._steps += 1
        wait = WAIT if pl_module.device.type == "cuda" else 1
        timed = not self._told and self._steps == TIMED_STEPS
        if trainer.global_step % self.plan.steps_per_epoch and (timed or trainer.global_step % wait == 0):
            self.flush(trainer, pl_module, {})  # waits for the device
            if timed:
                self._tell_speed(trainer)
        self._advance(self.plan.config.batch_size)

    def flush(self, trainer: Trainer, pl_module: LightningModule, extra: dict[str, float]) -> None:
        """Write what is held; `extra` goes to the last step. Raises LimGpuError for a loss that is no finite number."""
        rows = self._take(trainer)
        if not rows:
            return
        for row, ids in rows:
            self._recent = [*self._recent[-99:], row]
            if not math.isfinite(row["loss"]):
                self._stop(trainer, pl_module, row, ids)
        lines = [row for row, _ in rows]
        lines[-1].update(extra)
        self.loss = lines[-1]["loss"]
        self._epoch += lines
        if trainer.is_global_zero:
            chosen = [
                row
                for row in lines
                if (row["step"] + 1) % self.log_every == 0 or (row["step"] + 1) % self.plan.steps_per_epoch == 0
            ]
            self.folder.append_metrics({name: _number(value) for name, value in row.items()} for row in chosen)
            for row in chosen:
                for write in self.writers:
                    write(row, int(row["step"]))

    def _take(self, trainer: Trainer) -> list[tuple[dict[str, float], Tensor]]:
        """The rows held, averaged over the processes, in one transfer from the device."""
        if not self._held:
            return []
        names = list(self._held[0][1])
        values = torch.stack([torch.stack([meters[name] for name in names]) for _, meters, _ in self._held])
        means = (total(values) / world()[1]).tolist()
        rows = []
        for (step, _, ids), numbers in zip(self._held, means, strict=True):
            row: dict[str, float] = {"epoch": step // self.plan.steps_per_epoch, "step": step}
            row |= dict(zip(names, numbers, strict=True)) | {"lr": self.plan.rate(step)}
            rows.append((row, ids))
        self._held = []
        return rows

    def _stop(self, trainer: Trainer, pl_module: LightningModule, row: dict[str, float], ids: Tensor) -> None:
        dump = self.folder.path / "nonfinite.json"
        if trainer.is_global_zero:
            values = {
                "row": {name: _number(value) for name, value in row.items()},
                "slices": ids.tolist(),
                "unsound": unsound_parameters(pl_module),
                "last_rows": [{name: _number(value) for name, value in old.items()} for old in self._recent],
            }
            write_json(dump, values)
        raise LimGpuError(
            f"{self.folder.path}: the loss is {row['loss']} at epoch {row['epoch']}, step {row['step']}, with lr "
            f"{row['lr']:.3g}. Lower it with --set lr=..., or lengthen the warm-up; what led there is in {dump.name}"
        )

    def end_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the rest of the epoch with its speed and probe, look for collapse, and say where the run stands."""
        extra = {}
        if self.probe is not None and trainer.is_global_zero and self._probed(trainer.global_step):
            extra = self.probe(pl_module)  # type: ignore[arg-type]
        self.flush(trainer, pl_module, extra)
        if not self._told:
            self._tell_speed(trainer)
        means = _means(self._epoch)
        epoch = int(self._epoch[-1]["epoch"])
        self.watch.look(epoch, means)
        now, last = time.perf_counter(), trainer.global_step == self.plan.total_steps
        if last or now - self._noted >= NOTE_SECONDS:
            self._noted = now
            knn = f", kNN {extra['knn_accuracy']:.3f}" if extra else ""
            self.reporter.note(
                f"epoch {epoch + 1} of {self.plan.config.epochs}: loss {means['loss']:.4f}{knn}, {self._pace(trainer)}"
            )
        self._epoch, self._steps, self._clock = [], 0, time.perf_counter()

    def _probed(self, step: int) -> bool:
        """Whether the probe comes after the epoch that ends with this step: of short epochs not after each."""
        before = step - self.plan.steps_per_epoch
        return step // PROBE_STEPS > before // PROBE_STEPS or step == self.plan.total_steps

    def _pace(self, trainer: Trainer) -> str:
        speed = self._steps * self.plan.config.batch_size / (time.perf_counter() - self._clock)
        left = (self.plan.total_steps - trainer.global_step) * self.plan.config.batch_size / speed
        return f"{two_digits(speed)} images a second, {duration(left)} left"

    def _tell_speed(self, trainer: Trainer) -> None:
        """Say once how fast it goes, and put it into the plan."""
        self._told = True
        line = f"speed: {self._pace(trainer)} after step {trainer.global_step - 1}"
        self.reporter.note(line)
        if trainer.is_global_zero:
            self.folder.add_speed(self.plan, line)


class Stopper(Callback):
    """Has the others record and save when it is time to. On SIGTERM or SIGINT finishes the step, saves, and ends.

    The signal that came is in `caught`; the caller delivers it again when everything is closed. A second signal takes
    effect at once. It comes after the other callbacks, and replaces Lightning's handler, which ends with exit code 0.
    """

    def __init__(self, recorder: Recorder, keeper: Keeper) -> None:
        self.recorder, self.keeper = recorder, keeper
        self.caught: int | None = None
        self._saves = False  # at the end of this step, as all processes agree
        # as they were before the trainer put its own handlers there
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take SIGTERM and SIGINT over, after Lightning did; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in self._before:
                signal.signal(number, self._catch)

    def release(self) -> None:
        """Give the signals back to who had them."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _catch(self, number: int, _frame: object) -> None:
        if self.caught is not None:
            self.release()
            signal.raise_signal(number)
        self.caught = number

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """At the end of a step: has one of the processes been asked to stop, or is it time to save?"""
        within = trainer.global_step % self.recorder.plan.steps_per_epoch
        if trainer.world_size > 1 and within and trainer.global_step % AGREE:
            return
        overdue = self.keeper.age >= (SAVE_WITHIN if within else SAVE_SECONDS)
        place = pl_module.device if trainer.world_size > 1 else "cpu"  # alone, nothing waits for the device
        caught, overdue = maximum(torch.tensor([self.caught or 0, overdue], device=place)).tolist()
        self.caught, self._saves = self.caught or caught or None, bool(caught or overdue)  # one may just have come
        if caught:
            trainer.should_stop = True
        if within and self._saves:
            self.recorder.flush(trainer, pl_module, {})
            self.keeper.save(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A whole epoch is recorded, and saved when it is time to or the last; a stopped one was saved within."""
        if trainer.global_step % self.recorder.plan.steps_per_epoch == 0:
            self.recorder.end_epoch(trainer, pl_module)
            if self._saves or self.keeper.stays(trainer.global_step):
                self.keeper.save(trainer, pl_module)


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
