"""Runs of many modules side by side: which thread trains which, and what is told of them."""

import collections
import contextlib
import functools
import itertools
import queue
import threading
import time
from collections.abc import Callable

from ..common.progress import progress_bar
from ..common.threads import set_own_threads
from ..errors import SeamFastError, TrainingError
from ..modules.seam_module import SeamModule
from ..training.devices import WorkerDevice, is_out_of_memory
from .cohort import Cohort
from .cuda_cohort import LaunchedCohort
from .module_run import ModuleRun
from .workers import IN_STEP, workers_for

OnEpoch = Callable[[ModuleRun, dict], None]
OnModule = Callable[[ModuleRun, SeamModule], None]
FEW_IN_STEP = 4  # where `threads` are given, a worker more for each so many
BETWEEN_SHOWS = 0.05  # seconds between two looks at all runs for the bar; while it is drawn no worker can go on


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during ``reengineer``; ``modules`` holds each target's best so far (None where no epoch had ended)."""

    def __init__(self, modules: list[SeamModule | None]):
        super().__init__("interrupted; the best modules so far are in .modules")
        self.modules = modules


def run_all(
    runs: list[ModuleRun],
    threads: int | None,
    progress: bool,
    on_epoch: OnEpoch | None,
    on_module: OnModule | None = None,
) -> None:
    """Trains all modules on worker threads, longest first, one torch thread each; raises the error of the first run
    that failed.

    Callbacks and the progress bar stay in the calling thread. Ctrl-C, and an exception in a callback, let each run end
    the steps that it has begun, at most 64 on the CPU and a launch on a GPU; Ctrl-C raises Interrupted.
    """
    workers = workers_for(runs, threads)
    if threads is not None and runs and runs[0].in_step and not runs[0].launched:
        workers = workers[: -(-threads // FEW_IN_STEP)]
    units = units_of(runs, workers, threads)
    room = Room(workers) if any(len(unit) > 1 and unit[0].launched for unit in units) else None
    workers = workers[: max(1, len(units))]
    waiting: queue.SimpleQueue[list[ModuleRun]] = queue.SimpleQueue()
    for unit in units:
        waiting.put(unit)
    reports: queue.SimpleQueue = queue.SimpleQueue()  # (run, figures), (run, None): it is ready, None: a worker left
    stop, errors = threading.Event(), {}

    def tell(run, figures):
        if on_epoch or figures is None:  # else nobody wants to hear of it, and this thread would be woken in vain
            reports.put((run, figures))

    def fail(run, error):
        # In its stead, for its traceback would keep the trainer, and so the memory that the others lack.
        errors[run] = out_of_memory(run, worker_of[run], workers) if is_out_of_memory(error) else error
        run.rescue()
        run.ended = True

    worker_of = {}

    def work(worker):
        set_own_threads(1)  # a module is too small to share; a core each is what pays
        while not stop.is_set():
            try:
                unit = waiting.get_nowait()
            except queue.Empty:
                return
            if room and not room.take(worker, unit, stop):
                return
            worker_of.update(dict.fromkeys(unit, worker))
            try:
                with worker.entered():
                    if not (unit[0].in_step and run_in_step(unit, stop, tell, fail, worker)):
                        for run in unit:
                            run.train(stop, tell, worker)
            except BaseException as error:  # the other modules go on
                if halves := split_for_memory(unit, error):
                    for half in halves:
                        waiting.put(half)
                    continue
                for run in unit:
                    if not run.ended:
                        fail(run, error)
            finally:
                if room:
                    room.give_back(worker, unit)
            for run in unit:
                run.ended = True
                if run.finished and not run.cut_short and run not in errors:
                    tell(run, None)

    def work_and_say_so(worker):
        try:
            work(worker)
        finally:
            reports.put(None)

    def show(bar):
        bar.total = sum(run.steps_done if run.ended else run.steps for run in runs)  # less where some stopped early
        bar.set_postfix_str(f"{sum(run.ended for run in runs)}/{len(runs)} modules", refresh=False)
        bar.update(sum(run.steps_done for run in runs) - bar.n)

    started: list[threading.Thread] = []
    due = time.monotonic()  # when the bar is shown again
    bar = progress_bar(sum(run.steps for run in runs), "re-engineering") if progress else None
    try:
        start_threads(started, work_and_say_so, workers)
        count = len(started)
        while count:
            try:
                report = reports.get(timeout=0.1)
            except queue.Empty:
                pass
            else:
                if report is None:
                    count -= 1
                elif report[1] is not None:
                    if on_epoch:
                        on_epoch(*report)
                elif on_module:
                    on_module(report[0], report[0].module())
            if bar is not None and (time.monotonic() >= due or not count):
                show(bar)
                due = time.monotonic() + BETWEEN_SHOWS
    except BaseException as error:
        end(started, stop)
        modules = [run.module() if run.has_module else None for run in runs]
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(modules) from None
        with contextlib.suppress(AttributeError):  # of a class that takes none
            error.modules = modules
        raise
    finally:
        end(started, stop)
        if bar is not None:
            bar.close()
    for run in runs:
        if run in errors:
            error = errors[run]
            if isinstance(error, Exception) and not isinstance(error, SeamFastError):
                error = RuntimeError(f"target {run.name} failed")
                error.__cause__ = errors[run]
            error.modules = [other.module() if other.has_module else None for other in runs]
            raise error


def start_threads(
    started: list[threading.Thread], work: Callable[[WorkerDevice], None], workers: list[WorkerDevice]
) -> None:
    """Adds a running thread for each worker, or for as many as can be started. Raises TrainingError where none can."""
    for worker in workers:
        thread = threading.Thread(target=work, args=(worker,), daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not started:
                raise TrainingError(f"no thread to train in can be started: {error}; allow more threads") from None
            return
        started.append(thread)


def end(started: list[threading.Thread], stop: threading.Event) -> None:
    """Lets the threads end what they have begun."""
    stop.set()
    for thread in started:
        thread.join()


class Room:
    """Room for as many modules on each device as it has workers, whoever trains how many of them together."""

    def __init__(self, workers: list[WorkerDevice]):
        self._free = collections.Counter(worker.device for worker in workers)
        self._changed = threading.Condition()

    def take(self, worker: WorkerDevice, unit: list[ModuleRun], stop: threading.Event) -> bool:
        """Waits until there is room for a unit; False once ``stop`` is set."""
        with self._changed:
            while self._free[worker.device] < len(unit):
                if stop.is_set():
                    return False
                self._changed.wait(0.1)
            self._free[worker.device] -= len(unit)
        return True

    def give_back(self, worker: WorkerDevice, unit: list[ModuleRun]) -> None:
        with self._changed:
            self._free[worker.device] += len(unit)
            self._changed.notify_all()


def units_of(runs: list[ModuleRun], workers: list[WorkerDevice], threads: int | None) -> list[list[ModuleRun]]:
    """The runs that a worker takes at a time, longest first: one, or those of equally many steps an epoch in step.

    At most IN_STEP and, by all workers, ``threads``; and not all of them in one, so that one worker's modules are
    trained while another looks at its own. Of those whose steps share launches two units at least for each device, and
    each finds room beside another.
    """
    limits = [IN_STEP, *(worker.modules for worker in workers if worker.modules is not None)]
    together = max(1, min(limits if threads is None else [*limits, threads // len(workers)]))
    on_each = collections.Counter(worker.device for worker in workers)
    alike: dict = {}
    for run in runs:
        alike.setdefault((run.epoch_steps, run.context.settings.batch_size) if run.in_step else run, []).append(run)
    units = []
    for group in alike.values():
        group.sort(key=lambda run: -run.steps)
        size, least = together, 2
        if group[0].launched:
            size, least = min(together, max(1, min(on_each.values()) // 2)), 2 * len(on_each)
        size = min(size, -(-len(group) // least))
        count = -(-len(group) // size)
        bounds = [len(group) * number // count for number in range(count + 1)]
        units += [group[begin:end] for begin, end in itertools.pairwise(bounds)]
    return sorted(units, key=lambda unit: -max(run.steps for run in unit))


def run_in_step(runs: list[ModuleRun], stop: threading.Event, report, fail, worker: WorkerDevice) -> bool:
    """Trains modules together as ``ModuleRun.train`` would each of them; fail(run, error) is told of those that end in
    an error of their own. False, with nothing done, where their trainers are not made for it.
    """
    for run in runs:
        run.begin(worker)
    if not (cohort := cohort_of(runs, worker)):
        return False
    lanes, longest = dict(zip(runs, cohort.lanes, strict=True)), max(run.epochs for run in runs)
    rows = dict(zip(runs, range(len(runs)), strict=True))
    running = [run for run in runs if run.epochs]
    drawn = cohort.draw(0) if longest else {}
    for epoch in range(longest):
        if stop.is_set() or not running:
            break
        for run in running:
            run.trainer.scale_learning_rates(run.context.settings.lr_scale(epoch, run.epochs))
        evaluates = any(run.evaluates(epoch) for run in running)
        wait = cohort.run_epoch(epoch, drawn, evaluates)
        drawn = cohort.draw(epoch + 1) if epoch + 1 < longest else {}  # while the device works
        told = wait()
        if stop.is_set():
            break
        for run in list(running):
            try:
                with run.naming(epoch):
                    found = lanes[run].read(told[rows[run]], evaluates)
                outputs = functools.partial(getattr, found, "logits")
                if run.end_epoch(epoch, found.loss, found.kept, outputs, found.snapshot, report, found.figures):
                    continue
                lanes[run].alive = False
                run.finish()
                run.ended = True
            except TrainingError as error:
                lanes[run].alive = False
                fail(run, error)
            running.remove(run)
    for run in runs:
        if not run.ended:
            run.cut_short = run in running and stop.is_set()
            run.finish()
    return True


def cohort_of(runs: list[ModuleRun], worker: WorkerDevice):
    """Runs that have begun, as a cohort; None where there is nothing to be gained."""
    if all(run.launched and hasattr(run.trainer, "queued") for run in runs):
        return LaunchedCohort([run.lane() for run in runs]) if len(runs) > 1 else None
    if all(hasattr(run.trainer, "feed_of") for run in runs):
        return Cohort([run.lane() for run in runs], worker.branches)
    return None


def split_for_memory(unit: list[ModuleRun], error: BaseException) -> list[list[ModuleRun]]:
    """Two smaller units for another try where a GPU had no memory for all of these at once, and nothing is lost."""
    if len(unit) == 1 or not is_out_of_memory(error) or any(run.history or run.ended for run in unit):
        return []
    for run in unit:
        run.release()
    return [unit[: len(unit) // 2], unit[len(unit) // 2 :]]


def out_of_memory(run: ModuleRun, worker: WorkerDevice, workers: list[WorkerDevice]) -> TrainingError:
    """What is said of a run for which its GPU had no memory left."""
    beside = sum(other.device == worker.device for other in workers)
    modules = "one module was" if beside == 1 else f"up to {beside} modules were"
    todo = "choose a smaller batch_size (--batch-size) or backend 'cpu' (--backend cpu)"
    if len(workers) > 1:
        todo = f"give fewer threads (--threads) than the {len(workers)} of this run"
    return TrainingError(
        f"target {run.name}: no memory was left on {worker.device}, where {modules} trained at once; {todo}"
    )
