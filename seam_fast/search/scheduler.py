"""Many module runs side by side: which thread trains which of them, and how the calling thread learns of it."""

import collections
import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..common.progress import progress_bar
from ..common.threads import set_own_threads
from ..errors import SeamFastError, TrainingError
from ..modules.pareto import Figures
from ..modules.seam_module import SeamModule
from ..training.cuda_graph_trainer import CudaGraphTrainer
from ..training.cuda_trainer import CudaTrainer
from ..training.devices import WorkerDevice
from ..training.gpu_memory import is_out_of_memory
from .cohort import Cohort
from .cuda_cohort import LaunchedCohort
from .module_run import ModuleRun
from .sampling import Address
from .workers import IN_STEP, workers_for

OnEpoch = Callable[[ModuleRun, Figures], None]
OnModule = Callable[[ModuleRun, SeamModule], None]
FEW_IN_STEP = 4  # where `threads` is given and modules are trained in step: modules to a worker
BETWEEN_SHOWS = 0.05  # seconds between two updates of the bar; while it is drawn it holds Python's lock


class Lanes(Protocol):
    """Modules trained in step, such as ``cohort.Cohort`` or ``cuda_cohort.LaunchedCohort``."""

    @property
    def lanes(self) -> Sequence[Any]: ...

    def draw(self, epoch: int) -> dict[Address, Any]: ...

    def run_epoch(self, epoch: int, drawn: dict[Address, Any], evaluates: bool) -> Callable[[], list[Any]]: ...


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during ``reengineer``.

    Attributes:
        modules: The best module so far of each target, or None where no epoch had ended.
    """

    def __init__(self, modules: list[SeamModule | None]) -> None:
        super().__init__("interrupted; the best modules so far are in .modules")
        self.modules = modules


def run_all(
    runs: list[ModuleRun],
    threads: int | None,
    progress: bool,
    on_epoch: OnEpoch | None,
    on_module: OnModule | None = None,
) -> None:
    """Trains all modules on worker threads, longest first, with one torch thread each.

    Callbacks and the progress bar run in the calling thread. After Ctrl-C or an exception in a callback, each run
    still takes the steps that it has begun: at most 64 on the CPU, or a launch on a GPU.

    Args:
        runs: What to train.
        threads: At most how many modules are trained at the same time; None: no limit.
        progress: Whether to show progress on standard error.
        on_epoch: See ``reengineer``.
        on_module: See ``reengineer``.

    Raises:
        Interrupted: Ctrl-C.
        Exception: The error of the first run that failed, once all others have ended; or that of a callback.
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
    # From workers to the calling thread: (run, figures) after an epoch, (run, None) when a module is ready, and None
    # when a worker has ended.
    reports: queue.SimpleQueue[tuple[ModuleRun, Figures | None] | None] = queue.SimpleQueue()
    stop = threading.Event()
    errors: dict[ModuleRun, BaseException] = {}
    worker_of: dict[ModuleRun, WorkerDevice] = {}

    def tell(run: ModuleRun, figures: Figures | None) -> None:
        if on_epoch or figures is None:  # else the report has no reader and would wake the calling thread for nothing
            reports.put((run, figures))

    def fail(run: ModuleRun, error: BaseException) -> None:
        # An error of missing memory is replaced, because its traceback would keep the trainer alive and so the memory
        # that other modules need.
        errors[run] = out_of_memory(run, worker_of[run], workers) if is_out_of_memory(error) else error
        run.rescue()
        run.ended = True

    def work(worker: WorkerDevice) -> None:
        set_own_threads(1)  # a module is too small to be split; one core for each module is fastest
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

    def work_and_report_end(worker: WorkerDevice) -> None:
        try:
            work(worker)
        finally:
            reports.put(None)

    def show(bar: Any) -> None:
        # Runs that stopped early have fewer steps than they were to have.
        bar.total = sum(run.steps_done if run.ended else run.steps for run in runs)
        bar.set_postfix_str(f"{sum(run.ended for run in runs)}/{len(runs)} modules", refresh=False)
        bar.update(sum(run.steps_done for run in runs) - bar.n)

    started: list[threading.Thread] = []
    next_show = time.monotonic()
    bar = progress_bar(sum(run.steps for run in runs), "re-engineering") if progress else None
    try:
        start_threads(started, work_and_report_end, workers)
        count = len(started)
        while count:
            try:
                report = reports.get(timeout=0.1)
            except queue.Empty:
                pass
            else:
                if report is None:
                    count -= 1
                else:
                    run, figures = report
                    if figures is None:
                        if on_module:
                            on_module(run, run.module())
                    elif on_epoch:
                        on_epoch(run, figures)
            if bar is not None and (time.monotonic() >= next_show or not count):
                show(bar)
                next_show = time.monotonic() + BETWEEN_SHOWS
    except BaseException as error:
        end(started, stop)
        modules = [run.module() if run.has_module else None for run in runs]
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(modules) from None
        attach_modules(error, modules)
        raise
    finally:
        end(started, stop)
        if bar is not None:
            bar.close()
    for run in runs:
        if run in errors:
            failure = errors[run]
            if isinstance(failure, Exception) and not isinstance(failure, SeamFastError):
                failure = RuntimeError(f"target {run.name} failed")
                failure.__cause__ = errors[run]
            attach_modules(failure, [other.module() if other.has_module else None for other in runs])
            raise failure


def attach_modules(error: BaseException, modules: list[SeamModule | None]) -> None:
    """Sets ``error.modules``, unless the exception's class does not allow attributes."""
    with contextlib.suppress(AttributeError):
        setattr(error, "modules", modules)  # noqa: B010  # exceptions of any class have it here


def start_threads(
    started: list[threading.Thread], work: Callable[[WorkerDevice], None], workers: list[WorkerDevice]
) -> None:
    """Starts a thread for each worker, or for as many as the system allows, and adds them to ``started``.

    Raises:
        TrainingError: Not one thread can be started.
    """
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
    """Sets ``stop`` and waits for the threads."""
    stop.set()
    for thread in started:
        thread.join()


class Room:
    """Limits the modules on each device to the number of its workers, however many of them each worker trains in step.

    Args:
        workers: All workers.
    """

    def __init__(self, workers: list[WorkerDevice]) -> None:
        self._free = collections.Counter(worker.device for worker in workers)
        self._changed = threading.Condition()

    def take(self, worker: WorkerDevice, unit: list[ModuleRun], stop: threading.Event) -> bool:
        """Waits until a worker's device has room for a unit, and takes it; returns False once ``stop`` is set."""
        with self._changed:
            while self._free[worker.device] < len(unit):
                if stop.is_set():
                    return False
                self._changed.wait(0.1)
            self._free[worker.device] -= len(unit)
        return True

    def give_back(self, worker: WorkerDevice, unit: list[ModuleRun]) -> None:
        """Gives back what ``take`` took."""
        with self._changed:
            self._free[worker.device] += len(unit)
            self._changed.notify_all()


def units_of(runs: list[ModuleRun], workers: list[WorkerDevice], threads: int | None) -> list[list[ModuleRun]]:
    """Divides runs into units, each of which one worker trains: single runs, or runs with equally many steps an epoch
    that are trained in step.

    A unit has at most IN_STEP runs, and all workers together train at most ``threads``. There is more than one unit, so
    that one worker's modules are trained while another worker evaluates its own. Of runs that share launches there are
    at least two units for each device, small enough for two to have room at the same time.

    Args:
        runs: All runs.
        workers: All workers.
        threads: At most how many modules are trained at the same time; None: no limit.

    Returns:
        The units, longest first.
    """
    limits = [IN_STEP, *(worker.modules for worker in workers if worker.modules is not None)]
    together = max(1, min(limits if threads is None else [*limits, threads // len(workers)]))
    on_each = collections.Counter(worker.device for worker in workers)
    alike: dict[Any, list[ModuleRun]] = {}
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


def run_in_step(
    runs: list[ModuleRun],
    stop: threading.Event,
    report: Callable[[ModuleRun, Figures], None],
    fail: Callable[[ModuleRun, BaseException], None],
    worker: WorkerDevice,
) -> bool:
    """Trains modules in step, with the results that ``ModuleRun.train`` has for each of them.

    Args:
        runs: The modules, with equally many steps an epoch.
        stop: Ends the runs between two epochs.
        report: Called as ``report(run, figures)`` after each epoch of each module.
        fail: Called as ``fail(run, error)`` for a module that ends in an error of its own.
        worker: Where to train; the calling thread has entered it.

    Returns:
        False, with nothing trained, where these modules cannot be trained in step or gain nothing by it.
    """
    for run in runs:
        run.begin(worker)
    cohort = cohort_of(runs, worker)
    if cohort is None:
        return False
    lanes, longest = dict(zip(runs, cohort.lanes, strict=True)), max(run.epochs for run in runs)
    index_of = dict(zip(runs, range(len(runs)), strict=True))
    running = [run for run in runs if run.epochs]
    drawn = cohort.draw(0) if longest else {}
    for epoch in range(longest):
        if stop.is_set() or not running:
            break
        for run in running:
            run.begin(worker).scale_learning_rates(run.context.settings.lr_scale(epoch, run.epochs))
        evaluates = any(run.evaluates_in_training(epoch) for run in running)
        wait = cohort.run_epoch(epoch, drawn, evaluates)
        drawn = cohort.draw(epoch + 1) if epoch + 1 < longest else {}  # while the device works
        results = wait()
        if stop.is_set():
            break
        for run in list(running):
            try:
                with run.naming(epoch):
                    loss, evaluation = lanes[run].read(results[index_of[run]], evaluates)
                if run.end_epoch(epoch, loss, evaluation, report):
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
            if run in running and stop.is_set():
                run.cut_off()
            run.finish()
    return True


def cohort_of(runs: list[ModuleRun], worker: WorkerDevice) -> Lanes | None:
    """A cohort of runs that have begun; None where their trainers are not made for it or nothing is gained."""
    if all(run.launched and isinstance(run.trainer, CudaTrainer) for run in runs):
        return LaunchedCohort([run.launched_lane() for run in runs]) if len(runs) > 1 else None
    if all(isinstance(run.trainer, CudaGraphTrainer) for run in runs):
        return Cohort([run.lane() for run in runs], worker.branches)
    return None


def split_for_memory(unit: list[ModuleRun], error: BaseException) -> list[list[ModuleRun]]:
    """Two smaller units to try again with, where a GPU had no memory for a unit and no epoch of it had ended; else
    none.
    """
    if len(unit) == 1 or not is_out_of_memory(error) or any(run.history or run.ended for run in unit):
        return []
    for run in unit:
        run.release()
    return [unit[: len(unit) // 2], unit[len(unit) // 2 :]]


def out_of_memory(run: ModuleRun, worker: WorkerDevice, workers: list[WorkerDevice]) -> TrainingError:
    """The error of a run for which its GPU had no memory left."""
    beside = sum(other.device == worker.device for other in workers)
    modules = "one module was" if beside == 1 else f"up to {beside} modules were"
    todo = "choose a smaller batch_size (--batch-size) or backend 'cpu' (--backend cpu)"
    if len(workers) > 1:
        todo = f"give fewer threads (--threads) than the {len(workers)} of this run"
    return TrainingError(
        f"target {run.name}: no memory was left on {worker.device}, where {modules} trained at once; {todo}"
    )
